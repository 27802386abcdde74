"""Provides `Watch`, the user's view of one watch: responses, events and statistics."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import final

import trio

from ._face import NoPublicConstructor, construct
from ._inbox import Inbox
from ._responses import Event, WatchResponse
from ._statistics import WatchState


@final
@dataclass(frozen=True, slots=True)
class WatchStatistics:
    """What `Watch.statistics()` reports."""

    state: WatchState
    """The state of the watch."""
    events_received: int
    """How many events have come since the watch was opened."""
    events_delivered: int
    """How many of these events the user has consumed; with `events()`, all events of a
    response count at its first one."""
    unread_events: int
    """How many of these events are held for the user."""
    lag: int
    """How many revisions from `Watch.next_revision` up to the newest header seen."""
    last_loss: str | None
    """Why its stream was last lost, refused or not opened; None if never."""
    disconnected_since: float | None
    """When it lost its stream, in `trio.current_time()`; None while it has one, or is
    parked. It has no meaning for a watch that has ended."""


@final
class Watch(metaclass=NoPublicConstructor):
    """One watch: an async iterator of `WatchResponse`. Made by `Watcher.watch()`.

    A watch that fails first hands over everything that it has received, and then
    raises, again at each later step. Responses that waited for the consumer are merged
    into one, with whole revisions in order, so the cost of a slow consumer is per batch
    and not per message.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    @property
    def created(self) -> WatchResponse:
        """The server's creation response; its header has the revision at that time."""
        created = self._inbox.created
        assert created is not None, "nobody holds a Watch before it is there"
        return created

    @property
    def next_revision(self) -> int:
        """The `start_revision` that continues exactly after what was handed over.

        Store it once you have processed a response, and give it to `Watcher.watch()` as
        `start_revision` after a restart. With `events()` it moves past a revision at
        the last event of that revision. While the watch is idle it moves with the
        server's progress notifications, every 10 minutes by default.
        """
        return self._inbox.next_revision

    def __aiter__(self) -> Watch:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> WatchResponse:
        """Return the next response; wait while there is none.

        This is what `async for response in watch` calls. A checkpoint. Cancellation
        loses nothing: the next call returns what this one did not.

        Raises:
            WatchError: The watch has failed; its subclass says why.
            trio.ClosedResourceError: The watch or its watcher is closed.
            trio.BusyResourceError: Another task is waiting here.
        """
        await self._inbox.wait()
        return self._inbox.take()

    def events(self) -> Events:
        """Iterate over events, one by one, instead of responses.

        You may change between the two: each continues where the other stopped. If only
        some events of a response were handed over, the next response has the others.
        """
        return construct(Events, self._inbox)

    def statistics(self) -> WatchStatistics:
        """Return the present state of this watch. Never blocks."""
        inbox, subscription = self._inbox, self._inbox.subscription
        return WatchStatistics(
            state=subscription.state.value,
            events_received=inbox.events_received,
            events_delivered=inbox.events_delivered,
            unread_events=inbox.unread_events,
            lag=max(0, inbox.newest_revision + 1 - inbox.next_revision),
            last_loss=subscription.last_loss,
            disconnected_since=subscription.lost_at,
        )


@final
class Events(metaclass=NoPublicConstructor):
    """An async iterator of the events of a watch. Made by `Watch.events()`."""

    __slots__ = ("_inbox",)

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def __aiter__(self) -> Events:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> Event:
        """Return the next event; wait while there is none.

        This is what `async for event in watch.events()` calls. A checkpoint once for
        each response, and not for each event. Cancellation loses nothing.

        Raises:
            WatchError: The watch has failed; its subclass says why.
            trio.ClosedResourceError: The watch or its watcher is closed.
            trio.BusyResourceError: Another task is waiting here.
        """
        inbox = self._inbox
        position = inbox.position
        if position is None or inbox.is_waiting:
            position = await inbox.wait_position()
        event = position.take()
        if not position.remaining:
            inbox.position = None
        return event


# The managers are classes, since a generator cannot be protected completely: a
# KeyboardInterrupt between contextlib's code and ours would leak what was entered.
# While protected code waits, Trio raises KeyboardInterrupt from the wait.


@final
class WatchManager(AbstractAsyncContextManager[Watch]):
    """The context manager that `Watcher.watch()` returns."""

    def __init__(self, open_watch: Callable[[], Inbox]) -> None:
        self._open = open_watch
        self._inbox: Inbox | None = None

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Watch:
        await trio.lowlevel.checkpoint()
        if self._inbox is not None:
            raise RuntimeError("entered twice: call watch() once for each watch")
        self._inbox = self._open()
        try:
            await self._inbox.wait_created()
        except BaseException:
            self._inbox.leave()
            raise
        return construct(Watch, self._inbox)

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        body: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._inbox is not None
        self._inbox.leave()
        if body is None:
            await trio.lowlevel.checkpoint()
