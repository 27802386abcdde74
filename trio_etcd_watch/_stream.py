"""One gRPC stream and its watches: opened, served, lost, resumed.

The session says what to send and who gets what; here it is sent and handed out. While
a stream lives, tasks of its nursery send, bound the time to each reply and wait for its
end, and the connection's reader hands out what comes. When it is lost, after a while
the next begins with all watches that are still wanted. Watches outlive it; nothing here
ever waits for their users.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

import trio
from google.protobuf.message import DecodeError

from ._backoff import MAX_DELAY, delays
from ._connector import HAS_LEADER, PATIENCE, Connector
from ._errors import AuthenticationError, NoLeaderError, RpcError, WatchError
from ._face import construct
from ._grpc.connection import Call as GrpcCall
from ._grpc.connection import Connection
from ._grpc.messages import Oversized
from ._grpc.metadata import Metadata
from ._grpc.status import CallEnd, Status, StatusCode, StreamLost
from ._log import printable
from ._outage import LineBudget, Outage
from ._pb import watch_pb2 as pb
from ._requests import WatchSpec
from ._responses import watch_id_of_head
from ._runs import split_runs
from ._session import Session
from ._subscription import Delivery, State, Subscription
from ._verdicts import MAX_REFUSED_TOKENS, Call, Verdict, verdict_on
from ._watch import Watch

logger = logging.getLogger("trio_etcd_watch")

_WATCH = "/etcdserverpb.Watch/Watch"
_RANGE = "/etcdserverpb.KV/Range"

NEW_TOKEN_AGE = 2.0
"""Seconds for which a token that replaced a refused one is taken to be good: watches
that are denied must not each cost a new one. etcd's tokens live for minutes, unless told
otherwise."""

REPLY_TIMEOUT = 10.0
"""Seconds that a member may be silent on a stream that waits for a reply to a creation.
Then it is left: one that answers PING and nothing else is stuck."""

LEAST_PROGRESS = 10_240
"""Bytes in REPLY_TIMEOUT that a response has to bring to be waited for without a limit:
a peer that sends a few now and then is stuck too."""

MAX_SILENCES = 6
"""So many times REPLY_TIMEOUT a creation may wait while other replies come."""

MAX_ABANDONED = 10_000
"""Creations of one stream that were left before their replies have come."""


@dataclass(slots=True)
class Totals:
    """What the streams of a watcher count and share, also those closed by now."""

    reconnects: int = 0
    last_loss: str | None = None
    bytes_received: int = 0
    events_received: int = 0
    events_delivered: int = 0
    lines: LineBudget = field(default_factory=LineBudget)


@final
class WatchStream:
    """The watches that share one set of metadata, and their stream.

    Args:
        connector: opens connections.
        metadata: of the user.
        require_leader: whether a member without a leader is an error.
        totals: of the watcher.
        move: takes a watch that needs a stream with a new token.
        delay: seconds to wait before the first try.
    """

    def __init__(
        self,
        connector: Connector,
        metadata: Metadata,
        totals: Totals,
        *,
        require_leader: bool,
        move: Callable[[WatchStream, Subscription, Watch], None],
        delay: float = 0.0,
    ) -> None:
        self._connector = connector
        self._totals = totals
        self._metadata = metadata
        self._require_leader = require_leader
        self._move = move
        self._delay = delay
        self._session = Session(
            max_message_size=connector.channel.max_message_size,
            can_authenticate=connector.can_authenticate,
            has_new_token=self._has_new_token,
        )
        self._token: str | bytes | None = None
        self._token_renewed = -math.inf
        self._watches: dict[Subscription, Watch] = {}
        self._wanted = trio.Event()
        self._asked = trio.Event()
        self._doubted = trio.Event()
        # How many reads have brought whole messages.
        self._dispatched = 0
        self._call: GrpcCall | None = None
        self._scope = trio.CancelScope()
        self._outage = Outage(totals.lines)
        self._refused_tokens = 0
        self._worked = trio.Event()
        self._opened = math.inf

    @property
    def closed(self) -> bool:
        """Whether it takes no more watches: the last one was left, or it halted."""
        return self._scope.cancel_called

    # The user's side

    def open(self, spec: WatchSpec) -> tuple[Subscription, Watch]:
        """Add a watch; `Watch._wait_created()` says when the server knows of it."""
        subscription = self._session.open(spec)
        watch = self._watches[subscription] = construct(Watch, subscription, self._take)
        self._flush()
        return subscription, watch

    def adopt(self, subscription: Subscription, watch: Watch) -> None:
        """Go on with a watch that another stream has expelled."""
        self._watches[subscription] = watch
        watch._take = self._take
        self._session.adopt(subscription)
        self._flush()

    def close(self, subscription: Subscription) -> None:
        """Drop a watch, here and on the server; with the last one goes the stream."""
        self._session.close(subscription)
        self._watches.pop(subscription)._close()
        if self._session.abandoned > MAX_ABANDONED and self._call:
            self._call.reset("replies to creations that were left do not come")
        self._flush()
        if not self._watches:
            self._scope.cancel(reason="the last watch of this stream was left")

    def close_watches(self) -> None:
        """End every wait for these watches: their watcher is closed."""
        for subscription, watch in self._watches.items():
            self._session.close(subscription)
            watch._close()

    def request_progress(self) -> None:
        """Ask the server how far it is; without a stream do nothing."""
        self._session.request_progress()
        self._flush()

    def _take(self, subscription: Subscription, events: int, size: int) -> None:
        self._totals.events_delivered += events
        self._session.take(subscription, events, size)
        self._flush()

    # The server's side

    async def run(self) -> None:
        """Serve the watches until the last one is left, or the stream halts."""
        waits = delays(random.random)
        wait = next(waits)
        with self._scope:
            await trio.sleep(self._delay)
            while True:
                self._worked = trio.Event()
                self._opened = math.inf
                end = await self._serve_once()
                if isinstance(end, WatchError):
                    self._halt(end)
                    return
                if not any(True for _ in self._session.subscriptions):
                    # All have failed; their users will notice.
                    self._scope.cancel(reason=str(end))
                    return
                lived = trio.current_time() - self._opened
                self._totals.reconnects += lived >= 0
                wait = waits.send(lived > MAX_DELAY)
                self._note_loss(str(end))
                self._outage.failed(trio.current_time(), str(end), wait)
                await trio.sleep(wait)

    async def _serve_once(self) -> StreamLost | WatchError:
        """Open a stream, serve it, and return how it ended."""
        try:
            connection, metadata = await self._connector.connect()
        except (StreamLost, RpcError) as exc:
            return exc
        self._token = dict(metadata).get("token")
        self._token_renewed = self._connector.token_renewed(connection)
        try:
            call = connection.open_call(
                _WATCH, (*metadata, *self._metadata, *HAS_LEADER), self._dispatch
            )
        except StreamLost as exc:
            # It has as many streams as the server allows: the next takes this one.
            self._connector.leave(connection)
            return exc
        asked = trio.current_time()
        try:
            return await self._serve(connection, call, metadata)
        finally:
            self._session.disconnect()
            self._call = None
            call.reset()
            waited = trio.current_time() - asked
            if not self._worked.is_set():
                # It did not serve; the next may.
                if not self.closed:
                    self._connector.leave(connection)
                elif waited > PATIENCE:
                    self._connector.suspect(connection)

    async def _serve(
        self, connection: Connection, call: GrpcCall, metadata: Metadata
    ) -> StreamLost | WatchError:
        self._call = call
        self._session.connect()
        if not self._session.unanswered:
            # All are parked: nobody asks anything.
            self._note_working()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, call)
            nursery.start_soon(self._bound_replies, connection, call)
            nursery.start_soon(self._prove, connection, call, metadata)
            nursery.start_soon(self._outlive, connection)
            end = await call.wait_end()
            nursery.cancel_scope.cancel(reason=str(end))
        return self._judge(connection, end)

    @trio.lowlevel.enable_ki_protection
    async def _send(self, call: GrpcCall) -> None:
        try:
            while True:
                if requests := self._session.requests():
                    await call.send(requests)
                else:
                    self._wanted = trio.Event()
                    await self._wanted.wait()
        except StreamLost:
            # Whoever waits for the end learns of it too, and says how.
            return

    @trio.lowlevel.enable_ki_protection
    async def _bound_replies(self, connection: Connection, call: GrpcCall) -> None:
        """Leave a member that does not answer creations."""
        session = self._session
        silences = 0
        while True:
            if not session.unanswered:
                self._asked = trio.Event()
                await self._asked.wait()
            answered, received = session.answered, call.bytes_received
            dispatched = self._dispatched
            for _ in range(4):
                # In parts: while the application blocks the loop, nothing is read.
                await trio.sleep(REPLY_TIMEOUT / 4)
            if not session.unanswered or session.answered != answered:
                silences = 0
                continue
            came = call.bytes_received - received
            if came >= LEAST_PROGRESS and self._dispatched == dispatched:
                # One large response is on its way; etcd answers nothing meanwhile.
                continue
            silences += 1
            if not came or silences >= MAX_SILENCES:
                waited = silences * REPLY_TIMEOUT
                self._connector.leave(connection)
                call.reset(f"no reply to the creation of a watch for {waited:g} s")
                return

    @trio.lowlevel.enable_ki_protection
    async def _prove(
        self, connection: Connection, call: GrpcCall, metadata: Metadata
    ) -> None:
        """Ask how far the cluster is, for the watches that this member is behind."""
        while True:
            doubtful = self._session.unproved
            if not doubtful:
                self._doubted = trio.Event()
                await self._doubted.wait()
                continue
            try:
                with trio.fail_after(REPLY_TIMEOUT):
                    revision = await self._read_revision(
                        connection, doubtful[0], (*metadata, *self._metadata)
                    )
            except (StreamLost, trio.TooSlowError) as exc:
                reason = str(exc) or f"no answer to a read within {REPLY_TIMEOUT:g} s"
                self._connector.leave(connection)
                call.reset(f"this member is behind, and cannot tell why: {reason}")
                return
            self._hand_out(self._session.prove(revision, doubtful))
            self._flush()

    async def _read_revision(
        self, connection: Connection, subscription: Subscription, metadata: Metadata
    ) -> int:
        """Read the cluster's newest revision, linearizably.

        Raises:
            StreamLost: this member cannot tell. What is final for the watch, its next
                creation tells.
        """
        # A key that the watch may read, so that its user may.
        request = pb.RangeRequest(key=subscription.spec.key, count_only=True)
        reply = await connection.unary(_RANGE, request.SerializeToString(), metadata)
        if isinstance(reply, Status):
            if verdict_on(Call.READ, reply) is Verdict.NEW_TOKEN:
                self._connector.forget_token(self._token)
            raise StreamLost(str(reply))
        try:
            header = pb.RangeResponse.FromString(reply).header
        except DecodeError as exc:
            raise StreamLost("the answer to Range cannot be parsed") from exc
        if header.cluster_id != subscription.cluster_id:
            raise StreamLost(f"cluster {header.cluster_id:x} answers")
        return header.revision

    @trio.lowlevel.enable_ki_protection
    async def _outlive(self, connection: Connection) -> None:
        """Note that the stream works, and that it lasts."""
        await self._worked.wait()
        if not self._outage.lasts and self._totals.lines.take(self._opened):
            logger.info("connected to %s", connection.authority)
        await trio.sleep_until(self._opened + MAX_DELAY)
        self._outage.ended(trio.current_time())

    def _dispatch(self, messages: Sequence[bytes | Oversized]) -> None:
        """Hand out what one read has brought."""
        self._dispatched += 1
        self._note_working()
        try:
            for run in split_runs(messages):
                self._receive(run)
        finally:
            for subscription in self._session.expelled():
                self._expel(subscription)
            if self._session.unproved:
                self._doubted.set()
            self._flush()

    def _receive(self, run: list[bytes] | Oversized) -> None:
        if isinstance(run, Oversized):
            watch_id = watch_id_of_head(run.head)
            self._hand_out(self._session.receive_oversized(watch_id, run.size))
        else:
            self._totals.bytes_received += sum(map(len, run))
            self._hand_out(self._session.receive_run(run))

    def _hand_out(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self._totals.events_received += delivery.events
            self._watches[delivery.subscription]._deliver(delivery)

    def _expel(self, subscription: Subscription) -> None:
        self._connector.forget_token(self._token)
        if subscription.lost_at is None:
            subscription.lost_at = trio.current_time()
        self._move(self, subscription, self._watches.pop(subscription))
        if not self._watches:
            self._scope.cancel(reason="the last watch of this stream was moved")

    def _note_working(self) -> None:
        if not self._worked.is_set():
            self._opened = trio.current_time()
            self._refused_tokens = 0
            self._connector.trust()
            self._worked.set()

    def _note_loss(self, reason: str) -> None:
        self._totals.last_loss = reason = printable(reason)
        now = trio.current_time()
        for subscription in self._session.subscriptions:
            subscription.last_loss = reason
            if subscription.lost_at is None and subscription.state is not State.PARKED:
                # Tries that fail do not make it shorter. One that is parked has none.
                subscription.lost_at = now

    def _has_new_token(self) -> bool:
        return trio.current_time() - self._token_renewed < NEW_TOKEN_AGE

    # The end of a stream

    def _judge(self, connection: Connection, end: CallEnd) -> StreamLost | WatchError:
        if isinstance(end, StreamLost):
            return end
        lost = StreamLost(f"the server ended the stream with {end}")
        error = RpcError(end.code, end.message)
        match verdict_on(Call.STREAM, end):
            case Verdict.NO_LEADER if self._require_leader:
                return NoLeaderError(end.code, end.message)
            case Verdict.NEW_TOKEN:
                return self._renew_token(lost, end)
            case Verdict.FINAL:
                self._hand_out(self._session.refuse(error))
            case Verdict.TOO_LARGE:
                self._hand_out(self._session.refuse_largest(error))
            case Verdict.ELSEWHERE | Verdict.NO_LEADER:
                self._connector.leave(connection)
                if end.code is StatusCode.UNIMPLEMENTED:
                    return StreamLost(f"{lost}; is this etcd?")
        return lost

    def _renew_token(self, lost: StreamLost, end: Status) -> StreamLost | WatchError:
        self._connector.forget_token(self._token)
        self._refused_tokens += 1
        if self._connector.can_authenticate and (
            self._refused_tokens <= MAX_REFUSED_TOKENS
        ):
            return lost
        return AuthenticationError(end.code, end.message)

    def _halt(self, error: WatchError) -> None:
        self._note_loss(str(error))
        self._hand_out(self._session.halt(error))
        self._scope.cancel(reason=str(error))

    def _flush(self) -> None:
        if self._session.has_requests:
            self._wanted.set()
        if self._session.unanswered:
            self._asked.set()
