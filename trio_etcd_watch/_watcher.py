"""`open_watcher` and `Watcher`: one stream per set of metadata, one nursery for all."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

import trio

from ._channel import Channel, MetadataLike, as_channel, metadata_pairs
from ._connector import Connector
from ._requests import DEFAULT_MAX_BUFFERED_BYTES, WatchSpec, watch_spec
from ._stream import Totals, WatchStream
from ._subscription import State, Subscription
from ._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from ._grpc.metadata import Metadata

_StreamKey: TypeAlias = "tuple[Metadata, bool]"
"""Watches share a stream if their metadata and require_leader are equal."""


@final
@dataclass(frozen=True, slots=True)
class WatcherStatistics:
    """What `Watcher.statistics()` tells."""

    streams: int
    """Open, or being reopened."""
    creating: int
    """Watches whose creation the server has still to confirm."""
    live: int
    """Watches to which events flow."""
    parked: int
    """Watches that hold all they may, and wait for their users."""
    resuming: int
    """Watches that wait for a stream."""
    connections_made: int
    """Since the watcher was opened."""
    reconnects: int
    """How often a stream that had worked was lost."""
    last_loss: str | None
    """Why a stream was lost, refused or not opened, the last time; None if never."""
    bytes_received: int
    """Of watch responses, without their frames."""
    events_received: int
    """By all its watches so far."""
    events_delivered: int
    """Of these, taken by the users of the watches."""
    unread_events: int
    """Held for the users of open watches."""


@final
class Watcher:
    """Opens watches. Made by `open_watcher()`."""

    def __init__(self, connector: Connector, nursery: trio.Nursery) -> None:
        self._connector = connector
        self._nursery = nursery
        # Where new watches go, and all that are served: those with an old token live
        # on for the watches that they have.
        self._streams: dict[_StreamKey, WatchStream] = {}
        self._serving: dict[WatchStream, _StreamKey] = {}
        # Of the watches that have not been left, also those whose stream has halted.
        self._homes: dict[Subscription, WatchStream] = {}
        self._totals = Totals()
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
        cancels the watch, on the server too. Cancelled, either leaves nothing
        behind.

        Args:
            key: the key, or where the prefix or range begins; str is UTF-8.
            prefix: every key that begins with `key`; with "" every key.
            range_end: every key from `key` up to, not including, this one.
            from_key: every key from `key` on; with "" every key.
            start_revision: the first revision wanted, past ones included; 0 is from
                now: exactly what comes after `created.header.revision`.
            prev_kv: give `Event.prev_kv`.
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
            TypeError, ValueError: at the call, naming the argument.
            trio.ClosedResourceError: the watcher is closed.
            WatchCanceledError: entering: the server refuses the watch.
            RpcError: entering: it refuses the stream.

        Recovery:
            A lost stream is opened anew, on the next endpoint, with growing waits
            of at most 3 s, and the watch resumes behind the last event received. If
            that has been compacted meanwhile: `CompactedError`, after what was
            received. If another cluster answers: `ClusterChangedError`.
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
        return _WatchManager(self, spec, stream_key)

    @trio.lowlevel.enable_ki_protection
    async def request_progress(self) -> None:
        """Ask the server how far it is, for every watch of every stream.

        The answer reaches each watch as a progress notification, if it comes: some
        servers give none while a watch is behind, and a lost stream loses it. It
        does not move `Watch.next_revision`, since etcd before 3.4.25 and 3.5.8 sends
        it ahead of events that it covers. Returns at once; a checkpoint.

        Raises:
            trio.ClosedResourceError: the watcher is closed.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        for stream in self._serving:
            stream.request_progress()

    def statistics(self) -> WatcherStatistics:
        """Return how the watcher stands. Never blocks."""
        streams = () if self._closed else self._serving
        watches = () if self._closed else self._homes
        states = Counter(watch.state for watch in watches)
        totals = self._totals
        return WatcherStatistics(
            streams=sum(not stream.closed for stream in streams),
            creating=states[State.CREATING],
            live=states[State.LIVE],
            parked=states[State.PARKED],
            resuming=states[State.RESUMING],
            connections_made=self._connector.connections_made,
            reconnects=totals.reconnects,
            last_loss=totals.last_loss,
            bytes_received=totals.bytes_received,
            events_received=totals.events_received,
            events_delivered=totals.events_delivered,
            unread_events=sum(watch.unread for watch in watches),
        )

    def _open(self, spec: WatchSpec, key: _StreamKey) -> tuple[Subscription, Watch]:
        self._check_open()
        stream = self._streams.get(key)
        if stream is None or stream.closed:
            stream = self._start_stream(key)
        subscription, watch = stream.open(spec)
        self._homes[subscription] = stream
        return subscription, watch

    def _leave(self, subscription: Subscription) -> None:
        self._homes.pop(subscription).close(subscription)

    def _start_stream(self, key: _StreamKey) -> WatchStream:
        metadata, require_leader = key
        stream = WatchStream(
            self._connector,
            metadata,
            self._totals,
            require_leader=require_leader,
            move=self._move,
        )
        self._streams[key] = stream
        self._serving[stream] = key
        self._nursery.start_soon(self._serve, stream)
        return stream

    def _move(
        self, origin: WatchStream, subscription: Subscription, watch: Watch
    ) -> None:
        """Go on with a watch on a stream that has a newer token than its present one.

        New watches go there too; the others on the old stream notice nothing.
        """
        key = self._serving[origin]
        stream = self._streams.get(key, origin)
        if stream is origin or stream.closed:
            stream = self._start_stream(key)
        self._homes[subscription] = stream
        stream.adopt(subscription, watch)

    @trio.lowlevel.enable_ki_protection
    async def _serve(self, stream: WatchStream) -> None:
        try:
            await stream.run()
        finally:
            if not stream.closed:
                # Cancelled from outside. Nobody serves the watches any more, and a
                # shielded block may still wait for them.
                self._close()
        key = self._serving.pop(stream)
        if self._streams.get(key) is stream:
            del self._streams[key]

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this watcher is closed")

    def _close(self) -> None:
        self._closed = True
        for stream in self._serving:
            stream.close_watches()


