"""Clusters that are found by DNS, with a real name server and real etcds."""

from __future__ import annotations

import contextlib
import random
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import dns.rcode
import pytest
import trio
import trustme

from tests.support.auth import READER, Guarded
from tests.support.helpers import LIMIT, eventually, split, take
from tests.support.names import Hosts
from tests.support.nameserver import PLAIN, TLS, open_nameserver
from tests.support.peer import serve_listeners
from tests.support.proxy import open_proxy
from trio_etcd_watch import Channel, Watcher, open_watcher
from trio_etcd_watch.testing import Etcd, open_cluster, open_etcd

NAME = "etcd+srv://example.com"


async def test_found_by_plain_records(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = etcd.endpoint.partition(":")[2]
    Hosts(**{"m0.example.com": "127.0.0.1"}).use()
    async with open_nameserver(monkeypatch) as server:
        server.records[PLAIN] = [f"0 0 {port} m0.example.com."]
        with trio.fail_after(LIMIT):
            async with open_watcher(NAME) as watcher:
                async with watcher.watch("a") as watch:
                    await etcd.put("a", "1")
                    assert len(await take(watch, 1)) == 1
                [endpoint] = watcher.statistics().endpoints
    assert endpoint.endpoint == f"m0.example.com:{port}"
    assert (endpoint.source, endpoint.in_use) == ("srv", True)


async def test_targets_of_ipv6(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    async def relay(stream: trio.SocketStream) -> None:
        other = await trio.open_tcp_stream(*split(etcd.endpoint))

        async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                async for data in source:
                    await sink.send_all(data)
            nursery.cancel_scope.cancel(reason="one side has closed")

        async with other, trio.open_nursery() as nursery:
            nursery.start_soon(pump, stream, other)
            nursery.start_soon(pump, other, stream)

    try:
        [listener] = await trio.open_tcp_listeners(0, host="::1")
    except OSError:
        pytest.skip("this system has no IPv6")
    Hosts(**{"m0.example.com": "::1"}).use()
    async with (
        serve_listeners([(relay, listener)]),
        open_nameserver(monkeypatch) as server,
    ):
        port = listener.socket.getsockname()[1]
        server.records[PLAIN] = [f"0 0 {port} m0.example.com."]
        with trio.fail_after(LIMIT):
            async with open_watcher(NAME) as watcher, watcher.watch("a") as watch:
                await etcd.put("a", "1")
                assert len(await take(watch, 1)) == 1


@asynccontextmanager
async def open_secure(
    folder: Path, binary: str, *names: str
) -> AsyncGenerator[tuple[Guarded, ssl.SSLContext]]:
    """Open an etcd with TLS and auth, whose certificate has these names."""
    ca = trustme.CA()
    server = ca.issue_cert("127.0.0.1", *names)
    server.private_key_pem.write_to_path(folder / "key.pem")
    server.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    args = [
        f"--cert-file={folder / 'cert.pem'}",
        f"--key-file={folder / 'key.pem'}",
        "--bcrypt-cost=4",
    ]
    context = ssl.create_default_context()
    ca.configure_trust(context)
    async with open_etcd(binary=binary, args=args, ssl_context=context) as etcd:
        guarded = Guarded(etcd)
        await guarded.set_up()
        yield guarded, context


async def loss_of(watcher: Watcher) -> str:
    """Return the reported loss while a watch cannot be opened."""

    async def is_lost() -> bool:
        return watcher.statistics().last_loss is not None

    async def wait() -> None:
        async with watcher.watch("r"):
            pytest.fail("entered")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await eventually(is_lost)
        nursery.cancel_scope.cancel(reason="it is known")
    return str(watcher.statistics().last_loss)


@pytest.mark.parametrize("given", ["domain", "server_name"])
async def test_tls_and_auth(
    etcd_binary: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The certificate does not have the name of the target.
    certified = "example.com" if given == "domain" else "etcd.example.net"
    name = NAME if given == "domain" else f"{NAME}?server_name={certified}"
    async with (
        open_secure(tmp_path, etcd_binary, certified) as (guarded, context),
        open_nameserver(monkeypatch) as server,
    ):
        port = guarded.etcd.endpoint.partition(":")[2]
        Hosts(**{"m0.example.com": "127.0.0.1"}).use()
        server.records[TLS] = [f"0 0 {port} m0.example.com."]
        channel = Channel(name, ssl_context=context, credentials=READER)
        with trio.fail_after(LIMIT):
            async with open_watcher(channel) as watcher, watcher.watch("r") as watch:
                await guarded.put("r", "1")
                assert len(await take(watch, 1)) == 1


@pytest.mark.parametrize("target", ["m0.example.com", "evil.example.org"])
async def test_a_spoofed_target(
    etcd_binary: str,
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It has a certificate for its own name, from a trusted CA.
    async with (
        open_secure(tmp_path, etcd_binary, target) as (guarded, context),
        open_nameserver(monkeypatch) as server,
    ):
        port = guarded.etcd.endpoint.partition(":")[2]
        Hosts(**{target: "127.0.0.1"}).use()
        server.records[TLS] = [f"0 0 {port} {target}."]
        accepted = Channel(NAME, ssl_context=context, credentials=READER)
        async with open_watcher(accepted) as watcher:
            loss = await loss_of(watcher)
            assert "certificate verify failed" in loss
            assert "example.com" in loss
        # Without a CA from the user, no host outside the domain is even tried.
        async with open_watcher(Channel(NAME, credentials=READER)) as watcher:
            loss = await loss_of(watcher)
        if target == "evil.example.org":
            assert "evil.example.org is outside example.com" in loss
        else:
            assert "certificate verify failed" in loss


async def test_no_credentials_in_plaintext(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hosts(**{"m0.example.com": "127.0.0.1"}).use()
    async with (
        open_proxy(*split(etcd.endpoint)) as proxy,
        open_nameserver(monkeypatch) as server,
    ):
        port = proxy.endpoint.partition(":")[2]
        server.records[PLAIN] = [f"0 0 {port} m0.example.com."]
        async with open_watcher(Channel(NAME, credentials=READER)) as watcher:
            loss = await loss_of(watcher)
        assert "plaintext is not for this channel" in loss
        assert proxy.accepted == 0


@pytest.mark.parametrize("trouble", ["none", "servfail", "cut", "root"])
async def test_trouble_that_ends(
    etcd: Etcd, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = etcd.endpoint.partition(":")[2]
    Hosts(**{"m0.example.com": "127.0.0.1"}).use()
    async with (
        open_nameserver(monkeypatch) as server,
        open_watcher(NAME) as watcher,
    ):
        server.ttl = 0
        match trouble:
            case "servfail":
                server.rcodes[TLS] = dns.rcode.SERVFAIL
            case "cut":
                server.truncated = server.truncated_too = True
            case "root":
                server.records[TLS] = ["0 0 0 ."]
        loss = await loss_of(watcher)
        assert loss.startswith(f"{NAME}: ")
        reason = {
            "none": "DNS has no",
            "servfail": "SERVFAIL",
            "cut": "is truncated",
            "root": "no such service",
        }
        assert reason[trouble] in loss
        server.rcodes.clear()
        server.truncated = server.truncated_too = False
        server.records = {PLAIN: [f"0 0 {port} m0.example.com."]}
        with trio.fail_after(LIMIT):
            async with watcher.watch("a") as watch:
                await etcd.put("a", "1")
                assert len(await take(watch, 1)) == 1


async def test_records_change_while_a_watch_lives(
    etcd_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hosts(**{f"m{i}.example.com": "127.0.0.1" for i in range(3)}).use()
    async with (
        open_cluster(3, binary=etcd_binary) as cluster,
        open_nameserver(monkeypatch) as server,
    ):
        targets = [
            f"0 0 {member.endpoint.partition(':')[2]} m{i}.example.com."
            for i, member in enumerate(cluster.members)
        ]
        server.ttl = 0
        server.records[PLAIN] = targets[:1]
        revisions = []
        with trio.fail_after(2 * LIMIT):
            async with open_watcher(NAME) as watcher, watcher.watch("a") as watch:
                revisions.append(await cluster.members[1].put("a", "1"))
                server.records[PLAIN] = targets[1:]
                await cluster.members[0].kill()
                revisions.append(await put(cluster.members[1], "2"))
                assert [e.kv.mod_revision for e in await take(watch, 2)] == revisions
                known = [each.endpoint for each in watcher.statistics().endpoints]
                assert len(known) == 2
                assert not any(name.startswith("m0.") for name in known)


async def put(member: Etcd, value: str) -> int:
    revision = 0

    async def is_done() -> bool:
        nonlocal revision
        try:
            revision = await member.put("a", value)
        except (RuntimeError, OSError):
            return False  # there is no leader yet
        return True

    await eventually(is_done)
    return revision


async def test_dns_that_fails_later_costs_no_watch(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    random.seed(7)
    Hosts(**{"m0.example.com": "127.0.0.1"}).use()
    async with (
        open_proxy(*split(etcd.endpoint)) as proxy,
        open_nameserver(monkeypatch) as server,
    ):
        port = proxy.endpoint.partition(":")[2]
        server.records[PLAIN], server.ttl = [f"0 0 {port} m0.example.com."], 0
        with trio.fail_after(LIMIT):
            async with open_watcher(NAME) as watcher, watcher.watch("a") as watch:
                server.rcodes = dict.fromkeys((TLS, PLAIN), dns.rcode.SERVFAIL)
                for _ in range(3):
                    proxy.reset_all()
                    revision = await etcd.put("a", "1")
                    events = await take(watch, 1)
                    assert [e.kv.mod_revision for e in events] == [revision]
                assert "SERVFAIL" in str(watcher.statistics().last_loss)


async def test_lower_priorities_are_tried_first(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = etcd.endpoint.partition(":")[2]
    Hosts(**{"m0.example.com": "127.0.0.1"}).use()
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        dead = unused.getsockname()[1]
        async with open_nameserver(monkeypatch) as server:
            server.records[PLAIN] = [
                f"2 0 {port} m0.example.com.",
                f"1 0 {dead} m0.example.com.",
            ]
            with trio.fail_after(LIMIT):
                async with open_watcher(NAME) as watcher, watcher.watch("a"):
                    assert f":{dead}: " in str(watcher.statistics().last_loss)
                    [used] = [e for e in watcher.statistics().endpoints if e.in_use]
                    assert used.endpoint.endswith(f":{port}")
