"""Channels of the real purerpc, in an environment of its own, because it needs h2 < 4.

These tests also show that h2 3.2 works, end to end.
"""

from __future__ import annotations

import importlib.util
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trustme

from tests.support.helpers import LIMIT
from trio_etcd_watch.testing import open_etcd

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/purerpc_channel.py"
ENVIRONMENT = ROOT / ".venv-purerpc/bin/python"

pytestmark = pytest.mark.etcd

IMPORTS = """
import importlib.metadata, sys
import trio_etcd_watch, trio_etcd_watch.testing
trio_etcd_watch.open_watcher("127.0.0.1:2379")
print("purerpc" in sys.modules, importlib.metadata.version("purerpc"))
import purerpc
print(trio_etcd_watch.open_watcher(purerpc.insecure_channel("127.0.0.1", 2379)))
"""


@pytest.fixture(scope="session")
def purerpc_python() -> str:
    """An interpreter with this package and purerpc."""
    if importlib.util.find_spec("purerpc"):
        return sys.executable
    if not ENVIRONMENT.exists():
        pytest.fail(f"{ENVIRONMENT} is not there: `make test` makes it")
    return str(ENVIRONMENT)


async def run(*command: str | Path) -> list[str]:
    """Run a program that ends by itself; return what it printed."""
    with trio.fail_after(LIMIT):
        done = await trio.run_process(
            command, capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
    output: str = done.stdout.decode()
    assert done.returncode == 0, output
    return output.splitlines()


async def test_purerpc_is_imported_by_the_user_alone(purerpc_python: str) -> None:
    first, watcher = await run(purerpc_python, "-c", IMPORTS)
    assert first.startswith("False 0.8.")
    assert "object at" in watcher  # a context manager: the channel was understood


async def test_channel(etcd_binary: str, purerpc_python: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        await etcd.put("color", "green")
        address = etcd.endpoint.split(":")
        lines = await run(purerpc_python, EXAMPLE, *address)
    assert lines == ["not entered: green", "entered: green"]


async def test_channel_with_tls(
    etcd_binary: str, purerpc_python: str, tmp_path: Path
) -> None:
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    cert, key, ca = (str(tmp_path / name) for name in ("cert", "key", "ca"))
    server.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    for blob in server.cert_chain_pems:
        blob.write_to_path(cert, append=True)
    context = ssl.create_default_context(cafile=ca)
    arguments = [f"--cert-file={cert}", f"--key-file={key}"]
    async with open_etcd(
        binary=etcd_binary, args=arguments, ssl_context=context
    ) as etcd:
        await etcd.put("color", "blue")
        address = etcd.endpoint.split(":")
        lines = await run(purerpc_python, EXAMPLE, *address, ca)
    assert lines == ["not entered: blue", "entered: blue"]
