"""Provides `Watcher`: one stream for each set of metadata, and one nursery for all."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, final

import trio

from ._connector import Connector
from ._face import construct
from ._follower import Follower
from ._inbox import Inbox
from ._live_stream import Counters
from ._mapping import Snapshot
from ._mirror import Mirror, open_mirror
from ._range_calls import RangeCalls
from ._reads import Reads
from ._requests import WatchSpec, mirror_spec
from ._responses import SPEEDUPS
from ._snapshot import Range
from ._statistics import WatcherStatistics
from ._stream import WatchStream
from ._subscription import State, Subscription
from ._watch import Watch, WatchManager

if TYPE_CHECKING:
    from ._grpc.metadata import Metadata

_StreamKey: TypeAlias = "tuple[Metadata, bool]"
"""Watches share a stream if their metadata and require_leader are equal."""


@final
class Watcher(RangeCalls):
    """Opens watches and mirrors, and reads snapshots. Made by `open_watcher()`."""

    def __init__(self, connector: Connector, nursery: trio.Nursery) -> None:
        self._connector = connector
        self._nursery = nursery
        # The streams for new watches, and all streams that have watches: a stream with
        # an old token continues for the watches that it has, and a stream that failed
        # remains until its watches are closed.
        self._streams: dict[_StreamKey, WatchStream] = {}
        self._serving: dict[WatchStream, _StreamKey] = {}
        self._counters = Counters()
        self._reading: set[trio.CancelScope] = set()
        self._closed = False

    def _open_watch(
        self, spec: WatchSpec, metadata: Metadata, require_leader: bool
    ) -> AbstractAsyncContextManager[Watch]:
        return WatchManager(partial(self._open, spec, (metadata, require_leader)))

    async def _read(self, keys: Range, revision: int, metadata: Metadata) -> Snapshot:
        self._check_open()
        reads = Reads(self._connector, metadata, self._counters.lines, self._check_open)
        with trio.CancelScope() as scope:
            self._reading.add(scope)
            try:
                return await reads.snapshot(keys, revision)
            finally:
                self._reading.remove(scope)
        raise trio.ClosedResourceError("this watcher was closed")

    def _open_mirror(
        self, keys: Range, metadata: Metadata
    ) -> AbstractAsyncContextManager[Mirror]:
        reads = Reads(self._connector, metadata, self._counters.lines, self._check_open)

        def open_watch(start_revision: int) -> AbstractAsyncContextManager[Watch]:
            spec = mirror_spec(keys.key, keys.range_end, start_revision)
            return self._open_watch(spec, metadata, require_leader=False)

        return open_mirror(Follower(keys, reads, open_watch, self._counters.lines))

    @trio.lowlevel.enable_ki_protection
    async def request_progress(self) -> None:
        """Request the server's progress, for every watch of every stream.

        The answer reaches each watch as a progress notification, unless it is lost with
        its stream; some servers send none while a watch is behind. It does not move
        `Watch.next_revision`, since etcd before 3.4.25 and 3.5.8 sends it before events
        that it covers. A checkpoint, so that a loop around it lets other tasks run; it
        does not wait for an answer. If it is cancelled, nothing was requested.

        Raises:
            trio.ClosedResourceError: The watcher is closed.
        """
        await trio.lowlevel.checkpoint()
        self.request_progress_nowait()

    @trio.lowlevel.enable_ki_protection
    def request_progress_nowait(self) -> None:
        """Do what `request_progress()` does, without a checkpoint.

        Raises:
            trio.ClosedResourceError: The watcher is closed.
        """
        self._check_open()
        for stream in self._serving:
            stream.request_progress()

    def statistics(self) -> WatcherStatistics:
        """Return the present state of the watcher. Never blocks."""
        streams = () if self._closed else self._serving
        watches = [watch for stream in streams for watch in stream.watches]
        states = Counter(watch.state for watch in watches)
        counters = self._counters
        return WatcherStatistics(
            streams=sum(not stream.closed for stream in streams),
            creating=states[State.CREATING],
            live=states[State.LIVE],
            parked=states[State.PARKED],
            resuming=states[State.RESUMING],
            endpoints=self._connector.endpoints(),
            connections_made=self._connector.connections_made,
            reconnects=counters.reconnects,
            last_loss=counters.last_loss,
            bytes_received=counters.bytes_received,
            events_received=counters.events_received,
            events_delivered=counters.events_delivered,
            unread_events=sum(watch.unread for watch in watches),
            speedups=SPEEDUPS,
        )

    def _open(self, spec: WatchSpec, key: _StreamKey) -> Inbox:
        self._check_open()
        stream = self._streams.get(key)
        if stream is None or stream.closed:
            stream = self._start_stream(key)
        return stream.open(spec)

    def _start_stream(self, key: _StreamKey, delay: float = 0.0) -> WatchStream:
        metadata, require_leader = key
        stream = WatchStream(
            self._connector,
            metadata,
            self._counters,
            require_leader=require_leader,
            move=self._move,
            delay=delay,
        )
        self._streams[key] = stream
        self._serving[stream] = key
        self._nursery.start_soon(self._serve, stream)
        return stream

    def _move(self, origin: WatchStream, subscription: Subscription) -> None:
        """Move a watch to a stream that has a newer token than its present one.

        New watches go there, too. The others stay on the old stream.
        """
        key = self._serving[origin]
        stream = self._streams.get(key, origin)
        if stream is origin or stream.closed:
            stream = self._start_stream(key, subscription.tokens.pause)
        stream.adopt(subscription)

    @trio.lowlevel.enable_ki_protection
    async def _serve(self, stream: WatchStream) -> None:
        await stream.run()
        key = self._serving.pop(stream)
        if self._streams.get(key) is stream:
            del self._streams[key]

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this watcher is closed")

    @trio.lowlevel.enable_ki_protection
    async def _close_with_tasks(self) -> None:
        """Close the watcher when its tasks are cancelled, from outside or by a bug.

        Then no task serves watches and reads any more, but a shielded block may still
        wait for them.
        """
        try:
            await trio.sleep_forever()
        finally:
            if not self._closed:
                self._close()

    def _close(self) -> None:
        self._closed = True
        self._connector.close()
        for stream in self._serving:
            if not stream.closed:
                stream.close_watches()
        for scope in self._reading:
            scope.cancel(reason="the watcher is closed")


def start_watcher(connector: Connector, nursery: trio.Nursery) -> Watcher:
    """Return a watcher whose tasks run in this nursery until `close_watcher()`."""
    watcher = construct(Watcher, connector, nursery)
    nursery.start_soon(watcher._close_with_tasks)
    return watcher


def close_watcher(watcher: Watcher) -> None:
    """End every wait of the watcher's users, and cancel its tasks."""
    watcher._close()
    watcher._nursery.cancel_scope.cancel(reason="the watcher is closed")
