"""The order of endpoints after a lost connection, once members are known."""

from __future__ import annotations

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.following import cluster
from tests.support.members import MEMBER_LIST, Member
from trio_etcd_watch import StatusCode
from trio_etcd_watch._following import INTERVAL
from trio_etcd_watch._grpc.status import Status, StreamLost
from trio_etcd_watch._rotation import BRIEF

UNREACHABLE = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
"""No server listens there."""


@pytest.fixture
def clock() -> MockClock:
    """The clock is frozen, while real sockets are served."""
    return MockClock()


async def test_who_served_and_is_lost_is_tried_before_members_that_never_were(
    clock: MockClock,
) -> None:
    """Members may announce addresses that can be reached only from inside."""
    async with cluster(Member(urls=UNREACHABLE), keepalive_time=INTERVAL) as made:
        for count in (1, 2, 3):
            connection, _ = await made.connector.connect()  # at the first attempt
            await made.settle(count)
            assert len(made.known("member")) == 2
            clock.jump(BRIEF + 0.1)
            connection.close("the test wants another")
            if count == 2:
                # A read on this connection reports the same.
                made.connector.leave(connection)
        assert made.members[0].connections == 3


async def test_who_served_is_tried_once_before_the_others(clock: MockClock) -> None:
    async with cluster(Member(urls=UNREACHABLE), keepalive_time=INTERVAL) as made:
        [member] = made.members
        connection = await made.connect()
        await made.settle(1)
        clock.jump(BRIEF + 0.1)
        member.refuses_connections = True
        connection.close("the test wants another")
        tried = []
        for _ in range(7):
            with pytest.raises(StreamLost) as info:
                await made.connector.connect()
            tried.append(str(info.value).partition(": ")[0])
        given = made.endpoints[0]
        assert [i for i in range(7) if tried[i] == given] == [0, 3, 6]
        assert sorted(tried[1:3]) == ["127.0.0.1:1", "127.0.0.1:2"]


@pytest.mark.parametrize(
    "why", ["it is abandoned", "it does not last", "it is soon lost", "it gave no list"]
)
async def test_who_did_not_serve_leads_to_the_next(why: str, clock: MockClock) -> None:
    async with cluster(Member(urls=UNREACHABLE), keepalive_time=INTERVAL) as made:
        [member] = made.members
        await made.connect()
        await made.settle(1)
        if why == "it gave no list":
            # The next connection gets no list of members.
            member.refuse(MEMBER_LIST, Status(StatusCode.UNAVAILABLE, "no leader"))
            (await made.connect()).close("the test wants another")
            await made.connect()
            await made.settle(2)
        if why in ("it is abandoned", "it gave no list"):
            clock.jump(BRIEF + 0.1)
        connection = await made.connect()
        if why == "it is abandoned":
            made.connector.leave(connection)
        connection.close("the test wants another")
        if why == "it is soon lost":
            # The time until another connection is wanted does not count for this one.
            await wait_all_tasks_blocked()
            clock.jump(BRIEF + 0.1)
        with pytest.raises(StreamLost, match=r"127\.0\.0\.1:[12]: "):
            await made.connector.connect()
