"""The tasks behind a mirror, when reads hang or are compacted, and when it closes."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import h2.events
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.support.members import RANGE
from tests.support.memory import ENDPOINT
from tests.support.peer import CLUSTER_ID, GRPC, Peer, watch_response
from trio_etcd_watch import (
    ClusterChangedError,
    Mirror,
    StatusCode,
    Watcher,
    _dialer,
    open_watcher,
)
from trio_etcd_watch._backoff import MAX_DELAY
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._snapshot import MAX_STARTS

LIMIT = 1000.0
"""Virtual seconds after which a test counts as stuck."""

READ, WATCHED = 7, 9
"""The revision of the one key, and that at which its watch begins, with no news."""

COMPACTED = "etcdserver: mvcc: required revision has been compacted"

Answer = Callable[["Store", Peer, int, pb.RangeRequest], Awaitable[None]]


class Store:
    """An etcd of one key, whose reads are answered as the test says.

    Attributes:
        answer: handles each new read.
        reads: how many there were.
        stuck: is set once a read will not be answered.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self.answer: Answer = rightly
        self.reads = 0
        self.stuck = trio.Event()
        self._nursery = nursery

    async def open_stream(self, *_: object) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        client, server = memory_stream_pair()
        self._nursery.start_soon(self._run, Peer(server))
        return client

    async def _run(self, peer: Peer) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._accept, peer, nursery)
            await peer.run()
            nursery.cancel_scope.cancel(reason="the client closed")

    async def _accept(self, peer: Peer, nursery: trio.Nursery) -> None:
        while True:
            request = await peer.next(h2.events.RequestReceived)
            reads = dict(request.headers)[":path"] == RANGE
            serve = self._read if reads else self._watch
            nursery.start_soon(serve, peer, request.stream_id)

    async def _read(self, peer: Peer, stream_id: int) -> None:
        request = pb.RangeRequest.FromString(await peer.message(stream_id))
        self.reads += 1
        await peer.headers(stream_id, GRPC)
        await self.answer(self, peer, stream_id, request)

    async def _watch(self, peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, GRPC)
        await peer.message(stream_id)
        created = watch_response(revision=WATCHED, created=True)
        await peer.messages(stream_id, created)


async def rightly(
    store: Store, peer: Peer, stream_id: int, request: pb.RangeRequest
) -> None:
    keys = not request.count_only and request.min_mod_revision <= READ
    response = pb.RangeResponse(count=1)
    # The first read is older than the watch, which then has history to deliver.
    response.header.revision = READ if store.reads == 1 else WATCHED
    response.header.cluster_id = CLUSTER_ID
    if keys:
        response.kvs.add(key=b"a", mod_revision=READ, create_revision=READ, version=1)
    await peer.messages(stream_id, response.SerializeToString())
    await peer.status(stream_id)


async def never(
    store: Store, peer: Peer, stream_id: int, request: pb.RangeRequest
) -> None:
    store.stuck.set()


async def compacted(
    store: Store, peer: Peer, stream_id: int, request: pb.RangeRequest
) -> None:
    """Answer with a first page, and with no second one."""
    if request.revision:
        await peer.status(stream_id, StatusCode.OUT_OF_RANGE, COMPACTED)
        return
    store.stuck.set()
    header = pb.ResponseHeader(cluster_id=CLUSTER_ID, revision=WATCHED)
    page = pb.RangeResponse(header=header, count=2, more=True)
    page.kvs.add(key=b"a", mod_revision=READ, create_revision=READ, version=1)
    await peer.messages(stream_id, page.SerializeToString())
    await peer.status(stream_id)


@asynccontextmanager
async def store_in_memory(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Store]:
    """Serve every connection that is opened; ends with the block."""
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            store = Store(nursery)
            monkeypatch.setattr(_dialer, "_open_stream", store.open_stream)
            yield store
            nursery.cancel_scope.cancel(reason="the test is over")


