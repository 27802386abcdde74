"""`open_watcher` and `Watcher`: one stream per set of metadata, one nursery for all."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, final

import trio

from ._channel import MetadataLike, metadata_pairs
from ._connector import Connector
from ._cursor import MAX_REVISION
from ._follower import Follower
from ._inbox import Inbox
from ._live_stream import Totals
from ._mapping import Snapshot
from ._mirror import Mirror, open_mirror
from ._reads import Reads
from ._requests import (
    DEFAULT_MAX_BUFFERED_BYTES,
    WatchSpec,
    check_int,
    key_range,
    mirror_spec,
    watch_spec,
)
from ._responses import SPEEDUPS
from ._snapshot import PagedRead, Range, put_key_values, read_pages, snapshot_of
from ._statistics import WatcherStatistics
from ._stream import WatchStream
from ._subscription import State, Subscription
from ._watch import Watch, WatchManager

if TYPE_CHECKING:
    from ._grpc.metadata import Metadata

_StreamKey: TypeAlias = "tuple[Metadata, bool]"
"""Watches share a stream if their metadata and require_leader are equal."""


@final
class Watcher:
    """Opens watches and mirrors, and reads snapshots. Made by `open_watcher()`."""

    def __init__(self, connector: Connector, nursery: trio.Nursery) -> None:
        self._connector = connector
        self._nursery = nursery
        # Where new watches go, and all that have watches: those with an old token live
        # on for the watches that they have, as do those that have halted.
        self._streams: dict[_StreamKey, WatchStream] = {}
        self._serving: dict[WatchStream, _StreamKey] = {}
        self._totals = Totals()
        self._reading: set[trio.CancelScope] = set()
        self._closed = False

    def watch(
        self,
        key: str | bytes,
        *,
        prefix: bool = False,
        range_end: str | bytes | None = None,
        from_key: bool = False,
        start_revision: int = 0,
        prev_kv: bool = False,
        no_put: bool = False,
        no_delete: bool = False,
        progress_notify: bool = False,
        created_notify: bool = False,
        require_leader: bool = False,
        metadata: MetadataLike = None,
        max_buffered_events: int = 10_000,
        max_buffered_bytes: int = DEFAULT_MAX_BUFFERED_BYTES,
    ) -> AbstractAsyncContextManager[Watch]:
        """Subscribe to a key, a prefix or a range.

        Entering returns once the server has confirmed the watch; while no endpoint
        answers it waits and retries, so bound it with `trio.fail_after()`. Leaving
        cancels the watch on the server too. If entering or leaving is cancelled, nothing
        of the watch remains.

        Args:
            key: the key, or where the prefix or range begins; str is UTF-8.
            prefix: every key that begins with `key`; with an empty `key`, every key.
            range_end: every key from `key` up to, not including, this one.
            from_key: every key from `key` on; with an empty `key`, every key.
            start_revision: the first revision wanted, in the past or the future; 0 is
                from now, which means exactly what comes after
                `created.header.revision`.
            prev_kv: fill in `Event.prev_kv`, the key before each change.
            no_put: leave out puts.
            no_delete: leave out deletes.
            progress_notify: hand over the server's progress notifications: after
                one at revision R, no event of R or below follows.
            created_notify: hand over the creation response as the first.
            require_leader: fail with `NoLeaderError` when the member loses its leader;
                otherwise the watch goes on at another member.
            metadata: sent with the stream, beyond that of the channel. Watches with
                equal metadata and require_leader share a stream.
            max_buffered_events: how many events may wait for the user. Past it the
                watch is canceled on the server, and created again where it stopped
                once half has been taken.
            max_buffered_bytes: the same in bytes, as the server sent them.

        Raises:
            TypeError, ValueError: An argument is wrong; raised by the call, and the text
                names the argument.
            trio.ClosedResourceError: From entering: the watcher is closed.
            WatchCanceledError: From entering: the server refuses the watch; a subclass
                says why.
            RpcError: From entering: the server refuses the stream or the credentials.

        Recovery:
            A lost stream is opened anew, at the next endpoint, with growing waits of at
            most 3 s, and the watch resumes after the last event that it received. If
            that revision has been compacted meanwhile, the watch ends in
            `CompactedError`, after it has handed over what it received. If another
            cluster answers, it ends in `ClusterChangedError`; if the cluster is behind
            what it has told the watch, in `HistoryLostError`.
        """
        spec = watch_spec(
            key,
            prefix=prefix,
            range_end=range_end,
            from_key=from_key,
            start_revision=start_revision,
            prev_kv=prev_kv,
            no_put=no_put,
            no_delete=no_delete,
            progress_notify=progress_notify,
            created_notify=created_notify,
            max_buffered_events=max_buffered_events,
            max_buffered_bytes=max_buffered_bytes,
        )
        stream_key = (metadata_pairs(metadata), bool(require_leader))
        return WatchManager(partial(self._open, spec, stream_key))

    async def snapshot(
        self,
        key: str | bytes,
        *,
        prefix: bool = False,
        range_end: str | bytes | None = None,
        from_key: bool = False,
        revision: int = 0,
        metadata: MetadataLike = None,
    ) -> Snapshot:
        """Read a key, a prefix or a range as it stood at exactly one revision.

        A watch with `start_revision=snapshot.revision + 1` goes on exactly where it
        ends. While no endpoint answers it waits and retries, so bound it with
        `trio.fail_after()`. A checkpoint; if it is cancelled, nothing of it remains.

        It is read in pages of about 8 MiB (4 MiB without speedups), all of the first
        one's revision. A range of 100,000 keys of 100 bytes takes up to 1.5 times as long
        as in one message.

        Args:
            key: the key, or where the prefix or range begins; str is UTF-8.
            prefix: every key that begins with `key`; with an empty `key`, every key.
            range_end: every key from `key` up to, not including, this one.
            from_key: every key from `key` on; with an empty `key`, every key.
            revision: a past revision; 0 is the newest (linearizable: everything that
                was committed before the call is in it).
            metadata: sent with the requests, beyond that of the channel.

        Raises:
            TypeError, ValueError: An argument is wrong; the text names it.
            trio.ClosedResourceError: The watcher is closed.
            CompactedError: The given revision has been compacted; or, time after time,
                the newest one was, before all of its pages had come.
            FutureRevisionError: The given revision is ahead of the store.
            PermissionDeniedError: The user may not read the range.
            AuthenticationError: The credentials are refused.
            ClusterChangedError: Two clusters answered.
            RpcError: The server refuses the read; or a key with its value is larger
                than `max_message_size` (RESOURCE_EXHAUSTED).
        """
        keys = Range(
            *key_range(key, prefix=prefix, range_end=range_end, from_key=from_key)
        )
        check_int("revision", revision, low=0, high=MAX_REVISION)
        pairs = metadata_pairs(metadata)
        await trio.lowlevel.checkpoint()
        self._check_open()
        reads = Reads(self._connector, pairs, self._totals.lines, self._check_open)
        read = PagedRead(keys, put_key_values, revision=revision)
        with trio.CancelScope() as scope:
            self._reading.add(scope)
            try:
                await read_pages(reads.ask, read)
            finally:
                self._reading.remove(scope)
        if not read.done:
            raise trio.ClosedResourceError("this watcher was closed")
        return snapshot_of(read)

    def mirror(
        self,
        key: str | bytes,
        *,
        prefix: bool = False,
        range_end: str | bytes | None = None,
        from_key: bool = False,
        metadata: MetadataLike = None,
    ) -> AbstractAsyncContextManager[Mirror]:
        """Keep a live copy of a key, a prefix or a range.

        Entering returns once the range is read, and its watch confirmed; while no
        endpoint answers it waits and retries, so bound it with `trio.fail_after()`. If
        entering or leaving is cancelled, nothing of the mirror remains.

        Args:
            key: the key, or where the prefix or range begins; str is UTF-8.
            prefix: every key that begins with `key`; with an empty `key`, every key.
            range_end: every key from `key` up to, not including, this one.
            from_key: every key from `key` on; with an empty `key`, every key.
            metadata: sent with the stream and the reads, beyond that of the channel.

        Raises:
            TypeError, ValueError: An argument is wrong; raised by the call, and the text
                names the argument.
            trio.ClosedResourceError: From entering: the watcher is closed.
            PermissionDeniedError, AuthenticationError, ClusterChangedError, RpcError:
                From the block, which is cancelled: what no other try can mend. If the
                block raises as well, its exception comes out, with this one as its
                context.

        Recovery:
            As that of `watch()`. Where a watch would fail because history is compacted
            or lost, and where an event or a comparison shows the copy to be wrong, the
            range is read anew, and consumers are told the difference as one update with
            `resynced=True`.
        """
        keys = Range(
            *key_range(key, prefix=prefix, range_end=range_end, from_key=from_key)
        )
        pairs = metadata_pairs(metadata)
        reads = Reads(self._connector, pairs, self._totals.lines, self._check_open)

        def open_watch(start_revision: int) -> AbstractAsyncContextManager[Watch]:
            spec = mirror_spec(keys.key, keys.range_end, start_revision)
            return WatchManager(partial(self._open, spec, (pairs, False)))

        return open_mirror(Follower(keys, reads, open_watch, self._totals.lines))

    @trio.lowlevel.enable_ki_protection
    async def request_progress(self) -> None:
        """Ask the server how far it is, for every watch of every stream.

        The answer reaches each watch as a progress notification, if it comes: some
        servers give none while a watch is behind, and a lost stream loses it. It
        does not move `Watch.next_revision`, since etcd before 3.4.25 and 3.5.8 sends
        it ahead of events that it covers. Returns at once; a checkpoint. If it is
        cancelled, nothing was asked.

        Raises:
            trio.ClosedResourceError: The watcher is closed.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        for stream in self._serving:
            stream.request_progress()

    def statistics(self) -> WatcherStatistics:
        """Return how the watcher stands. Never blocks."""
        streams = () if self._closed else self._serving
        watches = [watch for stream in streams for watch in stream.watches]
        states = Counter(watch.state for watch in watches)
        totals = self._totals
        return WatcherStatistics(
            streams=sum(not stream.closed for stream in streams),
            creating=states[State.CREATING],
            live=states[State.LIVE],
            parked=states[State.PARKED],
            resuming=states[State.RESUMING],
            endpoints=self._connector.endpoints(),
            connections_made=self._connector.connections_made,
            reconnects=totals.reconnects,
            last_loss=totals.last_loss,
            bytes_received=totals.bytes_received,
            events_received=totals.events_received,
            events_delivered=totals.events_delivered,
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
            self._totals,
            require_leader=require_leader,
            move=self._move,
            delay=delay,
        )
        self._streams[key] = stream
        self._serving[stream] = key
        self._nursery.start_soon(self._serve, stream)
        return stream

    def _move(self, origin: WatchStream, subscription: Subscription) -> None:
        """Go on with a watch on a stream that has a newer token than its present one.

        New watches go there too; the others on the old stream notice nothing.
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
        """Close when the tasks are cancelled, from outside or by a bug.

        Nobody serves watches and reads any more then, and a shielded block may still
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
