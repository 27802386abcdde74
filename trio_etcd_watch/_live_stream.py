"""Runs one gRPC stream of watches as a nursery with its tasks, until the stream ends.

    the connection's reader, which calls the dispatcher -> the inbox of each watch

The dispatcher runs the session on the messages of one read, and puts the deliveries into
the memory channels of the watches. It does so in steps, between which other tasks run;
nothing waits for a user. What the watches hold is bounded by parking, in the session.

So the connection's reader is the receive task of all streams on it. A separate receive
task for each stream was built and measured, in interleaved rounds on a busy machine, as
medians of 13 ratios to a callback that filled a deque for each watch. It delivered 0.94,
0.87 and 0.91 of the events per second at 1, 10 and 500 events a response; the callback
with memory channels delivers 1.01, 0.99 and 0.99, and the time from a put to its event
(p50) is 1.02 of what it was. With the dispatcher in another task as well, that time was
1.09 and 1.22, in two series.

The send task sends the requests of the session. Other tasks check that replies come in
time, and note when the stream has lasted. `_stream` handles the end of the stream.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias, final

import trio
from google.protobuf.message import DecodeError

from ._backoff import MAX_DELAY
from ._connector import HAS_LEADER, Connector
from ._grpc.connection import Connection
from ._grpc.messages import Oversized
from ._grpc.metadata import Metadata
from ._grpc.reading import STEP
from ._grpc.status import CallEnd, Status, StreamLost
from ._outage import LineBudget, Outage
from ._pb import watch_pb2 as pb
from ._session import Session
from ._subscription import Delivery, Subscription
from ._verdicts import Call, Verdict, verdict_on

logger = logging.getLogger("trio_etcd_watch")

_WATCH = "/etcdserverpb.Watch/Watch"
_RANGE = "/etcdserverpb.KV/Range"

REPLY_TIMEOUT = 10.0
"""Seconds that a member may be silent on a stream that awaits a reply to a creation.
Then the next stream is opened elsewhere: a member that answers only PING is stuck."""

LEAST_PROGRESS = 10_240
"""Bytes that must come within REPLY_TIMEOUT for a large response to be waited for
without a limit: a peer that sends a few bytes now and then is stuck, too."""

MAX_SILENCES = 6
"""How many times REPLY_TIMEOUT a creation may wait while other responses come."""

MAX_ABANDONED = 10_000
"""How many creations on one stream may be abandoned before their replies come."""

_Messages: TypeAlias = "list[bytes | Oversized]"


@dataclass(slots=True)
class Counters:
    """What all streams of a watcher count and report, and their budget of log lines."""

    reconnects: int = 0
    last_loss: str | None = None
    bytes_received: int = 0
    events_received: int = 0
    events_delivered: int = 0
    lines: LineBudget = field(default_factory=LineBudget)


@dataclass(frozen=True, slots=True)
class Route:
    """The connection and the metadata of a stream.

    Attributes:
        connector: the connector that made the connection.
        connection: the connection that carries the stream.
        metadata: the metadata of the stream.
        token: the token in this metadata; None if it has none.
    """

    connector: Connector
    connection: Connection
    metadata: Metadata
    token: str | bytes | None

    def leave(self) -> None:
        """Open the next streams elsewhere."""
        self.connector.leave(self.connection)

    def forget_token(self) -> None:
        """Open the next stream with a new token, unless there is one already."""
        self.connector.forget_token(self.token)


@final
class LiveStream:
    """One gRPC stream and its tasks.

    Attributes:
        opened: when the first reply came; infinity before that.

    Args:
        route: the route of the stream.
        session: the session of the watches; the caller of `run()` connects it.
        counters: those of the watcher.
        outage: the outage that ends once this stream has lasted.
        worked: called at the first reply.
        expel: moves a watch to a stream with a new token.

    Raises:
        StreamLost: the connection can carry no such stream.
    """

    def __init__(
        self,
        route: Route,
        session: Session,
        counters: Counters,
        outage: Outage,
        *,
        worked: Callable[[], None],
        expel: Callable[[Subscription], None],
    ) -> None:
        self.opened: float = math.inf
        self._route = route
        self._session = session
        self._counters = counters
        self._outage = outage
        self._note_worked = worked
        self._expel = expel
        # How many reads have brought complete messages.
        self._received = 0
        self._wanted = trio.Event()
        self._asked = trio.Event()
        self._doubted = trio.Event()
        self._working = trio.Event()
        self._call = route.connection.open_call(
            _WATCH, (*route.metadata, *HAS_LEADER), self._dispatch
        )

    async def run(self) -> CallEnd:
        """Serve the stream until it ends; return how.

        Complete messages that came before the end are dispatched first. If one of them
        breaks the protocol, that is how the stream ended, whatever came after it.
        """
        try:
            if not self._session.unanswered:
                # All watches are parked, so no reply will come.
                self._note_working()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send)
                nursery.start_soon(self._bound_replies)
                nursery.start_soon(self._prove)
                nursery.start_soon(self._outlive)
                end = await self._call.wait_end()
                nursery.cancel_scope.cancel(reason=str(end))
            return end
        finally:
            self._call.reset()

    def wake(self) -> None:
        """Wake the tasks that the present state of the session concerns."""
        if self._session.abandoned > MAX_ABANDONED:
            self._call.reset("the server does not reply to creations of closed watches")
        if self._session.has_requests:
            self._wanted.set()
        if self._session.unanswered:
            self._asked.set()
        if self._session.unproved:
            self._doubted.set()

    # What is sent

    @trio.lowlevel.enable_ki_protection
    async def _send(self) -> None:
        try:
            while True:
                if requests := self._session.requests():
                    await self._call.send(requests)
                else:
                    self._wanted = trio.Event()
                    await self._wanted.wait()
        except StreamLost:
            # `run()` returns how the stream ended.
            return

    # What is received

    def _dispatch(self, messages: _Messages) -> Iterator[None]:
        """Run the session on the messages of one read, and dispatch its deliveries.

        After each step, each cursor agrees with its inbox, so that no event is lost
        if the steps that are left are not made: their messages are dropped.

        Raises:
            StreamLost: a message breaks the protocol. What came before it is dispatched.
        """
        self._received += 1
        self._note_working()
        deliveries = self._session.receive_messages(messages, trio.current_time())
        while self._dispatch_some(deliveries):
            yield

    def _dispatch_some(self, deliveries: Iterator[Delivery]) -> bool:
        """Dispatch a few of them; return whether there may be more."""
        session, counters = self._session, self._counters
        before = session.bytes_received
        count = 0
        try:
            for delivery in islice(deliveries, STEP):
                count += 1
                counters.events_received += delivery.events
                delivery.subscription.receiver.deliver(delivery)
        finally:
            counters.bytes_received += session.bytes_received - before
            for subscription in session.expelled():
                self._expel(subscription)
            self.wake()
        return count == STEP

    def _note_working(self) -> None:
        if not self._working.is_set():
            self.opened = trio.current_time()
            self._route.connector.trust()
            self._note_worked()
            self._working.set()

    # What watches the time

    @trio.lowlevel.enable_ki_protection
    async def _bound_replies(self) -> None:
        """Reset the stream, and reconnect elsewhere, if creations are not answered."""
        session, call = self._session, self._call
        silences = 0
        while True:
            if not session.unanswered:
                self._asked = trio.Event()
                await self._asked.wait()
            answered, came_before = session.answered, call.bytes_received
            received = self._received
            for _ in range(4):
                # A single long wait could end early: while the application blocks the
                # loop, nothing is read.
                await trio.sleep(REPLY_TIMEOUT / 4)
            if not session.unanswered or session.answered != answered:
                silences = 0
                continue
            came = call.bytes_received - came_before
            if came >= LEAST_PROGRESS and self._received == received:
                # One large response is arriving; etcd answers nothing meanwhile.
                continue
            silences += 1
            if not came or silences >= MAX_SILENCES:
                waited = silences * REPLY_TIMEOUT
                self._route.leave()
                call.reset(f"no reply to the creation of a watch for {waited:g} s")
                return

    @trio.lowlevel.enable_ki_protection
    async def _prove(self) -> None:
        """Read the cluster's revision for the watches that this member is behind."""
        while True:
            doubtful = self._session.unproved
            if not doubtful:
                self._doubted = trio.Event()
                await self._doubted.wait()
                continue
            try:
                with trio.fail_after(REPLY_TIMEOUT):
                    revision = await self._read_revision(doubtful[0])
            except (StreamLost, trio.TooSlowError) as exc:
                reason = str(exc) or f"no answer to a read within {REPLY_TIMEOUT:g} s"
                self._route.leave()
                self._call.reset(
                    f"this member is behind, and does not say why: {reason}"
                )
                return
            for delivery in self._session.prove(revision, doubtful):
                delivery.subscription.receiver.deliver(delivery)
            self.wake()

    async def _read_revision(self, subscription: Subscription) -> int:
        """Read the cluster's newest revision, linearizably.

        Raises:
            StreamLost: the read failed. An error that is final for the watch is the
                answer to its next creation.
        """
        # The user may read a key of the watch.
        request = pb.RangeRequest(key=subscription.spec.key, count_only=True)
        route = self._route
        reply = await route.connection.unary(
            _RANGE, request.SerializeToString(), route.metadata
        )
        if isinstance(reply, Status):
            if verdict_on(Call.READ, reply) is Verdict.NEW_TOKEN:
                route.forget_token()
            raise StreamLost(str(reply))
        try:
            header = pb.RangeResponse.FromString(reply).header
        except DecodeError as exc:
            raise StreamLost("the answer to Range cannot be parsed") from exc
        if header.cluster_id != subscription.cluster_id:
            raise StreamLost(f"another cluster answered a read: {header.cluster_id:x}")
        return header.revision

    @trio.lowlevel.enable_ki_protection
    async def _outlive(self) -> None:
        """Note when the stream works, and when it has lasted."""
        await self._working.wait()
        if not self._outage.lasts and self._counters.lines.take(self.opened):
            logger.info("connected to %s", self._route.connection.authority)
        await trio.sleep_until(self.opened + MAX_DELAY)
        self._outage.ended(trio.current_time())
