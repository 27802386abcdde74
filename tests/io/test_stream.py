"""Servers end a stream in every way; what the watcher does then."""

from __future__ import annotations

import random
import traceback

import pytest
import trio
from h2.settings import SettingCodes

from tests.support.helpers import eventually
from tests.support.members import (
    LIMIT,
    Member,
    ended,
    serve_for_ever,
    serve_one,
    watch_one,
)
from tests.support.peer import GRPC, Peer, serve_tcp, serve_watches, watch_response
from trio_etcd_watch import (
    AuthenticationError,
    Channel,
    Credentials,
    NoLeaderError,
    RpcError,
    StatusCode,
    Watch,
    _authentication,
    open_watcher,
)


@pytest.mark.parametrize("created", [True, False])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (0, ""),
        (1, "etcdserver: watch canceled"),
        (13, "stream terminated"),
        (14, "etcdserver: leader changed"),
        (14, "transport is closing"),
        (14, "etcdserver: no leader"),
        (2, "raft proposal dropped"),
        (4, "context deadline exceeded"),
        (8, "etcdserver: too many requests"),
        # A proxy says this about a response, as no creation here is large.
        (8, "grpc: received message larger than max (9 vs. 5)"),
        (9, "etcdserver: rpc not supported for learner"),
        (10, "aborted"),
        (11, "out of range"),
        (12, "unknown service etcdserverpb.Watch"),
        (15, "etcdserver: corrupt cluster"),
        (99, "beyond all codes"),
    ],
)
async def test_ends_that_are_retried(code: int, message: str, created: bool) -> None:
    member = Member(*[ended(code, message, created=created)] * 3)
    async with serve_tcp(member.serve) as endpoint:
        assert await watch_one(endpoint) == (3 if created else 0)


HALTS = [
    (14, "etcdserver: no leader", NoLeaderError, True),
    (14, "etcdserver: no leader", NoLeaderError, False),
    (16, "etcdserver: invalid auth token", AuthenticationError, True),
    (16, "etcdserver: invalid auth token", AuthenticationError, False),
    (3, "etcdserver: invalid client api version", RpcError, False),
    (7, "not you", RpcError, False),
]


@pytest.mark.parametrize(("code", "message", "kind", "created"), HALTS)
async def test_ends_that_halt(
    code: int, message: str, kind: type[RpcError], created: bool
) -> None:
    member = Member(ended(code, message, created=created))
    async with serve_tcp(member.serve) as endpoint, open_watcher(endpoint) as watcher:
        with trio.fail_after(LIMIT), pytest.raises(kind) as caught:
            async with watcher.watch("k", require_leader=True) as watch:
                assert created
                await anext(watch)
        assert type(caught.value) is kind
        assert caught.value.code is StatusCode(code)
        assert message in caught.value.message
        # The next watch opens another stream.
        with trio.fail_after(LIMIT):
            async with watcher.watch("k") as watch:
                assert (await anext(watch)).events


async def has_ended(watch: Watch) -> bool:
    return watch.statistics().state == "ended"


async def test_what_was_received_comes_before_the_error() -> None:
    async def end(peer: Peer, stream_id: int) -> None:
        await serve_one(peer, stream_id)
        await peer.status(stream_id, 16, "enough")

    async with serve_tcp(Member(end).serve) as endpoint:
        async with open_watcher(endpoint) as watcher, watcher.watch("k") as watch:
            with trio.fail_after(LIMIT):
                await eventually(lambda: has_ended(watch))
                statistics = watcher.statistics()
                assert (statistics.streams, statistics.unread_events) == (0, 1)
                assert "enough" in str(statistics.last_loss)
                assert (await anext(watch)).events
                assert watcher.statistics().unread_events == 0
                for _ in range(2):
                    with pytest.raises(RpcError, match="enough"):
                        await anext(watch)


async def test_a_member_that_refuses_is_left_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random, "sample", lambda members, count: members)
    refusing = Member(*[ended(14, "not now", created=False)] * 100)
    willing = Member()
    async with serve_tcp(refusing.serve) as first, serve_tcp(willing.serve) as second:
        await watch_one(Channel(first, second))
    assert (refusing.connections, willing.connections) == (1, 1)


async def test_neighbours_on_a_member_that_refuses_go_on() -> None:
    member = Member(serve_for_ever, *[ended(14, "full", created=False)] * 2)
    async with serve_tcp(member.serve) as endpoint:
        async with open_watcher(endpoint) as watcher, watcher.watch("k") as watch:
            with trio.fail_after(LIMIT):
                async with watcher.watch("k", metadata={"x": "y"}) as other:
                    assert (await anext(other)).events
                assert (await anext(watch)).events
            assert watcher.statistics().reconnects == 0
            assert member.connections == 3


