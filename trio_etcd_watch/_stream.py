"""One gRPC stream and its watches: opened, served, lost, resumed.

The session says what to send and who gets what; here it is sent and handed out. While
a stream lives, one task sends, one waits for its end, and the connection's reader hands
out what comes. When it is lost, after a while the next begins with all watches that are
still wanted. Watches outlive it; nothing here ever waits for their users.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import trio

from ._backoff import delays
from ._connector import Connector
from ._errors import (
    AuthenticationError,
    RpcError,
    TokenExpired,
    error_of_status,
)
from ._grpc.connection import Call
from ._grpc.frames import Oversized
from ._grpc.metadata import Metadata
from ._grpc.status import Status, StreamLost
from ._requests import WatchSpec
from ._responses import watch_id_of_head
from ._runs import split_runs
from ._session import MAX_REFUSED_TOKENS, Session
from ._subscription import Delivery, Subscription
from ._watch import Watch

logger = logging.getLogger("trio_etcd_watch")

_WATCH = "/etcdserverpb.Watch/Watch"

NEW_TOKEN_AGE = 2.0
"""Seconds for which a token is taken to be good: watches that are denied together must
not each cost the stream. etcd's tokens live for minutes, unless told otherwise."""

MAX_REASONS = 20
"""How many reasons one outage may log: a broken server can make up new ones."""


@dataclass(slots=True)
class Totals:
    """What the streams of a watcher count, also those that are closed by now."""

    reconnects: int = 0
    last_loss: str | None = None
    bytes_received: int = 0
    events_received: int = 0
    events_delivered: int = 0


@final
class WatchStream:
    """The watches that share one set of metadata, and their stream."""

    def __init__(
        self, connector: Connector, metadata: Metadata, totals: Totals
    ) -> None:
        self._connector = connector
        self._totals = totals
        self._metadata = metadata
        self._can_authenticate = connector.can_authenticate
        self._session = Session(
            max_message_size=connector.channel.max_message_size,
            can_authenticate=self._can_authenticate,
            has_new_token=self._has_new_token,
        )
        self._token_taken = -math.inf
        self._watches: dict[Subscription, Watch] = {}
        self._wanted = trio.Event()
        self._scope = trio.CancelScope()
        self._retries = _RetryLog()
        self._refused_tokens = 0
        # When the present stream gave its first reply.
        self._replied = math.inf

    @property
    def closed(self) -> bool:
        """Whether it takes no more watches: the last one was left, or it halted."""
        return self._scope.cancel_called

    # The user's side

    def open(self, spec: WatchSpec) -> tuple[Subscription, Watch]:
        """Add a watch; `Watch._wait_created()` says when the server knows of it."""
        subscription = self._session.open(spec)
        watch = self._watches[subscription] = Watch(subscription, self._take)
        self._flush()
        return subscription, watch

    def close(self, subscription: Subscription) -> None:
        """Drop a watch, here and on the server; with the last one goes the stream."""
        self._session.close(subscription)
        self._watches.pop(subscription)._close()
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

    def _take(self, subscription: Subscription, events: int) -> None:
        self._totals.events_delivered += events
        self._session.take(subscription, events)
        self._flush()

    # The server's side

    async def run(self) -> None:
        """Serve the watches until the last one is left, or the stream halts."""
        waits = delays(random.random)
        wait = next(waits)
        with self._scope:
            while True:
                self._replied = math.inf
                end = await self._serve_once()
                if isinstance(end, TokenExpired):
                    end = self._renew_token(end)
                if isinstance(end, RpcError):
                    self._halt(end)
                    return
                # A stream that outlived the wait before it was worth that wait.
                lived = trio.current_time() - self._replied
                self._totals.reconnects += lived >= 0
                wait = waits.send(lived > wait)
                self._totals.last_loss = str(end)
                self._retries.failed(str(end), wait)
                await trio.sleep(wait)

    async def _serve_once(self) -> StreamLost | RpcError:
        """Open a stream, serve it, and return how it ended."""
        try:
            connection, metadata = await self._connector.connect()
        except (StreamLost, RpcError) as exc:
            return exc
        self._token_taken = self._connector.token_taken(connection)
        try:
            call = connection.open_call(
                _WATCH, (*metadata, *self._metadata), self._dispatch
            )
        except StreamLost as exc:
            # It has as many streams as the server allows: the next takes this one.
            self._connector.leave(connection)
            return exc
        self._session.connect()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, call)
                end = await _end_of(call)
                nursery.cancel_scope.cancel(reason=str(end))
        finally:
            self._session.disconnect()
            call.reset()
        if self._replied == math.inf and not isinstance(end, TokenExpired):
            # Refused by this member; another one may take the stream.
            self._connector.leave(connection)
        return end

    @trio.lowlevel.enable_ki_protection
    async def _send(self, call: Call) -> None:
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

    def _dispatch(self, messages: Sequence[bytes | Oversized]) -> None:
        """Hand out what one read has brought."""
        self._note_reply()
        for run in split_runs(messages):
            self._receive(run)
        self._flush()

    def _receive(self, run: list[bytes] | Oversized) -> None:
        deliveries: Iterable[Delivery]
        if isinstance(run, Oversized):
            watch_id = watch_id_of_head(run.head)
            deliveries = self._session.receive_oversized(watch_id, run.size)
        else:
            self._totals.bytes_received += sum(map(len, run))
            deliveries = self._session.receive_run(run)
        for delivery in deliveries:
            self._totals.events_received += delivery.events
            self._watches[delivery.subscription]._deliver(delivery)

    def _note_reply(self) -> None:
        if self._replied == math.inf:
            self._replied = trio.current_time()
            self._refused_tokens = 0
            self._retries.recovered()

    def _has_new_token(self) -> bool:
        return trio.current_time() - self._token_taken < NEW_TOKEN_AGE

    def _renew_token(self, refusal: TokenExpired) -> StreamLost | RpcError:
        self._connector.forget_token()
        self._refused_tokens += 1
        if self._can_authenticate and self._refused_tokens <= MAX_REFUSED_TOKENS:
            return refusal
        return AuthenticationError(refusal.code, refusal.message)

    def _halt(self, error: RpcError) -> None:
        self._totals.last_loss = str(error)
        for delivery in self._session.halt(error):
            self._watches[delivery.subscription]._deliver(delivery)
        self._scope.cancel(reason=str(error))

    def _flush(self) -> None:
        if self._session.has_requests:
            self._wanted.set()


async def _end_of(call: Call) -> StreamLost | RpcError:
    end = await call.wait_end()
    return error_of_status(end) if isinstance(end, Status) else end


class _RetryLog:
    """Logs a run of failures: each reason once, and a summary when it is over."""

    def __init__(self) -> None:
        self._reasons: set[str] = set()
        self._tries = 0
        self._began = 0.0

    def failed(self, reason: str, wait: float) -> None:
        if not self._tries:
            self._began = trio.current_time()
        self._tries += 1
        if reason not in self._reasons and len(self._reasons) < MAX_REASONS:
            self._reasons.add(reason)
            logger.warning("no watch stream: %s; next try in %.2f s", reason, wait)

    def recovered(self) -> None:
        if self._tries:
            took = trio.current_time() - self._began
            logger.info(
                "watch stream resumed after %d tries in %.1f s", self._tries, took
            )
        self._tries = 0
        self._reasons.clear()