# The managers are classes, as a generator would leave gaps around its own protection:
# a KeyboardInterrupt between contextlib's code and ours would leak what was entered.
# While protected code waits, Trio raises KeyboardInterrupt out of the wait.


@final
class _WatchManager(AbstractAsyncContextManager[Watch]):
    """What `Watcher.watch()` returns."""

    def __init__(self, watcher: Watcher, spec: WatchSpec, key: _StreamKey) -> None:
        self._watcher = watcher
        self._spec = spec
        self._key = key
        self._subscription: Subscription | None = None

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Watch:
        await trio.lowlevel.checkpoint()
        if self._subscription is not None:
            raise RuntimeError("entered twice: call watch() once for each watch")
        subscription, watch = self._watcher._open(self._spec, self._key)
        self._subscription = subscription
        try:
            await watch._wait_created()
        except BaseException:
            self._watcher._leave(subscription)
            raise
        return watch

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        body: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._subscription is not None
        self._watcher._leave(self._subscription)
        if body is None:
            await trio.lowlevel.checkpoint()


def open_watcher(
    channel: Channel | str | Sequence[str] | object,
) -> AbstractAsyncContextManager[Watcher]:
    """Open a watcher on a cluster.

    It connects when the first watch is opened, and again whenever it has to.
    Leaving, or cancelling, the block ends every watch and closes the connection. An
    exception of the block comes out as itself.

    Args:
        channel: a `Channel`, an endpoint, a sequence of endpoints, or a purerpc
            channel, entered or not: its host, port and TLS context are taken, and
            its own connection is left alone, since it cannot reconnect.

    Raises:
        TypeError, ValueError: at the call, naming the argument.
        RuntimeError: a bug of this package; please report it.
    """
    return _WatcherManager(as_channel(channel))


@final
class _WatcherManager(AbstractAsyncContextManager[Watcher]):
    """What `open_watcher()` returns.

    What the user sees: the body's exception as itself, or one Cancelled, whatever else
    happens. A background task raises nothing but Cancelled, unless it has a bug: then
    the body is cancelled, and the bug comes out, with an exception of the body's.
    KeyboardInterrupt goes to the user's tasks: ours are protected from it.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._watcher: Watcher | None = None
        self._tasks = trio.open_nursery(strict_exception_groups=True)

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Watcher:
        await trio.lowlevel.checkpoint()
        if self._watcher is not None:
            raise RuntimeError("entered twice: call open_watcher() for each watcher")
        nursery = await self._tasks.__aenter__()
        self._watcher = Watcher(Connector(self._channel, nursery), nursery)
        return self._watcher

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        body: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failure = await self._end_tasks()
        if failure is not None:
            if failure.subgroup(Exception):
                raise RuntimeError(
                    "a bug in trio-etcd-watch; please report it"
                ) from BaseExceptionGroup(
                    "background tasks, and the block",
                    [failure, body] if body else [failure],
                )
            for exc in failure.exceptions:
                if isinstance(exc, KeyboardInterrupt):
                    # It came while this task waited for the others.
                    raise exc
            # What is no Exception (SystemExit of a signal handler) came to a task.
            raise failure
        if body is None:
            await trio.lowlevel.checkpoint_if_cancelled()

    async def _end_tasks(self) -> BaseExceptionGroup[BaseException] | None:
        """End the background tasks; return what they raised but Cancelled."""
        assert self._watcher is not None
        self._watcher._close()
        self._watcher._nursery.cancel_scope.cancel(reason="the watcher is closed")
        try:
            await self._tasks.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            return group.split(trio.Cancelled)[1]
        return None
