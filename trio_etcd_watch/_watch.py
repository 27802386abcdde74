"""What a user holds of one watch: its responses, or their events, and its statistics."""

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
    """What `Watch.statistics()` tells."""

    state: WatchState
    """Where it stands."""
    events_received: int
    """Since the watch was opened."""
    events_delivered: int
    """Of these, taken by the user; under `events()`, too, whole responses count."""
    unread_events: int
    """Of these, still held here."""
    lag: int
    """Revisions from `Watch.next_revision` up to the newest header seen."""
    last_loss: str | None
    """Why its stream was lost, refused or not opened, the last time; None if never."""
    disconnected_since: float | None
    """When it lost its stream, as `trio.current_time()`; None while it has one, or is
    parked. It has no meaning for a watch that has ended."""


@final
class Watch(metaclass=NoPublicConstructor):
    """One watch: an async iterator of `WatchResponse`. Made by `Watcher.watch()`.

    A watch that fails hands over everything that came before its failure, then raises,
    and raises again at each later step. Responses that wait for the consumer come merged
    into one: whole revisions, in order. So a consumer that lags pays per batch, and not
    per message.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    @property
    def created(self) -> WatchResponse:
        """The server's creation response; its header has the revision of that moment."""
        created = self._inbox.created
        assert created is not None, "nobody holds a Watch before it is there"
        return created

    @property
    def next_revision(self) -> int:
        """The `start_revision` that continues exactly after what was handed over.

        Store it once you have dealt with a response, and give it to `Watcher.watch()`
        as `start_revision` after a restart. Under `events()` it passes a revision with
        that revision's last event. While the watch is idle it moves with the server's
        progress notifications, every 10 minutes by default.
        """
        return self._inbox.next_revision

    def __aiter__(self) -> Watch:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> WatchResponse:
        """Return the next response, and wait for it if there is none.

        This is what `async for response in watch` calls. A checkpoint. Cancellation
        loses nothing: what was not returned comes at the next step.

        Raises:
            WatchError: The watch has failed; a subclass says how.
            trio.ClosedResourceError: The watch was left, or its watcher closed.
            trio.BusyResourceError: Another task is waiting here.
        """
        await self._inbox.wait()
        return self._inbox.take()

    def events(self) -> Events:
        """Iterate over events, one by one, instead of responses.

        You may change between the two: each goes on where the other stopped, and a
        response of which some events were handed over comes as the rest of it.
        """
        return construct(Events, self._inbox)

    def statistics(self) -> WatchStatistics:
        """Return how this watch stands. Never blocks."""
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
        """Return the next event, and wait for it if there is none.

        This is what `async for event in watch.events()` calls. A checkpoint once for
        each response, and not for each event. Cancellation loses nothing.

        Raises:
            WatchError: The watch has failed; a subclass says how.
            trio.ClosedResourceError: The watch was left, or its watcher closed.
            trio.BusyResourceError: Another task is waiting here.
        """
        inbox = self._inbox
        position = inbox.position
        if position is None or inbox.is_waiting:
            position = await inbox.wait_position()
        event = position.take()
        if not position.left:
            inbox.position = None
        return event


# The managers are classes, as a generator would leave gaps around its own protection:
# a KeyboardInterrupt between contextlib's code and ours would leak what was entered.
# While protected code waits, Trio raises KeyboardInterrupt out of the wait.


@final
class WatchManager(AbstractAsyncContextManager[Watch]):
    """What `Watcher.watch()` returns."""

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
