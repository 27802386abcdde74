"""Members that join the endpoints: when they are asked for, and what answers may do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import EllipsisType
from typing import cast

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.following import cluster
from tests.support.members import (
    MEMBER_LIST,
    Member,
    members_at,
)
from trio_etcd_watch import Channel, Credentials, StatusCode
from trio_etcd_watch._connector import Connector
from trio_etcd_watch._endpoints import Endpoint
from trio_etcd_watch._following import INTERVAL, RETRY, Following
from trio_etcd_watch._grpc.connection import Connection
from trio_etcd_watch._grpc.metadata import Metadata
from trio_etcd_watch._grpc.status import Status, StreamLost
from trio_etcd_watch._members import MAX_LIST_SIZE, MAX_URLS
from trio_etcd_watch._pb import watch_pb2 as pb

SECRET = "s3cret"
USER = Credentials("root", SECRET)
OLD_TOKEN = Status(StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token")


@pytest.fixture
def clock() -> MockClock:
    """The clock is frozen, while real sockets are served."""
    return MockClock()


async def test_asked_at_each_new_connection() -> None:
    async with cluster(Member(urls=["http://m2:1"])) as made:
        [member] = made.members
        for count in (1, 2, 3):
            connection = await made.connect()
            await made.settle(count)
            assert len(member.lists) == count
            connection.close("the test wants another")
        assert member.connections == 3
        assert all(request.linearizable for request, _ in member.lists)


async def test_not_asked_without_the_option() -> None:
    async with cluster(Member(), follow_members=False) as made:
        await made.connect()
        await made.settle(0)
        assert made.members[0].lists == []


async def test_asked_every_five_minutes(clock: MockClock) -> None:
    async with cluster(Member(), keepalive_time=10 * INTERVAL) as made:
        [member] = made.members
        await made.connect()
        await made.settle(1)
        for count in (2, 3):
            clock.jump(INTERVAL - 1)
            await made.settle(count - 1)
            assert len(member.lists) == count - 1
            clock.jump(1)
            await made.settle(count)
            assert len(member.lists) == count
        assert member.connections == 1


async def test_members_join_and_serve_when_the_given_one_is_gone() -> None:
    given, other = Member(), Member()
    async with cluster(given, other) as made:
        given.urls = [f"http://{made.endpoints[1]}"]
        other.urls = [f"http://{made.endpoints[0]}"]
        connection = await made.connect()
        await made.settle(1)
        assert made.known("given") == [made.endpoints[0]]
        assert made.known("member") == [made.endpoints[1]]
        assert made.in_use() == [made.endpoints[0]]
        connection.close("the test ends it")
        assert made.in_use() == []
        await made.connect()
        assert other.connections == 1
        assert made.in_use() == [made.endpoints[1]]
        # It does not list itself, and the given endpoint is kept.
        await made.settle(1, member=1)
        assert made.known("given") == [made.endpoints[0]]
        # A member is shown as long as it is used.
        assert made.known("member") == [made.endpoints[1]]
        assert made.in_use() == [made.endpoints[1]]
        made.connector.leave(await made.connect())
        assert made.known("member") == []
        assert made.in_use() == []


async def test_a_list_that_is_the_same_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "trio_etcd_watch")
    urls = ["http://m1:1", "http://m2:2", "ftp://m3:3"]
    async with cluster(Member(urls=urls)) as made:
        for count in (1, 2):
            connection = await made.connect()
            await made.settle(count)
            connection.close("the test wants another")
    logged = [record.getMessage() for record in caplog.records]
    assert [line for line in logged if "ftp" in line or "left out" in line] == [
        "a URL of member 1 is left out: it is neither http:// nor https://"
    ]
    [members] = [line for line in logged if line.startswith("members in addition")]
    assert "m1:1" in members
    assert "m2:2" in members


@pytest.mark.parametrize(
    ("refusal", "wait"),
    [
        (Status(StatusCode.PERMISSION_DENIED, "etcdserver: no"), INTERVAL),
        (Status(StatusCode.UNIMPLEMENTED, "unknown service"), INTERVAL),
        (
            Status(StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty"),
            INTERVAL,
        ),
        (Status(StatusCode.UNAVAILABLE, "etcdserver: no leader"), RETRY),
        (Status(StatusCode.FAILED_PRECONDITION, "for learner"), RETRY),
        # There is no other token to use.
        (OLD_TOKEN, INTERVAL),
    ],
)
async def test_a_refusal_is_no_error(
    refusal: Status, wait: float, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_etcd_watch")
    member = Member(refusals={MEMBER_LIST: [refusal]}, urls=["http://m2:1"])
    async with cluster(member, keepalive_time=10 * INTERVAL) as made:
        await made.connect()
        await made.settle(1)
        assert made.known("member") == []
        clock.jump(wait - 1)
        await made.settle(1)
        assert len(member.lists) == 1
        clock.jump(1)
        await made.settle(2)
        assert made.known("member") == ["m2:1"]
        assert member.connections == 1
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    [line] = [r.getMessage() for r in caplog.records if "does not" in r.getMessage()]
    assert line.endswith(f"does not report the members: {refusal}")


async def test_a_member_that_is_silent_about_it(clock: MockClock) -> None:
    member = Member(urls=["http://m2:1"])
    member.lists_wait = True
    async with cluster(member, keepalive_time=10 * INTERVAL) as made:
        await made.connect()
        # Other calls are served meanwhile.
        await made.settle(1)
        clock.jump(5)  # connect_timeout
        await made.settle(1)
        member.lists_wait = False
        clock.jump(RETRY)
        await made.settle(2)
        assert made.known("member") == ["m2:1"]
        assert member.connections == 1


async def test_what_is_known_stays_through_a_refusal(clock: MockClock) -> None:
    member = Member(urls=["http://m2:1"])
    async with cluster(member, keepalive_time=10 * INTERVAL) as made:
        await made.connect()
        await made.settle(1)
        for reply in (b"\xff", b"\x0a\xff\xff\xff\xff\x0f"):
            member.list_reply = reply
            clock.jump(INTERVAL)
            await made.settle(len(member.lists) + 1)
            assert made.known("member") == ["m2:1"]


async def test_an_empty_list_changes_nothing(clock: MockClock) -> None:
    member = Member(urls=["http://m2:1"])
    async with cluster(member, keepalive_time=10 * INTERVAL) as made:
        await made.connect()
        await made.settle(1)
        assert made.known("member") == ["m2:1"]
        member.urls = []
        clock.jump(INTERVAL)
        await made.settle(2)
        assert made.known("member") == ["m2:1"]


HOSTILE = [
    "http://evil\n2026-01-01 root logged in:1",
    "http://\x1b[31mevil:1",
    f"http://root:{SECRET}@evil:1",
    f"http://evil:1/?password={SECRET}",
    f"{SECRET}://evil:1",
    "unix:///etc/passwd",
    "http://localhost:1@evil:1",
    "https://evil\u202e:1",
]


async def test_a_hostile_list(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_etcd_watch")
    urls = [*HOSTILE, *(f"http://m{i}:1" for i in range(1_000))]
    async with cluster(Member(urls=urls)) as made:
        await made.connect()
        await made.settle(1)
        assert len(made.known("member")) == MAX_URLS - len(HOSTILE)
        assert not any("evil" in endpoint for endpoint in made.known("member"))
    logged = [record.getMessage() for record in caplog.records]
    assert len([line for line in logged if "left out" in line]) == len(HOSTILE)
    assert len(logged) < len(HOSTILE) + 10
    assert SECRET not in "".join(logged)
    assert all(line.isprintable() and len(line) < 400 for line in logged)


async def test_a_list_of_a_hundred_thousand_urls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "trio_etcd_watch")
    reply = members_at(*(f"http://m{i}:1" for i in range(100_000)))
    assert len(reply) > MAX_LIST_SIZE
    member = Member()
    member.list_reply = reply
    async with cluster(member) as made:
        await made.connect()
        await made.settle(1)
        assert made.known("member") == []
        assert made.known("given") == made.endpoints
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) < 10
    assert any(
        f"a list of {len(reply)} bytes is longer than any of etcd's" in t
        for t in logged
    )


async def test_a_list_that_changes_each_time_leaves_nothing_behind() -> None:
    member = Member()
    async with cluster(member) as made:
        for count in range(1, 40):
            # No server listens there.
            member.urls = [f"http://127.0.0.{count}:{i}" for i in range(1, 21)]
            connection = await made.connect()
            await made.settle(count)
            connection.close("the test wants another")
        # Each one that was tried has failed.
        assert len(made.connector._rotation._worked) <= 21
        assert len(made.connector._dialer._tried) <= 21


class Joined:
    """A connector that got a list of members."""

    reached = None

    def __init__(self) -> None:
        self.members: list[str] = []

    async def metadata_on(
        self, connection: Connection, *, new_token: bool = False
    ) -> Metadata:
        raise AssertionError

    def join(self, connection: Connection, members: Sequence[Endpoint]) -> None:
        self.members = [str(member) for member in members]


@pytest.mark.parametrize(
    ("given", "has_context", "listed_by_tls", "plaintext"),
    [
        (None, False, False, True),
        (False, False, False, True),
        (True, False, True, False),
        (None, True, True, False),
        # Found by SRV, so no endpoint was given.
        (..., False, True, False),
        (..., True, True, False),
        (..., False, False, True),
        # One of two given endpoints; the other is plaintext.
        (True, False, False, False),
    ],
)
def test_no_plaintext_joins_where_there_is_tls(
    given: bool | EllipsisType | None,
    has_context: bool,
    listed_by_tls: bool,
    plaintext: bool,
) -> None:
    endpoints = [] if given is ... else [Endpoint("m0", 1, "", given)]
    joined = Joined()
    secure = has_context or given is True
    following = Following(joined, endpoints, secure=secure, timeout=1.0)
    answer = pb.MemberListResponse.FromString(members_at("http://m1:1", "https://m2:1"))
    following._join(
        answer, cast("Connection", None), Endpoint("m0", 1, "", listed_by_tls)
    )
    assert joined.members == (["m1:1", "m2:1"] if plaintext else ["m2:1"])


async def test_who_answers_is_who_was_meant() -> None:
    """What a list may name depends on where it comes from. No member is dialled."""
    async with cluster(Member(), Member()) as made:
        meant = await made.connect()
        made.connector.leave(meant)
        following = Following(made.connector, (), secure=False, timeout=1.0)
        assert await following._ask_once(meant, Endpoint("m0", 1, "", False)) == RETRY
        assert made.connector.connections_made == 1
        await made.connect()
        assert await following._ask_once(meant, Endpoint("m0", 1, "", False)) == RETRY
        with pytest.raises(StreamLost, match="another connection by now"):
            await made.connector.metadata_on(meant)


async def test_a_try_is_noted_for_the_next_rounds() -> None:
    async with cluster(Member()) as made:
        rotation = made.connector._rotation
        [given] = made.connector.channel._endpoints
        rotation.failed(given)
        await made.connect()
        assert rotation._worked == {given: True}
    async with trio.open_nursery() as nursery:
        # No server listens there.
        connector = Connector(Channel("127.0.0.1:1"), nursery)
        with pytest.raises(StreamLost):
            await connector.connect()
        [given] = connector.channel._endpoints
        assert connector._rotation._worked == {given: False}
