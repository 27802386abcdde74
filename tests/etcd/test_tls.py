"""TLS and mutual TLS with real servers that ask for certificates; unix sockets."""

from __future__ import annotations

import json
import logging
import re
import ssl
import urllib.request
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme

from tests.support.helpers import LIMIT, take
from tests.support.names import Resolver
from trio_etcd_watch import Channel, open_watcher
from trio_etcd_watch.testing import Etcd, open_etcd


class Certificates:
    """A CA, a certificate of the server and one of a client."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.client = self.ca.issue_cert("client@example.org", common_name="root")
        server = self.ca.issue_cert("127.0.0.1", "::1", "localhost")
        self.ca.cert_pem.write_to_path(folder / "ca.pem")
        server.private_key_pem.write_to_path(folder / "key.pem")
        for blob in server.cert_chain_pems:
            blob.write_to_path(folder / "cert.pem", append=True)
        self.arguments = [
            f"--cert-file={folder / 'cert.pem'}",
            f"--key-file={folder / 'key.pem'}",
            f"--trusted-ca-file={folder / 'ca.pem'}",
            "--client-cert-auth",
        ]

    def context(self, *, trust: bool = True, client: bool = True) -> ssl.SSLContext:
        """Return a client's context; without `client` it has no client certificate."""
        context = ssl.create_default_context()
        if trust:
            self.ca.configure_trust(context)
        if client:
            self.client.configure_cert(context)
        return context


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@asynccontextmanager
async def open_secure(certificates: Certificates, binary: str) -> AsyncGenerator[Etcd]:
    async with open_etcd(
        binary=binary, args=certificates.arguments, ssl_context=certificates.context()
    ) as etcd:
        yield etcd


async def test_mutual_tls(certificates: Certificates, etcd_binary: str) -> None:
    async with open_secure(certificates, etcd_binary) as etcd:
        for endpoint in (etcd.endpoint, f"https://{etcd.endpoint}"):
            channel = Channel(endpoint, ssl_context=certificates.context())
            async with open_watcher(channel) as watcher, watcher.watch("a") as watch:
                await etcd.put("a", "1")
                assert len(await take(watch, 1)) == 1
        async with open_watcher(channel) as watcher, watcher.watch("a") as watch:
            await etcd.restart()
            await etcd.put("a", "2")
            assert [e.kv.value for e in await take(watch, 1)] == [b"2"]


async def test_a_context_that_others_use_too(
    certificates: Certificates, etcd_binary: str
) -> None:
    async with open_secure(certificates, etcd_binary) as etcd:
        context = certificates.context()

        def version() -> object:
            # When a client offers h2, this port of etcd's does not accept HTTP/1.
            url = f"https://{etcd.endpoint}/version"
            with urllib.request.urlopen(url, context=context) as answer:
                # The cluster's own version is unknown for a while.
                return json.load(answer)["etcdserver"]

        before = await trio.to_thread.run_sync(version)
        channel = Channel(f"https://{etcd.endpoint}", ssl_context=context)
        async with open_watcher(channel) as watcher, watcher.watch("a") as watch:
            assert await trio.to_thread.run_sync(version) == before
            await etcd.put("a", "1")
            assert len(await take(watch, 1)) == 1
        assert await trio.to_thread.run_sync(version) == before


async def test_a_full_name(certificates: Certificates, etcd_binary: str) -> None:
    async with open_secure(certificates, etcd_binary) as etcd:
        port = etcd.endpoint.partition(":")[2]
        Resolver("127.0.0.1", name="localhost.").use()
        channel = Channel(
            f"HTTPS://localhost.:{port}", ssl_context=certificates.context()
        )
        async with open_watcher(channel) as watcher:
            with trio.fail_after(LIMIT):
                async with watcher.watch("a") as watch:
                    await etcd.put("a", "1")
                    assert len(await take(watch, 1)) == 1


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        ("untrusting", "certificate verify failed"),
        ("default", "certificate verify failed"),
        # The server ends it; with TLS 1.3 that is seen after the handshake.
        ("without a certificate", "alert|broken|certificate required|closed"),
    ],
)
async def test_a_certificate_that_does_not_fit_never_connects(
    certificates: Certificates,
    etcd_binary: str,
    caplog: pytest.LogCaptureFixture,
    context: str,
    reason: str,
) -> None:
    contexts = {
        "untrusting": certificates.context(trust=False),
        "default": None,
        "without a certificate": certificates.context(client=False),
    }
    caplog.set_level(logging.WARNING, "trio_etcd_watch")
    async with open_secure(certificates, etcd_binary) as etcd:
        channel = Channel(f"https://{etcd.endpoint}", ssl_context=contexts[context])
        async with open_watcher(channel) as watcher:
            with trio.move_on_after(1) as scope:
                async with watcher.watch("a"):
                    pytest.fail("connected")
            assert scope.cancelled_caught
            assert watcher.statistics().connections_made == 0
            assert watcher.statistics().last_loss
    assert caplog.records
    assert re.search(reason, caplog.text)


async def test_plain_text_to_a_tls_server(
    certificates: Certificates, etcd_binary: str
) -> None:
    async with open_secure(certificates, etcd_binary) as etcd:
        async with open_watcher(etcd.endpoint) as watcher:
            with trio.move_on_after(1) as scope:
                async with watcher.watch("a"):
                    pytest.fail("connected")
            assert scope.cancelled_caught
            assert watcher.statistics().connections_made == 0
            assert "for TLS say https://" in str(watcher.statistics().last_loss)


async def test_tls_to_a_plain_text_server(etcd: Etcd) -> None:
    async with open_watcher(f"https://{etcd.endpoint}") as watcher:
        with trio.move_on_after(1) as scope:
            async with watcher.watch("a"):
                pytest.fail("connected")
        assert scope.cancelled_caught
        assert watcher.statistics().connections_made == 0


@pytest.mark.parametrize("family", ["unix", "ipv6"])
async def test_other_sockets(etcd: Etcd, tmp_path: Path, family: str) -> None:
    # Needs a relay: etcd itself accepts only one unusual form of unix socket path.
    if family == "unix":
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(tmp_path / "etcd.sock"))
        endpoint = f"unix://{tmp_path / 'etcd.sock'}"
    else:
        sock = trio.socket.socket(trio.socket.AF_INET6)
        await sock.bind(("::1", 0))
        endpoint = f"[::1]:{sock.getsockname()[1]}"
    sock.listen()
    host, port = etcd.endpoint.split(":")

    async def relay(client: trio.SocketStream) -> None:
        async with client, await trio.open_tcp_stream(host, int(port)) as server:
            async with trio.open_nursery() as pumps:
                pumps.start_soon(pump, client, server, pumps.cancel_scope)
                pumps.start_soon(pump, server, client, pumps.cancel_scope)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay, [trio.SocketListener(sock)])
        async with open_watcher(endpoint) as watcher:
            with trio.fail_after(LIMIT):
                async with watcher.watch("a") as watch:
                    await etcd.put("a", "1")
                    assert len(await take(watch, 1)) == 1
        nursery.cancel_scope.cancel()


async def pump(
    source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
) -> None:
    try:
        async for data in source:
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the other side has closed
    scope.cancel()
