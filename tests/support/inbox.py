"""A watch without a stream, and a task that reads from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.support.replies import response_of
from trio_etcd_watch import Event, HistoryLostError, Watch, WatchResponse
from trio_etcd_watch._face import construct
from trio_etcd_watch._inbox import Inbox
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._requests import watch_spec
from trio_etcd_watch._subscription import Delivery, Subscription


class Server:
    """Delivers to one inbox, and records what is consumed from it.

    Attributes:
        consumed: the events and bytes of each call of `take()`.
    """

    def __init__(self, *, created: bool = True, created_notify: bool = False) -> None:
        spec = watch_spec("k", progress_notify=True, created_notify=created_notify)
        self.subscription = Subscription(spec)
        self.subscription.server = self
        self.inbox = self.subscription.receiver = Inbox(self.subscription)
        self.watch = construct(Watch, self.inbox)
        self.consumed: list[tuple[int, int]] = []
        if created:
            self.create()

    def take(self, subscription: Subscription, events: int, size: int) -> None:
        assert subscription is self.subscription
        self.consumed.append((events, size))

    def close(self, subscription: Subscription) -> None:
        subscription.receiver.close()

    def create(self) -> None:
        self._deliver(pb.WatchResponse(created=True), 1)

    def put(self, *revisions: int) -> None:
        raw = pb.WatchResponse()
        for revision in revisions:
            raw.events.add().kv.mod_revision = revision
        self._deliver(raw, revisions[-1])

    def notify(self, revision: int) -> None:
        self._deliver(pb.WatchResponse(), revision)

    def move(self, revision: int) -> None:
        """Deliver progress that the user does not see."""
        self.inbox.deliver(Delivery(self.subscription, None, revision + 1))

    def fail(self) -> None:
        error = HistoryLostError(9, 5)
        self.inbox.deliver(Delivery(self.subscription, error, 10))

    def _deliver(self, raw: pb.WatchResponse, revision: int) -> None:
        raw.header.revision = revision
        size, count = 100 * len(raw.events), len(raw.events)
        self.inbox.deliver(
            Delivery(
                self.subscription, response_of(raw), revision + 1, count, size, revision
            )
        )


def revisions(item: WatchResponse | Event) -> list[int]:
    events = [item] if isinstance(item, Event) else item.events
    return [event.kv.mod_revision for event in events]


Step = Callable[[Watch], Awaitable[WatchResponse | Event]]


async def whole(watch: Watch) -> WatchResponse:
    return await anext(watch)


async def one(watch: Watch) -> Event:
    return await anext(watch.events())


STEPS = pytest.mark.parametrize("step", [whole, one])
"""Parametrizes a test with both kinds of iteration."""


class Reader:
    """A task that takes one step of an iteration, and keeps its outcome."""

    def __init__(self, watch: Watch, step: Step) -> None:
        self.scope = trio.CancelScope()
        self.outcome: object = None
        self._watch = watch
        self._step = step

    async def run(self) -> None:
        with self.scope:
            try:
                self.outcome = await self._step(self._watch)
            except trio.Cancelled as exc:
                self.outcome = exc
                raise
            except Exception as exc:  # the test checks it
                self.outcome = exc