def after(answered: int) -> Answer:
    """Answer this many reads rightly, and the others never."""

    async def answer(
        store: Store, peer: Peer, stream_id: int, request: pb.RangeRequest
    ) -> None:
        read = rightly if store.reads <= answered else never
        await read(store, peer, stream_id, request)

    return answer


# These are the range; then for its proof a count, the newest key, and all that is new.
@pytest.mark.parametrize("answered", range(4))
@pytest.mark.parametrize("shield", [False, True])
async def test_a_read_under_way_ends_with_the_watcher(
    answered: int,
    shield: bool,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def use(watcher: Watcher) -> None:
        # The error is raised as itself, not in a group.
        with pytest.raises(trio.ClosedResourceError):
            async with watcher.mirror("a"):
                # In a block that takes long, the tasks notice first.
                with trio.CancelScope(shield=shield):
                    await trio.sleep(60)
                await trio.sleep_forever()

    async with store_in_memory(monkeypatch) as store, trio.open_nursery() as nursery:
        store.answer = after(answered)
        async with open_watcher(ENDPOINT) as watcher:
            nursery.start_soon(use, watcher)
            await store.stuck.wait()
    assert store.reads == answered + 1


@pytest.mark.parametrize("wait", [Mirror.sync, Mirror.verify])
@pytest.mark.parametrize("shield", [False, True])
async def test_what_others_ask_of_a_mirror_ends_with_the_watcher(
    wait: Callable[[Mirror], Awaitable[object]],
    shield: bool,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = 0

    async def ask(mirror: Mirror) -> None:
        nonlocal ended
        with pytest.raises(trio.ClosedResourceError):
            await wait(mirror)
        ended += 1

    async with store_in_memory(monkeypatch) as store, trio.open_nursery() as nursery:

        async def use(watcher: Watcher) -> None:
            with pytest.raises(trio.ClosedResourceError):
                async with watcher.mirror("a") as mirror:
                    assert await mirror.verify()
                    store.answer = never
                    nursery.start_soon(ask, mirror)
                    with trio.CancelScope(shield=shield):
                        await trio.sleep(60)
                    await trio.sleep_forever()

        async with open_watcher(ENDPOINT) as watcher:
            nursery.start_soon(use, watcher)
            await store.stuck.wait()
    assert ended == 1


@pytest.mark.parametrize("wait", [Mirror.sync, Mirror.verify])
async def test_what_others_ask_of_a_mirror_ends_with_its_block(
    wait: Callable[[Mirror], Awaitable[object]],
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ask(mirror: Mirror) -> None:
        with pytest.raises(trio.ClosedResourceError, match="this mirror is closed"):
            await wait(mirror)
        assert trio.current_time() == closed_at

    async with (
        store_in_memory(monkeypatch) as store,
        open_watcher(ENDPOINT) as watcher,
        trio.open_nursery() as nursery,
    ):
        async with watcher.mirror("a") as mirror:
            assert await mirror.verify()
            store.answer = never
            nursery.start_soon(ask, mirror)
            await store.stuck.wait()
            closed_at = trio.current_time()


async def test_a_proof_that_is_compacted_meanwhile_is_made_at_a_newer_revision(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs = 0

    async def once(
        store: Store, peer: Peer, stream_id: int, request: pb.RangeRequest
    ) -> None:
        nonlocal proofs
        proofs += request.keys_only and request.revision > 0
        if proofs == 1 and request.keys_only and request.revision:
            store.stuck.set()
            await compacted(store, peer, stream_id, request)
        else:
            await rightly(store, peer, stream_id, request)

    async with store_in_memory(monkeypatch) as store:
        store.answer = once
        async with open_watcher(ENDPOINT) as watcher, watcher.mirror("a") as mirror:
            # Its watch has history to catch up with, so it is proved.
            await store.stuck.wait()
            await wait_all_tasks_blocked()
            assert mirror._follower.replica.proved == WATCHED
    assert proofs == 2


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@pytest.mark.parametrize("at_first", [True, False])
async def test_history_that_is_compacted_while_it_is_read_ends_no_mirror(
    at_first: bool,
    seconds: float,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Each pause is as long as possible.
    monkeypatch.setattr(random, "random", lambda: 1.0)
    began: list[float] = []

    async def note(
        store: Store, peer: Peer, stream_id: int, request: pb.RangeRequest
    ) -> None:
        of_the_range = not (request.count_only or request.keys_only)
        if of_the_range and not request.revision:
            began.append(trio.current_time())
        if of_the_range and len(began) <= 10 * MAX_STARTS:
            await trio.sleep(seconds)
            await compacted(store, peer, stream_id, request)
        else:
            await rightly(store, peer, stream_id, request)

    async with (
        store_in_memory(monkeypatch) as store,
        open_watcher(ENDPOINT) as watcher,
    ):
        if at_first:
            store.answer = note
        async with watcher.mirror("a") as mirror:
            if not at_first:
                assert await mirror.verify()
                store.answer = note
                mirror._follower._distrust("a test wants it")
                await store.stuck.wait()
                # The mapping can be read meanwhile.
                assert (list(mirror), mirror.statistics().connected) == ([b"a"], False)
                await mirror.wait_for(lambda m: m.statistics().connected)
            assert list(mirror) == [b"a"]
            assert await mirror.verify()
            assert mirror.statistics().resyncs == (0 if at_first else 1)
    firsts = began[: 10 * MAX_STARTS + 1 : MAX_STARTS]
    bounds = [0.1, 0.2, 0.4, 0.8, 1.6, *[MAX_DELAY] * 5]
    if not at_first:
        bounds = [0.2, 0.4, 0.8, 1.6, *[MAX_DELAY] * 6]
    # Slow reads do not shorten the pauses. Each attempt reads two pages.
    reading = 2 * MAX_STARTS * seconds
    gaps = [then - now - reading for now, then in itertools.pairwise(firsts)]
    assert gaps == pytest.approx(bounds)
    lines = [record.getMessage() for record in caplog.records]
    warnings = [line for line in lines if line.startswith("a mirror is read again: ")]
    assert len(warnings) == (10 if at_first else 11)
    assert all("compacted" in line for line in warnings[-10:])


@pytest.mark.parametrize("wait", ["snapshot", "sync", "wait_for", "changes"])
async def test_a_shielded_block_does_not_wait_for_tasks_that_were_cancelled(
    wait: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(watcher: Watcher, mirror: Mirror) -> None:
        match wait:
            case "snapshot":
                await watcher.snapshot("a")
            case "sync":
                await mirror.sync()
            case "wait_for":
                await mirror.wait_for(lambda m: False)
            case "changes":
                await anext(mirror.changes(initial=False))

    ended = False
    async with store_in_memory(monkeypatch) as store:
        with trio.CancelScope() as outside:
            async with open_watcher(ENDPOINT) as watcher, watcher.mirror("a") as mirror:
                assert await mirror.verify()
                store.answer = never
                outside.cancel()
                with trio.CancelScope(shield=True):
                    with trio.fail_after(60), pytest.raises(trio.ClosedResourceError):
                        await ask(watcher, mirror)
                    ended = True
                await trio.sleep_forever()
    assert ended
    assert outside.cancelled_caught


async def test_the_failure_of_a_mirror_is_what_a_shielded_block_ends_in(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_in_memory(monkeypatch), open_watcher(ENDPOINT) as watcher:
        with pytest.raises(ClusterChangedError):
            async with watcher.mirror("a") as mirror:
                assert await mirror.verify()
                with trio.CancelScope(shield=True):
                    mirror._follower.replica.revision += 1
                    mirror._follower._header = replace(
                        mirror._follower.header, cluster_id=CLUSTER_ID + 1
                    )
                    mirror._follower._distrust("a test wants it")
                    await mirror.wait_for(lambda m: False)
