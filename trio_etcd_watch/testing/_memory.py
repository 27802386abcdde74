"""Connects the library to a scripted etcd in memory, without sockets.

These classes replace `Connector`, `Connection` and `Call`, and have the methods of
theirs that the library uses. A task of the watcher delivers messages, as with a real
connection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import final

import trio

from trio_etcd_watch._channel import DEFAULT_MAX_MESSAGE_SIZE, Channel
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._grpc.metadata import Metadata
from trio_etcd_watch._grpc.status import CallEnd, Status, StatusCode, StreamLost
from trio_etcd_watch._grpc.steps import Deliver
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._reads import STATUS
from trio_etcd_watch._statistics import EndpointStatistics

from ._factories import DENIED
from ._store import Store

OK = Status(StatusCode.OK, "")

_WATCH = "/etcdserverpb.Watch/Watch"


@final
class ServerWatch:
    """One watch on the server's side.

    Attributes:
        next: the first revision whose events have not been sent to it.
    """

    def __init__(self, watch_id: int, request: pb.WatchCreateRequest, now: int) -> None:
        self.watch_id = watch_id
        self.request = request
        self.next = request.start_revision or now + 1


@final
class MemoryCall:
    """A call: one Watch stream, or one read."""

    def __init__(
        self,
        link: Link,
        path: str,
        deliver: Deliver,
    ) -> None:
        self.bytes_received = 0
        self.watches: dict[int, ServerWatch] = {}
        self._link = link
        self._path = path
        self._deliver = deliver
        self._outbox: list[bytes | Oversized] = []
        # How the call is to end once the outbox is empty, and how it has ended.
        self._ending: CallEnd | None = None
        self._end: CallEnd | None = None
        self._ended = trio.Event()
        self._ids = 0

    # Used by the library

    async def send(self, messages: Iterable[bytes], *, end: bool = False) -> None:
        """Receive requests of the library."""
        await trio.lowlevel.checkpoint()
        if self._end is not None:
            raise StreamLost("the call has ended")
        for message in messages:
            if self._path == _WATCH:
                self._handle(pb.WatchRequest.FromString(message))
            else:
                self._answer(self._link.answer(self._path, message))

    async def wait_end(self) -> CallEnd:
        """Return how the call has ended, once all its messages are delivered."""
        await self._ended.wait()
        assert self._end is not None, "set before the event"
        return self._end

    def reset(self, reason: str = "reset") -> None:
        """End the call at once."""
        self._finish(StreamLost(reason))

    # Used by the scripted etcd

    def respond(self, message: pb.WatchResponse) -> None:
        """Queue a response, with the current header if it has none."""
        if not message.HasField("header"):
            message.header.CopyFrom(self._link.store.header())
        self._outbox.append(message.SerializeToString())
        self._link.wake()

    def end(self, how: CallEnd) -> None:
        """End the call after the messages that are queued."""
        self._ending = how
        self._link.wake()

    def push(self) -> None:
        """Queue for every watch the events that have not been sent to it."""
        for watch in list(self.watches.values()):
            self._push(watch)

    def deliver(self) -> None:
        """Deliver the queued messages."""
        if self._outbox and self._end is None:
            messages, self._outbox = self._outbox, []
            self.bytes_received += sum(
                len(each) for each in messages if isinstance(each, bytes)
            )
            try:
                for _ in self._deliver(messages) or ():
                    pass
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

    def _handle(self, request: pb.WatchRequest) -> None:
        if request.HasField("create_request"):
            self._create(request.create_request)
        elif request.HasField("cancel_request"):
            watch_id = request.cancel_request.watch_id
            if self.watches.pop(watch_id, None):
                self.respond(pb.WatchResponse(watch_id=watch_id, canceled=True))
                self._link.note_watches()
        else:
            self.respond(pb.WatchResponse(watch_id=-1))

    def _create(self, request: pb.WatchCreateRequest) -> None:
        store = self._link.store
        if store.is_denied(request.key, request.range_end):
            self.respond(
                pb.WatchResponse(
                    watch_id=-1, created=True, canceled=True, cancel_reason=DENIED
                )
            )
            return
        watch = ServerWatch(self._ids, request, store.revision)
        self._ids += 1
        self.respond(pb.WatchResponse(watch_id=watch.watch_id, created=True))
        if watch.next < store.compacted:
            self.respond(
                pb.WatchResponse(
                    header=pb.ResponseHeader(cluster_id=store.cluster_id),
                    watch_id=watch.watch_id,
                    canceled=True,
                    compact_revision=store.compacted,
                )
            )
            return
        self.watches[watch.watch_id] = watch
        self._push(watch)
        self._link.note_watches()

    def _push(self, watch: ServerWatch) -> None:
        store = self._link.store
        events = store.events(watch.request, watch.next)
        watch.next = max(watch.next, store.revision + 1)
        if events:
            self.respond(pb.WatchResponse(watch_id=watch.watch_id, events=events))


@final
class Link:
    """A connection in memory."""

    authority = "scripted"
    max_message_size = DEFAULT_MAX_MESSAGE_SIZE

    def __init__(self, store: Store, note_watches: Callable[[], None]) -> None:
        self.lost: StreamLost | None = None
        self.store = store
        self.note_watches = note_watches
        # An ordered set.
        self.calls: dict[MemoryCall, None] = {}
        self._woken = trio.Event()

    def wake(self) -> None:
        """Have the queued messages delivered."""
        self._woken.set()

    async def run(self) -> None:
        """Deliver queued messages until the link is lost."""
        try:
            while self.lost is None:
                await self._woken.wait()
                self._woken = trio.Event()
                for call in list(self.calls):
                    call.deliver()
        finally:
            self.lose("closed")

    def lose(self, reason: str) -> None:
        """Break the link, and with it every call."""
        if self.lost is None:
            self.lost = StreamLost(reason)
            for call in list(self.calls):
                call.deliver()
                call.reset(reason)
            self.wake()

    # Used by the library

    def open_call(
        self,
        path: str,
        metadata: Metadata,
        deliver: Deliver,
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
        """Answer a unary call."""
        await trio.lowlevel.checkpoint()
        if self.lost is not None:
            raise self.lost
        return self.answer(path, request)

    def answer(self, path: str, request: bytes) -> bytes | Status:
        """Answer a unary call."""
        answer: pb.StatusResponse | pb.RangeResponse | Status
        if path == STATUS:
            answer = self.store.status()
        else:
            answer = self.store.range(pb.RangeRequest.FromString(request))
        return answer if isinstance(answer, Status) else answer.SerializeToString()


@final
class MemoryConnector:
    """A connector to a scripted etcd.

    Args:
        dial: returns a new link, or raises StreamLost.
        nursery: the watcher's nursery, in which links run.
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
        """Return a link that is not lost, and no metadata."""
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise StreamLost("the watcher is closed")
        if self._link is None or self._link.lost is not None:
            self._link = self._dial()
            self.connections_made += 1
            self._nursery.start_soon(self._link.run)
        return self._link, ()

    def endpoints(self) -> tuple[EndpointStatistics, ...]:
        """Return the only endpoint."""
        in_use = self._link is not None and self._link.lost is None
        return (EndpointStatistics("scripted:2379", "given", in_use),)

    def leave(self, link: Link) -> None:
        """Do nothing, since there is no other endpoint to reconnect to."""

    def suspect(self, link: Link) -> None:
        """Do nothing, since there is no other endpoint to trust more."""

    def trust(self) -> None:
        """Do nothing, since no link is suspected."""

    def token_renewed(self, link: Link) -> float:
        """Return minus infinity, since there are no tokens."""
        return -math.inf

    def forget_token(self, token: str | bytes | None) -> bool:
        """Return False, since there are no tokens."""
        return False

    def close(self) -> None:
        """Refuse to connect from now on."""
        self._closed = True
