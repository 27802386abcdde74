"""Hours of each kind of outage: few log lines and attempts, no growth, and recovery."""

from __future__ import annotations

import gc
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from tests.support.helpers import take
from tests.support.memory import ENDPOINT, Cluster, cluster_in_memory, create
from tests.support.peer import GRPC, Peer, watch_response
from trio_etcd_watch import open_watcher
from trio_etcd_watch._backoff import MAX_DELAY

HOUR = 3600.0
MEAN_DELAY = MAX_DELAY / 2


async def healthy(peer: Peer, stream_id: int) -> None:
    await create(peer, stream_id)


async def with_an_event(peer: Peer, stream_id: int) -> None:
    await create(peer, stream_id)
    await peer.messages(stream_id, watch_response(revision=5, events=[(b"k", 5)]))


async def refused(stream: trio.abc.Stream) -> None:
    raise ConnectionRefusedError(111, "Connection refused")


async def silent(stream: trio.abc.Stream) -> None:
    """Accept a connection, and send nothing."""


async def http1(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def reset_after_the_headers(peer: Peer, stream_id: int) -> None:
    await peer.headers(stream_id, GRPC)
    await peer.reset(stream_id)


async def ok_at_once(peer: Peer, stream_id: int) -> None:
    await peer.headers(stream_id, GRPC)
    await peer.status(stream_id)


async def without_a_reply(peer: Peer, stream_id: int) -> None:
    await peer.headers(stream_id, GRPC)


def created_then_dropped(seconds: float) -> Callable[[Peer, int], Awaitable[None]]:
    async def drop(peer: Peer, stream_id: int) -> None:
        await create(peer, stream_id)
        await trio.sleep(seconds)
        await peer.reset(stream_id)

    return drop


@dataclass(frozen=True)
class Shape:
    """How a server fails; each attempt takes this many seconds."""

    connect: Callable[[trio.abc.Stream], Awaitable[None]] | None = None
    serve: Callable[[Peer, int], Awaitable[None]] = healthy
    seconds: float = 0.0
    works: bool = False

    def begin(self, cluster: Cluster) -> None:
        cluster.connect, cluster.serve = self.connect, self.serve


SHAPES = {
    "refused": Shape(refused),
    "silence": Shape(silent, seconds=5.0),
    "HTTP/1": Shape(http1),
    "reset after the headers": Shape(serve=reset_after_the_headers),
    "OK at once": Shape(serve=ok_at_once),
    "no reply": Shape(serve=without_a_reply, seconds=10.0),
    "dropped after 60 ms": Shape(
        serve=created_then_dropped(0.06), seconds=0.06, works=True
    ),
    # Just longer than the longest wait, so that each connection ends an outage.
    "dropped after 4 s": Shape(
        serve=created_then_dropped(4.0), seconds=4.0, works=True
    ),
}


@pytest.mark.parametrize("name", SHAPES)
async def test_an_hour_of(
    name: str,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trio_etcd_watch")
    shape = SHAPES[name]
    async with (
        cluster_in_memory(monkeypatch, healthy) as cluster,
        open_watcher(ENDPOINT) as watcher,
        watcher.watch("k") as watch,
    ):
        await trio.sleep(10)
        assert [r.getMessage() for r in caplog.records] == [f"connected to {ENDPOINT}"]
        caplog.clear()
        shape.begin(cluster)
        cluster.connections = cluster.streams = 0
        await cluster.cut()
        await trio.sleep(HOUR / 6)
        objects = count_objects()
        await trio.sleep(HOUR * 5 / 6)

        # A leak would keep dozens of objects for each attempt.
        assert count_objects() - objects < 1000
        assert len(caplog.records) <= 100
        begin = caplog.records[0]
        assert begin.levelname == "WARNING"
        assert begin.getMessage().startswith("no watch stream: ")
        tries = max(cluster.connections, cluster.streams)
        # A connection that lasts longer than the longest wait resets the waits.
        mean_delay = MEAN_DELAY if shape.seconds < MAX_DELAY or not shape.works else 0.0
        assert HOUR / (shape.seconds + MAX_DELAY) < tries
        assert tries < HOUR / (shape.seconds + mean_delay) * 1.1 + 10
        statistics = watcher.statistics()
        assert statistics.last_loss
        assert watch.statistics().last_loss == statistics.last_loss
        assert watch.next_revision == 5
        if shape.works:
            assert tries - 1 <= statistics.reconnects <= tries + 1
        else:
            assert statistics.reconnects == 1
            assert statistics.live == 0
            assert watch.statistics().state in ("creating", "resuming")

        Shape(serve=with_an_event).begin(cluster)
        [event] = await take(watch, 1)
        assert event.kv.mod_revision == 5
        await trio.sleep(60)
        end = caplog.records[-1]
        assert end.levelname == "WARNING"
        assert end.getMessage().startswith("watch stream resumed after ")
        assert watcher.statistics().live == 1


def count_objects() -> int:
    gc.collect()
    return len(gc.get_objects())


async def test_a_stream_whose_watches_are_all_parked_works(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trio_etcd_watch")

    async def flood(peer: Peer, stream_id: int) -> None:
        await create(peer, stream_id)
        for revision in range(5, 9):
            events = [(b"k", revision)]
            await peer.messages(
                stream_id, watch_response(revision=revision, events=events)
            )

    async def quiet(peer: Peer, stream_id: int) -> None:
        """Like etcd, which sends no headers before its first message."""

    async with (
        cluster_in_memory(monkeypatch, flood) as cluster,
        open_watcher(ENDPOINT) as watcher,
        watcher.watch("k", max_buffered_events=2) as watch,
    ):
        await trio.sleep(10)
        cluster.serve = quiet
        for lost in range(1, 4):
            assert watcher.statistics().parked == 1
            caplog.clear()
            await cluster.cut()
            await trio.sleep(HOUR)
            # It is not closed because of its silence, and there is no outage.
            assert cluster.connections == cluster.streams == 1 + lost
            assert watcher.statistics().reconnects == lost
            begin, end = (record.getMessage() for record in caplog.records)
            assert begin.startswith("no watch stream: ")
            assert end.startswith("watch stream resumed after 1 tries in 3.")
        assert watch.statistics().state == "parked"
        assert watch.statistics().last_loss == watcher.statistics().last_loss

        async def resume(peer: Peer, stream_id: int) -> None:
            await create(peer, stream_id)
            events = [(b"k", 9)]
            await peer.messages(stream_id, watch_response(revision=9, events=events))

        cluster.serve = resume
        await cluster.cut()
        await trio.sleep(10)
        got = await take(watch, 3)
        assert [event.kv.mod_revision for event in got][:2] == [5, 6]
