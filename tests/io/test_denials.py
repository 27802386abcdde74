"""Lookups of names without records, and how long these answers are used."""

from __future__ import annotations

import dns.rcode
import pytest
from trio.testing import MockClock

from tests.support.lookups import open_lookups
from tests.support.nameserver import PLAIN, TLS
from trio_etcd_watch import Channel
from trio_etcd_watch._discovery import FAILURE_TTL, Discovery
from trio_etcd_watch._srv import NoRecords

GOOD = ["0 0 2379 m0.example.com."]


@pytest.fixture
def clock() -> MockClock:
    """The clock is frozen, while real sockets are served."""
    return MockClock()


@pytest.mark.parametrize(
    ("soa", "holds"), [((40, 300), 40.0), ((300, 40), 40.0), ((900, 900), 60.0)]
)
async def test_there_are_none_for_as_long_as_dns_says(
    soa: tuple[int, int],
    holds: float,
    clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_lookups(monkeypatch) as lookups:
        server = lookups.server
        server.soa = soa
        assert isinstance(await lookups.failure(), NoRecords)
        server.records[PLAIN] = GOOD
        clock.jump(holds - 0.1)
        assert isinstance(await lookups.failure(), NoRecords)
        assert server.asked == [TLS, PLAIN]
        clock.jump(0.2)
        assert await lookups.hosts() == ["m0.example.com"]
        assert server.asked == [TLS, PLAIN] * 2


async def test_there_are_none_of_either_kind_for_as_long_as_both_say(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ttls = {TLS: 20.0, PLAIN: 50.0}

    async def query(name: str, lifetime: float) -> None:
        asked.append(name)
        raise NoRecords(f"DNS has no {name}", ttls[name])

    monkeypatch.setattr("trio_etcd_watch._resolver.query_srv", query)
    channel = Channel("etcd+srv://example.com")
    for ttls[PLAIN] in (50.0, 10.0):
        asked: list[str] = []
        discovery = Discovery(channel)
        holds = min(ttls.values())
        for _ in range(2):
            for wait in (holds - 0.1, 0.2):
                with pytest.raises(NoRecords):
                    await discovery.look_up(channel._srv_names[0])
                clock.jump(wait)
        assert asked == [TLS, PLAIN] * 2


async def test_a_channel_that_wants_tls_believes_what_is_said_of_that(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lookups(monkeypatch, token="s3cret") as lookups:
        server = lookups.server
        server.soa = (30, 30)
        await lookups.failure()
        server.records[TLS] = GOOD
        clock.jump(29)
        await lookups.failure()
        assert server.counts == {TLS: 1}
        clock.jump(2)
        assert await lookups.hosts() == ["m0.example.com"]


async def test_what_nobody_denies_for_a_time_is_asked_again_soon(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a failure nor a denial without SOA says how long it holds."""
    async with open_lookups(monkeypatch) as lookups:
        server = lookups.server
        for _ in range(2):
            await lookups.failure()
        assert server.counts == {TLS: 1, PLAIN: 1}
        clock.jump(FAILURE_TTL)
        server.soa, server.rcodes[TLS] = (30, 30), dns.rcode.SERVFAIL
        await lookups.failure()
        assert server.counts == {TLS: 2, PLAIN: 1}
        clock.jump(FAILURE_TTL)
        del server.rcodes[TLS]
        server.records[TLS] = GOOD
        assert await lookups.hosts() == ["m0.example.com"]
