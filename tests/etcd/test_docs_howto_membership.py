"""The how-to page about changing members: its configuration of DNS."""

from __future__ import annotations

import re
import ssl
import sys
from pathlib import Path

import pytest
import trio
import trustme

from tests.support.cli import PROGRAM, open_command
from tests.support.helpers import LIMIT
from tests.support.howto import cli_command
from tests.support.nameserver import NameServer, open_nameserver
from tests.support.programs import blocks
from trio_etcd_watch.testing import open_etcd

PAGE = "howto/membership.md"


def serve_zone(server: NameServer, port: str) -> list[str]:
    """Serve the page's zone file; return the host names in it."""
    (zone,) = blocks(PAGE, "ini")
    records = [
        re.fullmatch(r"(\S+) \d+ IN SRV (\d+ \d+) 2379 (\S+)\.", line)
        for line in zone.splitlines()
        if not line.startswith(";")
    ]
    hosts = []
    for record in records:
        assert record is not None, zone
        name, order, host = record.groups()
        server.records.setdefault(name, []).append(f"{order} {port} {host}.")
        hosts.append(host)
    return hosts


def certified(folder: Path, *names: str) -> tuple[list[str], ssl.SSLContext]:
    """Return arguments of a server with a certificate for these names, and a client's
    context.

    The CA is in ca.pem.
    """
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    server = ca.issue_cert(*names)
    server.private_key_pem.write_to_path(folder / "key.pem")
    server.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    context = ssl.create_default_context()
    ca.configure_trust(context)
    args = [f"--cert-file={folder / 'cert.pem'}", f"--key-file={folder / 'key.pem'}"]
    return args, context


async def test_the_command_asks_dns(
    newest_binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the page's records; the certificate has the domain, and no target."""
    command = cli_command(PAGE)
    args, context = certified(tmp_path, "example.com", "127.0.0.1")
    async with (
        open_etcd(binary=newest_binary, args=args, ssl_context=context) as etcd,
        open_nameserver(monkeypatch) as server,
    ):
        hosts = serve_zone(server, etcd.endpoint.partition(":")[2])
        here = [sys.executable, "-m", "tests.support.asks_here"]
        where = [str(server.port), ",".join(hosts), *command[len(PROGRAM) :]]
        # The system trusts the CA.
        trusted = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        async with open_command([*here, *where], trusted, tmp_path) as program:
            with trio.fail_after(LIMIT):
                # It prints events from when its watch begins.
                while not program.output.endswith(b"PUT\n/config/limit\n5\n"):
                    await etcd.put("/config/limit", "5")
                    with trio.move_on_after(0.2):
                        await program.lines(program.output.count(b"\n") + 3)
        assert server.asked[0] in server.records
