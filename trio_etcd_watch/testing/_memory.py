"""A way to a scripted etcd without a connection: what the library asks, and is told.

It stands in for `Connector`, `Connection` and `Call`, by the methods that the library
uses of them. Messages are handed on by a task of the watcher's, as from a real connection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import final

import trio

from trio_etcd_watch._channel import Channel
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._grpc.metadata import Metadata
from trio_etcd_watch._grpc.status import CallEnd, Status, StatusCode, StreamLost
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._statistics import EndpointStatistics

from ._factories import DENIED
from ._store import Store

OK = Status(StatusCode.OK, "")

_WATCH = "/etcdserverpb.Watch/Watch"


@final
class Watching:
    """One watch, as the server has it.

    Attributes:
        next: the first revision that it has still to be told.
    """

    def __init__(self, watch_id: int, request: pb.WatchCreateRequest, now: int) -> None:
        self.watch_id = watch_id
        self.request = request
        self.next = request.start_revision or now + 1


@final
class MemoryCall:
    """A call: of one Watch stream, or of one read."""

    def __init__(
        self,
        link: Link,
        path: str,
        deliver: Callable[[list[bytes | Oversized]], None],
    ) -> None:
        self.bytes_received = 0
        self.watches: dict[int, Watching] = {}
        self._link = link
        self._is_watch = path == _WATCH
        self._deliver = deliver
        self._outbox: list[bytes | Oversized] = []
        # How it is to end once the outbox is empty, and how it has ended.
        self._ending: CallEnd | None = None
        self._end: CallEnd | None = None
        self._ended = trio.Event()
        self._ids = 0

    # The library's side

    async def send(self, messages: Iterable[bytes], *, end: bool = False) -> None:
        """Take requests."""
        await trio.lowlevel.checkpoint()
        if self._end is not None:
            raise StreamLost("the call has ended")
        for message in messages:
            if self._is_watch:
                self._take(pb.WatchRequest.FromString(message))
            else:
                self._answer(self._link.range(message))

    async def wait_end(self) -> CallEnd:
        """Return how it has ended, once all its messages are handed on."""
        await self._ended.wait()
        assert self._end is not None, "set before the event"
        return self._end

    def reset(self, reason: str = "reset") -> None:
        """End it at once."""
        self._finish(StreamLost(reason))

    # The server's side

    def tell(self, message: pb.WatchResponse) -> None:
        """Send a response, with the header of now if it has none."""
        if not message.HasField("header"):
            message.header.CopyFrom(self._link.store.header())
        self._outbox.append(message.SerializeToString())
        self._link.wake()

    def end(self, how: CallEnd) -> None:
        """End it behind what is on its way."""
        self._ending = how
        self._link.wake()

    def push(self) -> None:
        """Tell every watch what it has still to be told."""
        for watching in list(self.watches.values()):
            self._push(watching)

    def pump(self) -> None:
        """Hand on what is on its way."""
        if self._outbox and self._end is None:
            messages, self._outbox = self._outbox, []
            self.bytes_received += sum(
                len(each) for each in messages if isinstance(each, bytes)
            )
            try:
                self._deliver(messages)
            except StreamLost as exc:
                self._finish(exc)
        if self._ending is not None:
            self._finish(self._ending)

    def _finish(self, how: CallEnd) -> None:
        if self._end is None:
            self._end = how
            self.watches.clear()
            self._link.calls.pop(self, None)
            self._ended.set()
            self._link.note_watches()

    def _answer(self, answer: bytes | Status) -> None:
        if isinstance(answer, bytes):
            self._outbox.append(answer)
        self.end(answer if isinstance(answer, Status) else OK)

    def _take(self, request: pb.WatchRequest) -> None:
        if request.HasField("create_request"):
            self._create(request.create_request)
        elif request.HasField("cancel_request"):
            watch_id = request.cancel_request.watch_id
            if self.watches.pop(watch_id, None):
                self.tell(pb.WatchResponse(watch_id=watch_id, canceled=True))
                self._link.note_watches()
        else:
            self.tell(pb.WatchResponse(watch_id=-1))

    def _create(self, request: pb.WatchCreateRequest) -> None:
        store = self._link.store
        if store.is_denied(request.key, request.range_end):
            self.tell(
                pb.WatchResponse(
                    watch_id=-1, created=True, canceled=True, cancel_reason=DENIED
                )
            )
            return
        watching = Watching(self._ids, request, store.revision)
        self._ids += 1
        self.tell(pb.WatchResponse(watch_id=watching.watch_id, created=True))
        if watching.next < store.compacted:
            self.tell(
                pb.WatchResponse(
                    header=pb.ResponseHeader(cluster_id=store.cluster_id),
                    watch_id=watching.watch_id,
                    canceled=True,
                    compact_revision=store.compacted,
                )
            )
            return
        self.watches[watching.watch_id] = watching
        self._push(watching)
        self._link.note_watches()

    def _push(self, watching: Watching) -> None:
        store = self._link.store
        events = store.events(watching.request, watching.next)
        watching.next = max(watching.next, store.revision + 1)
        if events:
            self.tell(pb.WatchResponse(watch_id=watching.watch_id, events=events))


@final
class Link:
    """What stands for a connection."""

    authority = "scripted"

    def __init__(self, store: Store, note_watches: Callable[[], None]) -> None:
        self.lost: StreamLost | None = None
        self.store = store
        self.note_watches = note_watches
        # In order, and none twice.
        self.calls: dict[MemoryCall, None] = {}
        self._woken = trio.Event()

    def wake(self) -> None:
        """Have what is on its way handed on."""
        self._woken.set()

    async def run(self) -> None:
        """Hand on what is on its way, as long as it is not lost."""
        try:
            while self.lost is None:
                await self._woken.wait()
                self._woken = trio.Event()
                for call in list(self.calls):
                    call.pump()
        finally:
            self.lose("closed")

    def lose(self, reason: str) -> None:
        """Break it, and with it every call."""
        if self.lost is None:
            self.lost = StreamLost(reason)
            for call in list(self.calls):
                call.pump()
                call.reset(reason)
            self.wake()

    # The library's side

    def open_call(
        self,
        path: str,
        metadata: Metadata,
        deliver: Callable[[list[bytes | Oversized]], None],
    ) -> MemoryCall:
        """Start a call."""
        if self.lost is not None:
            raise self.lost
        call = MemoryCall(self, path, deliver)
        self.calls[call] = None
        return call

    async def unary(
        self, path: str, request: bytes, metadata: Metadata
    ) -> bytes | Status:
        """Answer a read."""
        await trio.lowlevel.checkpoint()
        if self.lost is not None:
            raise self.lost
        return self.range(request)

    def range(self, request: bytes) -> bytes | Status:
        """Answer a read."""
        answer = self.store.range(pb.RangeRequest.FromString(request))
        return answer if isinstance(answer, Status) else answer.SerializeToString()


@final
class MemoryConnector:
    """What stands for a `Connector`.

    Args:
        dial: gives a new link, or raises StreamLost.
        nursery: of the watcher; serves the links.
    """

    can_authenticate = False

    def __init__(self, dial: Callable[[], Link], nursery: trio.Nursery) -> None:
        self.channel = Channel("scripted:2379")
        self.connections_made = 0
        self._dial = dial
        self._nursery = nursery
        self._link: Link | None = None
        self._closed = False

    async def connect(self) -> tuple[Link, Metadata]:
        """Return a living link."""
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise StreamLost("the watcher is closed")
        if self._link is None or self._link.lost is not None:
            self._link = self._dial()
            self.connections_made += 1
            self._nursery.start_soon(self._link.run)
        return self._link, ()

    def endpoints(self) -> tuple[EndpointStatistics, ...]:
        """Return the one that there is."""
        in_use = self._link is not None and self._link.lost is None
        return (EndpointStatistics("scripted:2379", "given", in_use),)

    def leave(self, link: Link) -> None:
        """There is no other place to go."""

    def suspect(self, link: Link) -> None:
        """Nor is there another to trust more."""

    def trust(self) -> None:
        """Nobody is suspected."""

    def token_renewed(self, link: Link) -> float:
        """There are no tokens."""
        return -math.inf

    def forget_token(self, token: str | bytes | None) -> bool:
        """There are no tokens."""
        return False

    def close(self) -> None:
        """Take no more calls."""
        self._closed = True
