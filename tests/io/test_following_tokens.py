"""Tokens for the list of members, which do not affect the tokens of streams."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.following import cluster
from tests.support.members import AUTHENTICATE, MEMBER_LIST, Member
from trio_etcd_watch import AuthenticationError, Credentials, StatusCode
from trio_etcd_watch._following import INTERVAL
from trio_etcd_watch._grpc.status import Status, StreamLost
from trio_etcd_watch._verdicts import MAX_REFUSED_TOKENS

USER = Credentials("root", "s3cret")
OLD_TOKEN = Status(StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token")


@pytest.fixture
def clock() -> MockClock:
    """The clock is frozen, while real sockets are served."""
    return MockClock()


async def test_a_token_that_is_refused_is_renewed() -> None:
    member = Member(refusals={MEMBER_LIST: [OLD_TOKEN] * 2}, urls=["http://m2:1"])
    async with cluster(member, credentials=USER) as made:
        await made.connect()
        await made.settle(3)
        assert made.known("member") == ["m2:1"]
        assert member.authentications == 3
        assert all(token for _, token in member.lists)


async def test_a_token_may_take_longer_than_an_answer(clock: MockClock) -> None:
    member = Member(refusals={MEMBER_LIST: [OLD_TOKEN]}, urls=["http://m2:1"])
    member.tokens_wait = trio.Event()
    async with cluster(member, credentials=USER, keepalive_time=INTERVAL) as made:
        await made.connect()
        await member.wait_lists(1)
        await member.wait_authentications(2)
        clock.jump(10)  # twice connect_timeout
        await trio.testing.wait_all_tasks_blocked()
        member.tokens_wait.set()
        await made.settle(2)
        assert made.known("member") == ["m2:1"]
        assert member.authentications == 2
        assert member.connections == 1


async def test_refused_lists_cost_the_streams_no_token(clock: MockClock) -> None:
    member = Member(refusals={MEMBER_LIST: [OLD_TOKEN] * 8})
    async with cluster(member, credentials=USER, keepalive_time=10 * INTERVAL) as made:
        connection, metadata = await made.connector.connect()
        for looks in (1, 2):
            await made.settle(4 * looks)
            # One at first, and three for each lookup.
            assert member.authentications == 1 + 3 * looks
            assert await made.connector.connect() == (connection, metadata)
            # For streams it is not a new token.
            assert made.connector.token_renewed(connection) == -math.inf
            clock.jump(INTERVAL)
        tokens = [token for _, token in member.lists]
        # Each lookup begins with the token of the streams.
        assert tokens[0] == tokens[4] == dict(metadata)["token"]
        assert len(set(tokens)) == 7


async def test_a_token_for_the_list_is_kept_while_it_is_good(clock: MockClock) -> None:
    member = Member(refusals={MEMBER_LIST: [OLD_TOKEN]}, urls=["http://m2:1"])
    async with cluster(member, credentials=USER, keepalive_time=10 * INTERVAL) as made:
        await made.connect()
        await made.settle(2)
        clock.jump(INTERVAL)
        await made.settle(3)
        assert member.authentications == 2
        tokens = [token for _, token in member.lists]
        assert tokens[0] != tokens[1] == tokens[2]
        # For the next connection the streams may have a newer one.
        (await made.connect()).close("the test wants another")
        await made.connect()
        await made.settle(4)
        assert member.lists[3][1] == tokens[0]


REFUSED = Status(StatusCode.INVALID_ARGUMENT, "etcdserver: authentication failed")
NO_TOKEN = Status(StatusCode.UNAVAILABLE, "etcdserver: no leader")


@pytest.mark.parametrize("refusal", [REFUSED, NO_TOKEN])
async def test_a_token_for_the_list_that_is_not_to_be_had_ends_no_stream(
    refusal: Status,
) -> None:
    member = Member()
    async with cluster(member, credentials=USER) as made:
        connection, metadata = await made.connector.connect()
        member.refuse(MEMBER_LIST, *[OLD_TOKEN] * 9)
        member.refuse(AUTHENTICATE, *[refusal] * 9)
        await member.wait_authentications(2)
        await made.settle(1)
        # The connection to that member stays, and so does its token.
        assert await made.connector.connect() == (connection, metadata)
        assert made.in_use() == made.endpoints


async def test_tokens_for_the_list_that_cannot_be_sent_are_not_counted() -> None:
    member = Member(refusals={MEMBER_LIST: [OLD_TOKEN] * 9})
    tokens = ["good"]

    async def token() -> str:
        return tokens.pop() if tokens else "\n"

    async with cluster(member, token=token) as made:
        for count in (1, 2):
            connection, metadata = await made.connector.connect()
            await made.settle(count)
            assert dict(metadata)["token"] == "good"
            connection.close("the test wants another")
        # The streams still have all their attempts.
        made.connector.forget_token("good")
        for _ in range(MAX_REFUSED_TOKENS):
            with pytest.raises(StreamLost, match="the token has characters"):
                await made.connector.connect()
        with pytest.raises(AuthenticationError):
            await made.connector.connect()


async def test_a_function_for_tokens_is_not_called_twice_at_once() -> None:
    member = Member(refusals={MEMBER_LIST: [OLD_TOKEN]})
    calls, most = 0, 0
    gate = trio.Event()
    called = trio.Event()

    async def token() -> str:
        nonlocal calls, most
        calls += 1
        most = max(most, calls)
        if member.lists:
            called.set()
            await gate.wait()
        calls -= 1
        return "good"

    async with cluster(member, token=token) as made, trio.open_nursery() as nursery:
        await made.connect()
        await called.wait()
        made.connector.forget_token("good")
        nursery.start_soon(made.connect)
        await trio.testing.wait_all_tasks_blocked()
        assert calls == 1
        gate.set()
    assert most == 1


async def test_tokens_that_are_refused_have_an_end() -> None:
    member = Member(refusals={MEMBER_LIST: [OLD_TOKEN] * 9}, urls=["http://m2:1"])
    async with cluster(member, credentials=USER) as made:
        await made.connect()
        await made.settle(4)
        await made.settle(4)
        assert len(member.lists) == 4
        assert made.known("member") == []


async def test_a_token_that_is_a_text_is_refused_once_a_look(clock: MockClock) -> None:
    member = Member(refusals={MEMBER_LIST: [OLD_TOKEN] * 4})
    async with cluster(member, token="a.b.c", keepalive_time=10 * INTERVAL) as made:
        await made.connect()
        for looks in (1, 2, 3):
            await made.settle(looks)
            assert len(member.lists) == looks
            clock.jump(INTERVAL)
