"""TLS with an etcd that does not use it, and plaintext with one that does."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import pytest
import trio
import trustme

from tests.support.helpers import LIMIT, eventually
from trio_etcd_watch import open_watcher
from trio_etcd_watch.testing import open_etcd

pytestmark = pytest.mark.etcd


async def assert_hint(
    endpoint: str, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Check that a watch does not begin, and that the log says what to do."""
    caplog.set_level(logging.WARNING, "trio_etcd_watch")

    async def is_logged() -> bool:
        return hint in caplog.text

    async def watch() -> None:
        async with open_watcher(endpoint) as watcher, watcher.watch("a"):
            pytest.fail("connected")

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await eventually(is_logged)
            nursery.cancel_scope.cancel(reason="the test is over")


async def test_plaintext_to_a_server_with_tls(
    etcd_binary: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    server.private_key_pem.write_to_path(tmp_path / "key")
    for blob in server.cert_chain_pems:
        blob.write_to_path(tmp_path / "cert", append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    arguments = [f"--cert-file={tmp_path / 'cert'}", f"--key-file={tmp_path / 'key'}"]
    async with open_etcd(
        binary=etcd_binary, args=arguments, ssl_context=context
    ) as etcd:
        await assert_hint(etcd.endpoint, "for TLS say https://", caplog)


async def test_tls_to_a_server_without(
    etcd_binary: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        await assert_hint(
            f"https://{etcd.endpoint}", "without TLS, use http://", caplog
        )
