"""How streams end, and what each of their watches does then."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.connection import INITIAL_WINDOW_SIZE
from tests.support.members import LIMIT, serve_for_ever
from tests.support.memory import ENDPOINT, cluster_in_memory, create
from tests.support.peer import (
    GRPC,
    NONSENSE,
    Peer,
    data_frame,
    grpc_message,
    put_message,
    serve_tcp,
    watch_response,
)
from trio_etcd_watch import (
    AuthenticationError,
    Channel,
    Watch,
    Watcher,
    _live_stream,
    open_watcher,
)
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch.testing import ScriptedEtcd


@asynccontextmanager
async def watching(
    channel: Channel | str = ENDPOINT,
) -> AsyncGenerator[tuple[Watcher, Watch]]:
    async with open_watcher(channel) as watcher, watcher.watch("k") as watch:
        yield watcher, watch


async def test_a_malformed_message_and_the_end_in_one_read(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_off(peer: Peer, stream_id: int) -> None:
        await create(peer, stream_id)
        payload = b"".join(map(grpc_message, (put_message(0, 5), NONSENSE)))
        # A stream that ends with a DATA frame is a loss of its own kind.
        await peer.raw(data_frame(stream_id, payload, end=True))
        cluster.serve = functools.partial(serve_for_ever, revision=5)

    async with (
        cluster_in_memory(monkeypatch, break_off) as cluster,
        watching() as (watcher, watch),
    ):
        assert (await anext(watch.events())).kv.mod_revision == 5
        await trio.sleep(1)
        loss = watcher.statistics().last_loss
        assert loss is not None
        assert "not a watch response" in loss


async def test_a_status_after_events_in_one_read(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end(peer: Peer, stream_id: int) -> None:
        await create(peer, stream_id)
        await peer.messages(stream_id, put_message(0, 5), put_message(0, 6))
        await peer.status(stream_id, 16, "enough")

    async with cluster_in_memory(monkeypatch, end), watching() as (_, watch):
        await trio.sleep(1)
        response = await anext(watch)
        assert [event.kv.mod_revision for event in response.events] == [5, 6]
        with pytest.raises(AuthenticationError, match="enough"):
            await anext(watch)


async def test_creations_that_wait_for_a_window_are_sent_on_the_next_stream(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live_stream, "REPLY_TIMEOUT", 1.0)
    async with (
        cluster_in_memory(monkeypatch, serve_for_ever) as cluster,
        open_watcher(ENDPOINT) as watcher,
        trio.open_nursery() as nursery,
    ):
        cluster.settings = {INITIAL_WINDOW_SIZE: 7}
        cluster.gives_window = False

        async def watch_one() -> None:
            async with watcher.watch("k") as watch:
                assert (await anext(watch)).events

        for _ in range(3):
            nursery.start_soon(watch_one)
        await trio.sleep(0.5)
        assert watcher.statistics().creating == 3
        cluster.settings = {}
        cluster.gives_window = True


TOKEN_REFUSED = "etcdserver: invalid auth token"
REFUSAL = watch_response(-1, created=True, canceled=True, cancel_reason=TOKEN_REFUSED)


async def test_a_refused_watch_moves_alone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of three watches is refused again and again; the others notice nothing."""
    streams = 0

    async def serve(peer: Peer, stream_id: int) -> None:
        nonlocal streams
        streams += 1
        await peer.headers(stream_id, GRPC)
        if streams > 1:
            await peer.message(stream_id)
            await peer.messages(stream_id, REFUSAL)
            return
        for watch_id in range(2):
            await peer.message(stream_id)
            response = watch_response(watch_id, revision=4, created=True)
            await peer.messages(stream_id, response)
        await peer.message(stream_id)
        await peer.messages(stream_id, REFUSAL)
        await refused.wait()
        await peer.messages(stream_id, put_message(0, 5), put_message(1, 5))

    refused = trio.Event()
    channel = Channel(ENDPOINT, token="t")
    async with (
        cluster_in_memory(monkeypatch, serve),
        open_watcher(channel) as watcher,
        watcher.watch("a") as first,
        watcher.watch("b") as second,
    ):
        with pytest.raises(AuthenticationError):
            async with watcher.watch("c"):
                pass
        assert streams == 4
        refused.set()
        for watch in (first, second):
            assert (await anext(watch.events())).kv.mod_revision == 5
            statistics = watch.statistics()
            assert (statistics.state, statistics.last_loss) == ("live", None)
        assert watcher.statistics().reconnects == 0


async def test_streams_that_are_refused_together_each_have_their_tries() -> None:
    """The tries of a watch whose stream is refused do not count for its neighbours."""
    refusals: dict[bytes, int] = {}

    async def serve_stream(peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, GRPC)
        request = pb.WatchRequest.FromString(await peer.message(stream_id))
        key = request.create_request.key
        refusals[key] = refusals.get(key, 0) + 1
        if refusals[key] <= 3:
            await peer.status(stream_id, 16, TOKEN_REFUSED)
            return
        created = watch_response(0, revision=4, created=True)
        await peer.messages(stream_id, created, put_message(0, 5))

    async def serve(stream: trio.abc.Stream) -> None:
        peer = Peer(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.run)
            while True:
                nursery.start_soon(serve_stream, peer, await peer.accept())

    async def watch_one(key: str) -> None:
        # Metadata of its own gives each watch a stream of its own.
        async with watcher.watch(key, metadata={"x": key}) as watch:
            assert (await anext(watch)).events

    keys = "abcde"
    with trio.fail_after(LIMIT):
        async with serve_tcp(serve) as endpoint:
            async with open_watcher(Channel(endpoint, token="t")) as watcher:
                async with trio.open_nursery() as nursery:
                    for key in keys:
                        nursery.start_soon(watch_one, key)
    assert refusals == {key.encode(): 4 for key in keys}


async def test_a_watch_that_is_closed_is_freed_at_once() -> None:
    etcd = ScriptedEtcd()
    async with etcd.open_watcher() as watcher, watcher.watch("other"):
        async with watcher.watch("k") as watch:
            inbox = weakref.ref(watch._inbox)
        gc.disable()
        try:
            del watch
            await wait_all_tasks_blocked()
            assert inbox() is None
        finally:
            gc.enable()
