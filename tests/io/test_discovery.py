"""Lookups of names by DNS, and how long their answers are used."""

from __future__ import annotations

import logging
import random
import ssl
from collections import Counter
from typing import Any

import dns.rcode
import pytest
import trio
from trio.testing import MockClock

from tests.support.lookups import open_lookups
from tests.support.names import Hosts
from tests.support.nameserver import PLAIN, TLS
from trio_etcd_watch import Channel, Credentials
from trio_etcd_watch._connector import Connector
from trio_etcd_watch._discovery import (
    FAILURE_TTL,
    MAX_LINES,
    MAX_RECORDS,
    MAX_TTL,
    Discovery,
)
from trio_etcd_watch._endpoints import Endpoint, SrvName
from trio_etcd_watch._grpc.status import StreamLost
from trio_etcd_watch._rotation import Rotation
from trio_etcd_watch._srv import NoRecords

NAME = SrvName("example.com")
GOOD = ["0 0 2379 m0.example.com."]


@pytest.fixture
def clock() -> MockClock:
    """The clock is frozen, while real sockets are served."""
    return MockClock()


async def test_records_are_believed_for_their_ttl(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lookups(monkeypatch) as lookups:
        server = lookups.server
        server.records[TLS], server.ttl = GOOD, 30
        assert await lookups.hosts() == ["m0.example.com"]
        server.records[TLS] = ["0 0 2379 m1.example.com."]
        clock.jump(29.9)
        assert await lookups.hosts() == ["m0.example.com"]
        assert server.asked == [TLS]
        clock.jump(0.2)
        assert await lookups.hosts() == ["m1.example.com"]
        assert server.asked == [TLS, TLS]


async def test_a_ttl_of_nothing(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lookups(monkeypatch) as lookups:
        lookups.server.records[TLS], lookups.server.ttl = GOOD, 0
        for _ in range(3):
            await lookups.hosts()
        assert lookups.server.counts == {TLS: 3}


async def test_a_ttl_of_decades_is_a_week(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lookups(monkeypatch) as lookups:
        lookups.server.records[TLS], lookups.server.ttl = GOOD, 2**31 - 1
        await lookups.hosts()
        clock.jump(MAX_TTL - 1)
        await lookups.hosts()
        assert lookups.server.counts == {TLS: 1}
        clock.jump(2)
        await lookups.hosts()
        assert lookups.server.counts == {TLS: 2}


async def test_each_look_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(7)
    async with open_lookups(monkeypatch) as lookups:
        lookups.server.records[TLS] = [
            "0 3 1 often.example.com.",
            "0 1 1 seldom.example.com.",
            "1 9 1 last.example.com.",
        ]
        orders = [await lookups.hosts() for _ in range(400)]
    firsts = Counter(order[0] for order in orders)
    assert 270 < firsts["often.example.com"] < 330
    assert firsts["last.example.com"] == 0
    assert {order[2] for order in orders} == {"last.example.com"}
    assert lookups.server.counts == {TLS: 1}


async def test_where_both_kinds_are_there_tls_alone_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_lookups(monkeypatch) as lookups:
        lookups.server.records[TLS] = GOOD
        lookups.server.records[PLAIN] = ["0 0 1 plain.example.com."]
        [endpoint] = await lookups.endpoints()
        assert endpoint == Endpoint("m0.example.com", 2379, "", True, "example.com")
        assert lookups.server.asked == [TLS]


async def test_plaintext_where_dns_says_that_there_is_no_tls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_lookups(monkeypatch) as lookups:
        lookups.server.records[PLAIN] = GOOD
        [endpoint] = await lookups.endpoints()
        assert endpoint == Endpoint("m0.example.com", 2379, "", False)
        assert lookups.server.asked == [TLS, PLAIN]


@pytest.mark.parametrize("trouble", ["fails", "cut", "root", "outside"])
async def test_no_plaintext_where_the_answer_about_tls_is_withheld(
    monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    async with open_lookups(monkeypatch) as lookups:
        server = lookups.server
        server.records[PLAIN] = GOOD
        match trouble:
            case "fails":
                server.rcodes[TLS] = dns.rcode.SERVFAIL
            case "cut":
                server.truncated = server.truncated_too = True
            case "root":
                server.records[TLS] = ["0 0 0 ."]
            case "outside":
                server.records[TLS] = ["0 0 1 evil.example.org."]
        loss = await lookups.failure()
        assert PLAIN not in server.asked
    assert isinstance(loss, NoRecords) == (trouble == "root")


@pytest.mark.parametrize(
    ("endpoints", "arguments"),
    [
        ((), {"credentials": Credentials("root", "s3cret")}),
        ((), {"token": "s3cret"}),
        ((), {"ssl_context": ssl.create_default_context()}),
        (("https://etcd:2379",), {}),
        ((), {"metadata": {"authorization": "Bearer s3cret"}}),
    ],
    ids=["credentials", "token", "context", "https", "metadata"],
)
async def test_no_plaintext_for_a_channel_that_wants_tls(
    monkeypatch: pytest.MonkeyPatch,
    endpoints: tuple[str, ...],
    arguments: dict[str, Any],
) -> None:
    async with open_lookups(monkeypatch, *endpoints, **arguments) as lookups:
        lookups.server.records[PLAIN] = GOOD
        loss = await lookups.failure()
        assert lookups.server.asked == [TLS]
    assert "plaintext is not for this channel" in str(loss)


async def test_many_records_cost_little_and_are_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_etcd_watch")
    async with open_lookups(monkeypatch) as lookups:
        lookups.server.ttl = 0
        lookups.server.records[TLS] = [
            *(f"1 0 1 m{i}.example.com." for i in range(MAX_RECORDS)),
            *(f"0 0 1 m{i}.evil.org." for i in range(50)),
        ]
        for _ in range(5):
            assert len(await lookups.hosts()) == 50
        [found] = lookups.discovery._found.values()
    # The first ones are kept, by priority, though they were received last.
    assert len(found.records) == MAX_RECORDS
    assert sum(record.priority == 0 for record in found.records) == 50
    left_out = [r for r in caplog.records if "evil.org" in r.getMessage()]
    assert len(left_out) <= MAX_LINES


async def test_the_same_again_is_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_etcd_watch")
    async with open_lookups(monkeypatch) as lookups:
        server = lookups.server
        server.ttl = 0
        server.records[TLS] = [*GOOD, "0 0 1 m1.example.com.", "0 0 1 evil.org."]
        for _ in range(5):
            assert len(await lookups.hosts()) == 2
        assert len(caplog.records) == 2
        server.records[TLS] = GOOD
        await lookups.hosts()
    assert [r.getMessage().rpartition(" ")[2] for r in caplog.records[2:]] == [
        "m0.example.com:2379"
    ]


async def test_no_plaintext_for_a_name_that_had_tls(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lookups(monkeypatch) as lookups:
        server = lookups.server
        server.records[TLS], server.ttl = GOOD, 1
        await lookups.endpoints()
        server.records = {PLAIN: GOOD}
        clock.jump(2)
        await lookups.failure()
        assert PLAIN not in server.asked


async def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lookups(monkeypatch) as lookups:
        loss = await lookups.failure()
        assert lookups.server.asked == [TLS, PLAIN]
    assert isinstance(loss, NoRecords)
    assert str(loss) == f"etcd+srv://example.com: DNS has no {PLAIN}"


async def test_a_service_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "etcd+srv://example.com?service=one"
    async with open_lookups(monkeypatch, name=name) as lookups:
        lookups.server.records["_etcd-client-ssl-one._tcp.example.com."] = GOOD
        lookups.server.records[TLS] = ["0 0 1 two.example.com."]
        assert await lookups.hosts() == ["m0.example.com"]


async def test_a_failure_is_not_asked_about_again_at_once(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lookups(monkeypatch) as lookups:
        server = lookups.server
        server.rcodes[TLS] = dns.rcode.SERVFAIL
        losses = [await lookups.failure() for _ in range(3)]
        assert server.counts == {TLS: 1}
        assert len({str(loss) for loss in losses}) == 1
        # The traceback of an exception that is raised again would grow.
        assert len({id(loss.__cause__) for loss in losses}) == 3
        del server.rcodes[TLS]
        server.records[TLS] = GOOD
        clock.jump(FAILURE_TTL)
        assert await lookups.hosts() == ["m0.example.com"]
        assert server.counts == {TLS: 2}


async def test_targets_outside_the_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    forged = ["0 0 1 m.example.org."]
    async with open_lookups(monkeypatch) as lookups:
        lookups.server.records[TLS] = forged
        assert "m.example.org is outside example.com" in str(await lookups.failure())
    context = ssl.create_default_context()
    async with open_lookups(monkeypatch, ssl_context=context) as lookups:
        lookups.server.records[TLS] = forged
        assert await lookups.hosts() == ["m.example.org"]
    name = "etcd+srv://example.com?server_name=etcd.example.org"
    async with open_lookups(monkeypatch, name=name) as lookups:
        lookups.server.records[TLS] = forged
        [endpoint] = await lookups.endpoints()
        assert endpoint.server_name == "etcd.example.org"


async def test_a_silent_name_server_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_lookups(monkeypatch, connect_timeout=0.2) as lookups:
        lookups.server.silent = True
        with trio.fail_after(30):
            await lookups.failure()


async def test_the_wait_is_bounded_whatever_the_resolver_does(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(name: str, lifetime: float) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr("trio_etcd_watch._resolver.query_srv", hang)
    channel = Channel("etcd+srv://example.com", connect_timeout=3)
    with pytest.raises(StreamLost, match="no answer within 3 s"):
        await Discovery(channel).look_up(channel._srv_names[0])
    assert trio.current_time() == pytest.approx(3)


async def test_records_that_are_gone_are_forgotten(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lookups(monkeypatch) as lookups:
        server, rotation = lookups.server, Rotation([NAME])
        server.records[TLS], server.ttl = GOOD, 0
        await lookups.discovery.expand(NAME, rotation)
        [(target, source)] = rotation.known()
        assert (target.host, source) == ("m0.example.com", "srv")
        # This does not tell whether the name exists.
        server.rcodes[TLS] = dns.rcode.SERVFAIL
        with pytest.raises(StreamLost):
            await lookups.discovery.expand(NAME, rotation)
        assert rotation.take() == target
        # The name does not exist.
        clock.jump(FAILURE_TTL)
        server.rcodes[TLS] = dns.rcode.NXDOMAIN
        with pytest.raises(NoRecords):
            await lookups.discovery.expand(NAME, rotation)
        assert list(rotation.known()) == []


async def test_targets_that_change_each_time_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Hosts(**{"m0.example.com": "127.0.0.1"}).use()
    channel = Channel(str(NAME))
    async with open_lookups(monkeypatch) as lookups, trio.open_nursery() as nursery:
        connector = Connector(channel, nursery)
        lookups.server.ttl = 0
        for port in range(1, 20):
            # No server listens there.
            lookups.server.records[PLAIN] = [f"0 0 {port} m0.example.com."]
            with pytest.raises(StreamLost, match=f"m0.example.com:{port}: "):
                await connector.connect()
        assert len(connector._dialer._tried) == 1
        assert len(connector.endpoints()) == 1
