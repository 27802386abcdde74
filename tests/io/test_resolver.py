"""Queries to a real name server on loopback."""

from __future__ import annotations

import logging

import dns.rcode
import dns.resolver
import pytest
import trio

from tests.support.nameserver import TLS, NameServer, open_nameserver
from trio_etcd_watch import _resolver
from trio_etcd_watch._grpc.status import StreamLost
from trio_etcd_watch._resolver import query_srv
from trio_etcd_watch._srv import NoRecords, Record

LIMIT = 10.0


async def ask(lifetime: float = LIMIT) -> tuple[list[Record], float]:
    with trio.fail_after(2 * LIMIT):
        return await query_srv(TLS, lifetime)


async def failure(lifetime: float = LIMIT) -> StreamLost:
    with pytest.raises(StreamLost) as info:
        await ask(lifetime)
    return info.value


async def test_records_and_their_ttl(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_nameserver(monkeypatch) as server:
        server.records[TLS] = ["1 2 3 M0.Example.com.", "4 5 6 ."]
        server.ttl = 77
        records, ttl = await ask()
    assert sorted(records, key=lambda each: each.port) == [
        Record(1, 2, 3, "m0.example.com"),
        Record(4, 5, 6, ""),
    ]
    assert ttl == 77.0
    assert server.asked == [TLS]


async def test_another_name_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_nameserver(monkeypatch) as server:
        server.cnames[TLS] = "other.example.com."
        server.records["other.example.com."] = ["1 2 3 m."]
        assert (await ask())[0] == [Record(1, 2, 3, "m")]


async def test_an_answer_that_is_cut_is_asked_for_by_tcp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_nameserver(monkeypatch) as server:
        server.records[TLS] = [f"0 0 1 m{i}.example.com." for i in range(300)]
        server.truncated = True
        assert len((await ask())[0]) == 300
        assert server.by_tcp == 1
        # An answer that is truncated over TCP as well cannot be used.
        server.truncated_too = True
        assert not isinstance(await failure(), NoRecords)
        # The same holds for a truncated answer that denies the name.
        server.rcodes[TLS] = dns.rcode.NXDOMAIN
        assert not isinstance(await failure(), NoRecords)


@pytest.mark.parametrize("exists", [False, True])
async def test_names_without_records(
    monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    async with open_nameserver(monkeypatch) as server:
        if exists:
            server.records[TLS] = []
        loss = await failure()
    assert isinstance(loss, NoRecords)
    assert str(loss) == f"DNS has no {TLS}"


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    ("soa", "alias", "ttl"),
    [
        ((300, 40), False, 40.0),
        ((30, 40), False, 30.0),
        # A result of two answers holds no longer than either.
        ((300, 400), True, 77.0),
        # RFC 2308 (5): a denial without SOA must not be cached.
        (None, False, 0.0),
        (None, True, 0.0),
    ],
)
async def test_for_how_long_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
    exists: bool,
    soa: tuple[int, int] | None,
    alias: bool,
    ttl: float,
) -> None:
    async with open_nameserver(monkeypatch) as server:
        server.soa, server.ttl = soa, 77
        if alias:
            server.cnames[TLS] = "other.example.com."
        if exists:
            server.records["other.example.com." if alias else TLS] = []
        loss = await failure()
    assert isinstance(loss, NoRecords)
    assert loss.ttl == ttl


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
async def test_a_server_that_fails(
    monkeypatch: pytest.MonkeyPatch, rcode: dns.rcode.Rcode
) -> None:
    async with open_nameserver(monkeypatch) as server:
        server.rcodes[TLS] = rcode
        loss = await failure()
    assert not isinstance(loss, NoRecords)
    assert dns.rcode.to_text(rcode) in str(loss)
    assert TLS in str(loss)


async def test_a_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_nameserver(monkeypatch) as server:
        server.silent = True
        loss = await failure(0.2)
        assert server.asked
    assert not isinstance(loss, NoRecords)


async def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.socket.socket() as bound:
        await bound.bind(("127.0.0.1", 0))
        silent = NameServer(bound.getsockname()[1])
        monkeypatch.setattr(_resolver, "make_resolver", silent.resolver)
        assert not isinstance(await failure(1.0), NoRecords)


@pytest.mark.parametrize(
    "error", [dns.resolver.NoResolverConfiguration, OSError, ValueError]
)
async def test_a_system_without_a_name_server(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(_resolver, "make_resolver", fail)
    assert not isinstance(await failure(), NoRecords)


async def test_cancelled_it_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_nameserver(monkeypatch) as server:
        server.silent = True
        with trio.move_on_after(0.1) as scope:
            await ask()
        assert scope.cancelled_caught  # an open socket would be a ResourceWarning
        server.silent, server.truncated = False, True
        server.records[TLS] = ["0 0 1 m."]
        assert len((await ask())[0]) == 1


def test_it_reads_the_systems_configuration() -> None:
    try:
        resolver = _resolver.make_resolver()
    except dns.resolver.NoResolverConfiguration:
        pytest.skip("this system has no name server")
    assert resolver.nameservers