async def test_a_member_with_no_room_for_a_stream_is_left_for_another() -> None:
    connections = 0

    async def serve(stream: trio.abc.Stream) -> None:
        nonlocal connections
        connections += 1
        peer = Peer(stream, {SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.run)
            while True:
                await serve_one(peer, await peer.accept())

    async with serve_tcp(serve) as endpoint, open_watcher(endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.watch("k") as watch:
                async with watcher.watch("k", metadata={"x": "y"}) as other:
                    assert (await anext(other)).events
                assert (await anext(watch)).events
        assert watcher.statistics().reconnects == 0
    assert connections == 2


async def test_each_watch_of_a_stream_gets_an_error_of_its_own() -> None:
    async def end(peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, GRPC)
        for watch_id in range(2):
            await peer.message(stream_id)
            await peer.messages(stream_id, watch_response(watch_id, created=True))
        await peer.status(stream_id, 16, "enough")

    async def error_of(watch: Watch) -> RpcError:
        with pytest.raises(RpcError) as caught:
            await anext(watch)
        return caught.value

    async with serve_tcp(Member(end).serve) as endpoint, open_watcher(endpoint) as made:
        with trio.fail_after(LIMIT):
            async with made.watch("a") as one, made.watch("b") as other:
                try:
                    raise KeyError("of one user")
                except KeyError:
                    first = await error_of(one)
                errors = [await error_of(other) for _ in range(10)]
    assert first.__context__ is not None
    assert all(error.__context__ is None for error in errors)
    assert {str(error) for error in (first, *errors)} == {str(first)}
    # The traceback does not grow either.
    depths = {len(traceback.extract_tb(error.__traceback__)) for error in errors}
    assert len(depths) == 1


ROOT = Credentials("root", "secret")


@pytest.mark.parametrize("way", ["silent", "unavailable", "junk"])
async def test_a_member_that_cannot_authenticate_is_followed_by_the_next(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "sample", lambda members, count: members)
    monkeypatch.setattr(_authentication, "AUTHENTICATE_TIMEOUT", 0.2)

    async def fail(stream: trio.abc.Stream) -> None:
        peer = Peer(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.run)
            while True:
                stream_id = await peer.accept_call()
                if way == "unavailable":
                    await peer.status(stream_id, 14, "etcdserver: request timed out")
                if way == "junk":
                    await peer.messages(stream_id, b"\xff\xff\xff")
                    await peer.status(stream_id)

    willing = Member()
    async with serve_tcp(fail) as first, serve_tcp(willing.serve) as second:
        await watch_one(Channel(first, second, credentials=ROOT, connect_timeout=0.2))
    assert willing.connections == 1


@pytest.mark.parametrize("created", [True, False])
async def test_refused_token_is_renewed(created: bool) -> None:
    end = ended(16, "etcdserver: invalid auth token", created=created)
    member = Member(end, end, end)
    async with serve_tcp(member.serve) as endpoint:
        await watch_one(Channel(endpoint, credentials=ROOT))
    assert member.tokens == [f"token {i}" for i in range(4)]


async def test_tokens_refused_again_and_again() -> None:
    end = ended(16, "etcdserver: invalid auth token", created=False)
    member = Member(*[end] * 10)
    async with serve_tcp(member.serve) as endpoint:
        with pytest.raises(AuthenticationError):
            await watch_one(Channel(endpoint, credentials=ROOT))
    # The first token, and three more.
    assert len(member.tokens) == 4


@pytest.mark.parametrize("prefix", ["", "rpc error: code = Unauthenticated desc = "])
async def test_token_refused_in_a_reply(prefix: str) -> None:
    async def refuse(peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, GRPC)
        await peer.message(stream_id)
        reason = f"{prefix}etcdserver: invalid auth token"
        await peer.messages(
            stream_id,
            watch_response(-1, created=True, canceled=True, cancel_reason=reason),
        )

    member = Member(refuse, refuse, refuse)
    async with serve_tcp(member.serve) as endpoint:
        await watch_one(Channel(endpoint, credentials=ROOT))
    assert len(member.tokens) == 4
    member = Member(*[refuse] * 10)
    async with serve_tcp(member.serve) as endpoint:
        with pytest.raises(AuthenticationError):
            await watch_one(Channel(endpoint, credentials=ROOT))
    assert len(member.tokens) == 4


async def test_a_clean_server() -> None:
    async with serve_tcp(lambda stream: serve_watches(stream, revision=4)) as endpoint:
        assert await watch_one(endpoint) == 0
