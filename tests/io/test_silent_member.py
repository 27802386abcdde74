"""A member or proxy that answers only PING is abandoned for another endpoint."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.support.helpers import eventually
from tests.support.peer import (
    GRPC,
    Peer,
    grpc_message,
    pieces,
    serve_tcp,
    serve_watches,
    watch_response,
)
from trio_etcd_watch import (
    Channel,
    Credentials,
    Watcher,
    _connector,
    _live_stream,
    open_watcher,
)
from trio_etcd_watch._pb import watch_pb2 as pb

LIMIT = 20.0

Script = Callable[[Peer, int], Awaitable[None]]


@pytest.fixture(autouse=True)
def short_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "sample", lambda members, count: members)
    monkeypatch.setattr(_live_stream, "REPLY_TIMEOUT", 0.4)


class Stuck:
    """Answers SETTINGS and PING, but no call except for those that the script answers.

    Attributes:
        connections: how many there were.
        streams: how many there were.
    """

    def __init__(self, *scripts: Script, headers: bool = False) -> None:
        self.connections = 0
        self.streams = 0
        self._scripts = list(scripts)
        self._headers = headers

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        peer = Peer(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._accept, peer, nursery)
            await peer.run()
            nursery.cancel_scope.cancel()

    async def _accept(self, peer: Peer, nursery: trio.Nursery) -> None:
        while True:
            stream_id = await peer.accept()
            self.streams += 1
            if self._scripts:
                nursery.start_soon(self._scripts.pop(0), peer, stream_id)
            elif self._headers:
                await peer.headers(stream_id, GRPC)


async def serve_well(stream: trio.abc.Stream) -> None:
    await serve_watches(stream, revision=4)


def lose_after_creation(revision: int) -> Script:
    async def lose(peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, GRPC)
        await peer.message(stream_id)
        await peer.messages(stream_id, watch_response(revision=revision, created=True))
        await peer.status(stream_id, 14, "etcdserver: leader changed")

    return lose


@pytest.mark.parametrize("headers", [False, True])
async def test_all_who_wait_get_to_the_healthy_member(headers: bool) -> None:
    stuck = Stuck(headers=headers)
    done = 0

    async def use(watcher: Watcher, key: str) -> None:
        nonlocal done
        async with watcher.watch(key, metadata={"stream": key[0]}) as watch:
            assert (await anext(watch.events())).kv.key == key.encode()
        done += 1

    async with serve_tcp(stuck.serve) as bad, serve_tcp(serve_well) as good:
        with trio.fail_after(LIMIT):
            async with (
                open_watcher([bad, good]) as watcher,
                trio.open_nursery() as all_,
            ):
                for key in ("a1", "a2", "a3", "b1", "b2", "c1"):
                    all_.start_soon(use, watcher, key)
        statistics = watcher.statistics()
    assert done == 6
    assert stuck.connections == 1
    assert statistics.connections_made == 2
    assert "no reply to the creation" in str(statistics.last_loss)


async def give_up(watcher: Watcher, stuck: Stuck, calls: int) -> None:
    """Open a watch, and close it long after its member got this many calls."""

    async def enter() -> None:
        async with watcher.watch("k"):
            pytest.fail("entered")

    async def has_called() -> bool:
        return stuck.streams == calls

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enter)
        # Connecting may take time, which does not count as silence of the member.
        await eventually(has_called)
        await trio.sleep(_connector.PATIENCE * 2)
        nursery.cancel_scope.cancel(reason="nobody answers")


async def test_who_gives_up_first_and_tries_again_takes_another_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_live_stream, "REPLY_TIMEOUT", LIMIT)
    stuck = Stuck()
    async with serve_tcp(stuck.serve) as bad, serve_tcp(serve_well) as good:
        with trio.fail_after(LIMIT):
            async with open_watcher([bad, good]) as watcher:
                for calls in (1, 2):
                    await give_up(watcher, stuck, calls)
                async with watcher.watch("k") as watch:
                    assert (await anext(watch)).events
        assert watcher.statistics().connections_made == 2
    # One abandoned call may only mean that the user was in a hurry.
    assert (stuck.connections, stuck.streams) == (1, 2)


async def test_who_gives_up_while_no_token_comes_takes_another_connection() -> None:
    async def give_token(peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, GRPC)
        reply = pb.AuthenticateResponse(token="t")
        await peer.messages(stream_id, reply.SerializeToString())
        await peer.status(stream_id)

    stuck, well = Stuck(), Stuck(give_token, lose_after_creation(4))
    async with serve_tcp(stuck.serve) as bad, serve_tcp(well.serve) as good:
        channel = Channel(bad, good, credentials=Credentials("root", "secret"))
        with trio.fail_after(LIMIT):
            async with open_watcher(channel) as watcher:
                for calls in (1, 2):
                    await give_up(watcher, stuck, calls)
                async with watcher.watch("k"):
                    pass
    assert (stuck.connections, stuck.streams) == (1, 2)
    assert (well.connections, well.streams) == (1, 2)


async def test_a_live_watch_that_lands_there_says_so_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trio_etcd_watch")

    # The next stream on the same connection gets no answer.
    stuck = Stuck(lose_after_creation(4))
    async with serve_tcp(stuck.serve) as bad, serve_tcp(serve_well) as good:
        with trio.fail_after(LIMIT):
            async with (
                open_watcher([bad, good]) as watcher,
                watcher.watch("k") as watch,
            ):
                assert (await anext(watch.events())).kv.mod_revision == 5
    assert (stuck.connections, stuck.streams) == (1, 2)
    lines = [record.getMessage() for record in caplog.records]
    assert sum("no reply to the creation of a watch for 0.4 s" in x for x in lines) == 1


@pytest.mark.parametrize("silences", [1, 2])
async def test_replies_that_stop_while_other_watches_flow(
    silences: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live_stream, "MAX_SILENCES", silences)
    given = trio.Event()

    async def flow(peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, GRPC)
        await peer.message(stream_id)
        await peer.messages(stream_id, watch_response(revision=4, created=True))
        revision = 4
        while stream_id not in peer.resets():
            # There is never a reply to a creation, and never a pause.
            revision += 1
            message = watch_response(revision=revision, events=[(b"a", revision)])
            await peer.messages(stream_id, message)
            given.set()
            await trio.sleep(0.01)

    async def serve_ahead(stream: trio.abc.Stream) -> None:
        await serve_watches(stream, revision=10_000)

    stuck = Stuck(flow)
    async with serve_tcp(stuck.serve) as bad, serve_tcp(serve_ahead) as good:
        with trio.fail_after(LIMIT):
            async with (
                open_watcher([bad, good]) as watcher,
                watcher.watch("a") as watch,
            ):
                await given.wait()
                async with watcher.watch("b") as other:
                    assert (await anext(other)).events
                assert watch.statistics().unread_events > silences * 10
                statistics = watcher.statistics()
    assert statistics.reconnects == 1
    expected = f"no reply to the creation of a watch for {silences * 0.4:g} s"
    assert expected in str(statistics.last_loss)
    assert stuck.streams == 1


async def test_a_member_that_is_behind_and_cannot_tell_why() -> None:
    async def lag(peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, GRPC)
        await peer.message(stream_id)
        await peer.messages(stream_id, watch_response(revision=3, created=True))

    # The answer to the read after that never comes.
    stuck = Stuck(lose_after_creation(4), lag)
    async with serve_tcp(stuck.serve) as bad, serve_tcp(serve_well) as good:
        with trio.fail_after(LIMIT):
            async with (
                open_watcher([bad, good]) as watcher,
                watcher.watch("k") as watch,
            ):
                assert (await anext(watch.events())).kv.mod_revision == 5
                statistics = watcher.statistics()
    assert (stuck.connections, stuck.streams) == (1, 3)
    assert statistics.connections_made == 2
    assert "this member is behind" in str(statistics.last_loss)


async def test_a_slow_member_that_answers_in_time_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_live_stream, "MAX_SILENCES", 1)

    async def answer(peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, GRPC)
        for watch_id in range(6):
            await peer.message(stream_id)
            await trio.sleep(0.15)
            await peer.messages(stream_id, watch_response(watch_id, created=True))

    entered = 0

    async def enter(watcher: Watcher) -> None:
        nonlocal entered
        async with watcher.watch("k"):
            entered += 1

    # Each reply is in time, but all six together are not.
    slow = Stuck(answer)
    async with serve_tcp(slow.serve) as endpoint, open_watcher(endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.watch("k"), trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(enter, watcher)
        assert watcher.statistics().connections_made == 1
    assert (entered, slow.streams) == (5, 1)


def large_response(step: int) -> Script:
    """Send a response in 200 steps of this size, before the reply to a creation."""

    async def send(peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, GRPC)
        await peer.message(stream_id)
        await peer.messages(stream_id, watch_response(revision=9, created=True))
        await peer.message(stream_id)
        events = watch_response(events=[(b"a", 5)], value=bytes(200 * step))
        for piece in pieces(grpc_message(events), step):
            if stream_id in peer.resets():
                return
            await peer.data(stream_id, piece)
            await trio.sleep(0.01)
        await peer.messages(stream_id, watch_response(1, revision=9, created=True))

    return send


@pytest.mark.parametrize(("step", "kept"), [(1_000, True), (10, False)])
async def test_one_large_response_is_waited_for_unless_hardly_any_of_it_comes(
    step: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live_stream, "MAX_SILENCES", 2)

    async def serve_ahead(stream: trio.abc.Stream) -> None:
        await serve_watches(stream, revision=9)

    slow = Stuck(large_response(step))
    async with serve_tcp(slow.serve) as first, serve_tcp(serve_ahead) as second:
        with trio.fail_after(LIMIT):
            async with (
                open_watcher([first, second]) as watcher,
                watcher.watch("a", start_revision=5) as watch,
                watcher.watch("b"),
            ):
                assert (await anext(watch.events())).kv.mod_revision == 5
                assert watcher.statistics().reconnects == (0 if kept else 1)
