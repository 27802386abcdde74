"""What a user holds of one watch: its unread responses, and how they are taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import trio

from ._errors import WatchError, afresh
from ._face import LIBRARY, LibraryOnly, NoPublicConstructor, construct
from ._responses import Event, WatchResponse
from ._statistics import WatchState
from ._subscription import Delivery, Subscription


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

    def __init__(
        self,
        subscription: Subscription,
        take: Callable[[Subscription, int, int], None],
    ) -> None:
        self._subscription = subscription
        self._take = take
        self._unread: deque[Delivery] = deque()
        self._end: Exception | None = None
        self._created: WatchResponse | None = None
        self._newest_revision = 0
        self._arrived = trio.Event()
        self._receiving = False
        self._events_received = 0
        # Where to continue once _current is handed over whole.
        self._next_revision = subscription.spec.start_revision
        # What events() hands over one by one, of how many events, and how far it is:
        # nothing is left where the last two are equal.
        self._current: WatchResponse | None = None
        self._events: Iterator[Event] = iter(())
        self._count = 0
        self._handed = 0
        # Of _current's events, once somebody asks how far it is handed over.
        self._revisions: list[int] = []

    @property
    def created(self) -> WatchResponse:
        """The server's creation response; its header has the revision of that moment."""
        # Nobody holds a Watch before this is set.
        assert self._created is not None
        return self._created

    @property
    def next_revision(self) -> int:
        """The `start_revision` that continues exactly after what was handed over.

        Store it once you have dealt with a response, and give it to `Watcher.watch()`
        as `start_revision` after a restart. Under `events()` it passes a revision with
        that revision's last event. While the watch is idle it moves with the server's
        progress notifications, every 10 minutes by default.
        """
        if self._handed == self._count:
            return self._next_revision
        if not self._revisions:
            assert self._current is not None
            self._revisions = [e.kv.mod_revision for e in self._current.events]
        last, following = self._revisions[self._handed - 1 : self._handed + 1]
        return last + 1 if last < following else last

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
        await self._wait()
        if self._current is not None:
            rest = self._current.after(self._handed)
            self._drop_current()
            return rest
        return self._pop()[0]

    def events(self) -> Events:
        """Iterate over events, one by one, instead of responses.

        You may change between the two: each goes on where the other stopped, and a
        response of which some events were handed over comes as the rest of it.
        """
        return construct(Events, self, LIBRARY)

    def statistics(self) -> WatchStatistics:
        """Return how this watch stands. Never blocks."""
        unread = self._subscription.unread
        return WatchStatistics(
            state=self._subscription.state.value,
            events_received=self._events_received,
            events_delivered=self._events_received - unread,
            unread_events=sum(delivery.events for delivery in self._unread),
            lag=max(0, self._newest_revision + 1 - self.next_revision),
            last_loss=self._subscription.last_loss,
            disconnected_since=self._subscription.lost_at,
        )

    async def _wait(self) -> None:
        """Return once there is something to hand over."""
        if self._receiving:
            raise trio.BusyResourceError("another task is iterating this watch")
        self._receiving = True
        try:
            if self._unread or self._handed < self._count:
                await trio.lowlevel.checkpoint()
            while not self._unread and self._handed == self._count:
                await self._wait_arrival()
        finally:
            self._receiving = False

    async def _wait_arrival(self) -> None:
        if self._end is not None:
            # Who is cancelled with it learns of that instead.
            await trio.lowlevel.checkpoint_if_cancelled()
            raise afresh(self._end)
        self._arrived = trio.Event()
        await self._arrived.wait()

    def _pop(self) -> tuple[WatchResponse, int]:
        """Take the oldest response; if it has events, all that wait behind it too.

        Returns:
            What was taken, and how many events it has.
        """
        response, count, size = self._pop_one()
        if count:
            following = []
            while self._unread and self._unread[0].events:
                more, more_count, more_size = self._pop_one()
                following.append(more)
                count += more_count
                size += more_size
            if following:
                response = response.merged(following)
            self._take(self._subscription, count, size)
        return response, count

    def _pop_one(self) -> tuple[WatchResponse, int, int]:
        _, item, self._next_revision, count, size = self._unread.popleft()
        assert isinstance(item, WatchResponse)
        return item, count, size

    async def _wait_events(self) -> None:
        """Return once there is a next event to hand over."""
        while self._handed == self._count:
            await self._wait()
            if self._handed == self._count:
                current, self._count = self._pop()
                if self._count:
                    self._current, self._events = current, iter(current.events)

    def _drop_current(self) -> None:
        """Hold nothing of what events() has handed over."""
        self._current = None
        self._events = iter(())
        self._count = self._handed = 0
        self._revisions = []

    # What the stream calls

    async def _wait_created(self) -> None:
        """Return once the server has confirmed the watch.

        Raises:
            WatchError: it refuses, or the stream fails.
            trio.ClosedResourceError: the watcher was closed.
        """
        while self._created is None:
            await self._wait_arrival()

    def _deliver(self, delivery: Delivery) -> None:
        """Take what the stream has for this watch. Never waits."""
        _, item, next_revision, count, _ = delivery
        if isinstance(item, WatchError):
            self._end = item
        elif item is None:
            if self._unread:
                newest = self._unread[-1]
                self._unread[-1] = newest._replace(next_revision=next_revision)
            else:
                self._next_revision = next_revision
        else:
            self._newest_revision = item._raw.revision
            self._events_received += count
            if self._created is None:
                self._created = item
                self._next_revision = next_revision
            if not count and self._unread and _is_progress(delivery, self._unread[-1]):
                # The newest says it all; a user who never looks holds one.
                self._unread[-1] = delivery
            elif not item.created or self._subscription.spec.created_notify:
                self._unread.append(delivery)
        self._arrived.set()

    def _close(self) -> None:
        """End every wait with `trio.ClosedResourceError`; what is unread is gone."""
        self._end = trio.ClosedResourceError("this watch was left")
        self._unread.clear()
        # What is not handed over by now never is: the bookmark stays before it.
        self._next_revision = self.next_revision
        self._drop_current()
        self._arrived.set()


def _is_progress(*deliveries: Delivery) -> bool:
    """Whether each of these is a progress notification."""
    return all(
        isinstance(delivery.item, WatchResponse) and delivery.item.is_progress_notify
        for delivery in deliveries
    )


@final
class Events(metaclass=NoPublicConstructor):
    """An async iterator of the events of a watch. Made by `Watch.events()`."""

    __slots__ = ("_watch",)

    def __init__(self, watch: Watch, _: LibraryOnly) -> None:
        self._watch = watch

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
        watch = self._watch
        if watch._handed == watch._count:
            await watch._wait_events()
        watch._handed += 1
        event = next(watch._events)
        if watch._handed == watch._count:
            watch._drop_current()
        return event
