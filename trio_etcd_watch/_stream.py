"""Keeps a stream open for the watches that share it, and reopens it after each loss.

Each open stream is a `LiveStream`, a nursery with its tasks. A loss cancels that
nursery. After a delay the next stream is opened, with the resume queue: the watches
that have not ended, each from its cursor. Watches outlive the streams. No task here
waits for a user.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import final

import trio

from ._backoff import MAX_DELAY, delays
from ._connector import PATIENCE, Connector
from ._errors import AuthenticationError, NoLeaderError, RpcError, WatchError
from ._grpc.metadata import Metadata
from ._grpc.status import CallEnd, StatusCode, StreamLost
from ._inbox import Inbox
from ._live_stream import Counters, LiveStream, Route
from ._log import printable
from ._outage import Outage
from ._requests import WatchSpec
from ._session import Session
from ._subscription import CLOSED_RECEIVER, Delivery, Subscription
from ._tokens import StreamTokens
from ._verdicts import Call, Verdict, verdict_on


@final
class WatchStream:
    """The watches that share one set of metadata, and their stream.

    Args:
        connector: opens connections.
        metadata: the user's metadata.
        require_leader: whether a member without a leader is an error.
        counters: those of the watcher.
        move: moves a watch to a stream with a new token.
        delay: seconds to wait before the first attempt to open a stream.
    """

    def __init__(
        self,
        connector: Connector,
        metadata: Metadata,
        counters: Counters,
        *,
        require_leader: bool,
        move: Callable[[WatchStream, Subscription], None],
        delay: float = 0.0,
    ) -> None:
        self._connector = connector
        self._counters = counters
        self._metadata = metadata
        self._require_leader = require_leader
        self._move = move
        self._delay = delay
        self._tokens = StreamTokens(can_renew=connector.can_authenticate)
        self._session = Session(
            max_message_size=connector.channel.max_message_size, tokens=self._tokens
        )
        self._live: LiveStream | None = None
        self._scope = trio.CancelScope()
        self._outage = Outage(counters.lines)
        self._empty = trio.Event()

    @property
    def closed(self) -> bool:
        """Whether it takes no more watches, since its last one is gone or it failed."""
        return self._scope.cancel_called

    @property
    def watches(self) -> Iterable[Subscription]:
        """The watches that their users have not closed, including those that failed."""
        return self._session.registered

    # The user's side

    def open(self, spec: WatchSpec) -> Inbox:
        """Add a watch; `Inbox.wait_created()` waits until the server confirms it."""
        subscription = self._session.open(spec)
        inbox = Inbox(subscription)
        subscription.server, subscription.receiver = self, inbox
        self._wake()
        return inbox

    def adopt(self, subscription: Subscription) -> None:
        """Continue a watch that another stream has expelled."""
        subscription.server = self
        self._session.adopt(subscription)
        self._wake()

    def close(self, subscription: Subscription) -> None:
        """Close a watch, here and on the server; the last one closes the stream."""
        self._session.close(subscription)
        subscription.receiver.close()
        # Otherwise the two would hold each other until the garbage collector runs.
        subscription.receiver = CLOSED_RECEIVER
        self._wake()
        self._close_if_empty("the last watch of this stream was closed")

    def close_watches(self) -> None:
        """Close all watches, which ends every wait for them: the watcher is closed."""
        for subscription in list(self.watches):
            self._session.end(subscription)
            subscription.receiver.close()

    def request_progress(self) -> None:
        """Request progress of all watches; without a stream do nothing."""
        self._session.request_progress()
        self._wake()

    def take(self, subscription: Subscription, events: int, size: int) -> None:
        """Note what the user of a watch has consumed."""
        self._counters.events_delivered += events
        self._session.take(subscription, events, size)
        self._wake()

    # The server's side

    async def run(self) -> None:
        """Serve the watches until the last one is closed.

        After a final error, which fails all watches, this waits until their users have
        closed them.
        """
        with self._scope:
            await trio.sleep(self._delay)
            await self._serve()
        await self._empty.wait()

    async def _serve(self) -> None:
        """Open stream after stream, until a final error or until no watch needs one."""
        waits = delays(random.random)
        wait = next(waits)
        while True:
            opened, end = await self._serve_once()
            if isinstance(end, WatchError):
                self._halt(end)
                return
            if not self._session.subscriptions:
                # All watches have failed, and their users get the errors.
                self._scope.cancel(reason=str(end))
                return
            lived = trio.current_time() - opened
            self._counters.reconnects += lived >= 0
            wait = waits.send(lived > MAX_DELAY)
            self._note_loss(str(end))
            self._outage.failed(trio.current_time(), str(end), wait)
            await trio.sleep(wait)

    async def _serve_once(self) -> tuple[float, StreamLost | WatchError]:
        """Open and serve a stream; return when it began to work, and how it ended.

        The time is infinity if it never worked.
        """
        try:
            live, route = await self._open_stream()
        except (StreamLost, RpcError) as exc:
            return math.inf, exc
        self._live = live
        asked = trio.current_time()
        try:
            self._session.connect()
            end = await live.run()
            return live.opened, self._judge(route, end)
        finally:
            self._session.disconnect()
            self._live = None
            waited = trio.current_time() - asked
            if live.opened == math.inf:
                # This member has not replied; another one may.
                if not self.closed:
                    route.leave()
                elif waited > PATIENCE:
                    self._connector.suspect(route.connection)

    async def _open_stream(self) -> tuple[LiveStream, Route]:
        connection, metadata = await self._connector.connect()
        token = dict(metadata).get("token")
        self._tokens.opening(self._connector.token_renewed(connection))
        route = Route(self._connector, connection, (*metadata, *self._metadata), token)
        try:
            live = LiveStream(
                route,
                self._session,
                self._counters,
                self._outage,
                worked=self._tokens.worked,
                expel=lambda subscription: self._expel(route, subscription),
            )
        except StreamLost:
            # The connection has as many streams as the server allows; the next
            # connection takes this one.
            route.leave()
            raise
        return live, route

    def _expel(self, route: Route, subscription: Subscription) -> None:
        route.forget_token()
        self._move(self, subscription)
        self._close_if_empty("the last watch of this stream was moved")

    def _close_if_empty(self, reason: str) -> None:
        if self._session.is_empty:
            self._empty.set()
            self._scope.cancel(reason=reason)

    def _note_loss(self, reason: str) -> None:
        self._counters.last_loss = reason = printable(reason)
        self._session.note_loss(reason, trio.current_time())

    # The end of a stream

    def _judge(self, route: Route, end: CallEnd) -> StreamLost | WatchError:
        if isinstance(end, StreamLost):
            return end
        lost = StreamLost(f"the server ended the stream with {end}")
        error = RpcError(end.code, end.message)
        match verdict_on(Call.STREAM, end):
            case Verdict.NO_LEADER if self._require_leader:
                return NoLeaderError(end.code, end.message)
            case Verdict.NEW_TOKEN:
                route.forget_token()
                if not self._tokens.stream_refused():
                    return AuthenticationError(end.code, end.message)
            case Verdict.FINAL:
                self._hand_out(self._session.refuse(error))
            case Verdict.TOO_LARGE:
                self._hand_out(self._session.refuse_largest(error))
            case Verdict.ELSEWHERE | Verdict.NO_LEADER:
                route.leave()
                if end.code is StatusCode.UNIMPLEMENTED:
                    return StreamLost(f"{lost}; is this etcd?")
        return lost

    def _halt(self, error: WatchError) -> None:
        self._note_loss(str(error))
        self._hand_out(self._session.fail_all(error))
        self._scope.cancel(reason=str(error))

    def _hand_out(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            delivery.subscription.receiver.deliver(delivery)

    def _wake(self) -> None:
        if self._live is not None:
            self._live.wake()
