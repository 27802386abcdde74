"""Holds the unread deliveries of one watch, and the position of its consumer in them.

Deliveries go through a memory channel of Trio's, which wakes the task that waits, and
ends every wait once it is closed. The channel has no bound, since the session parks a
watch that holds too much, and no task here waits for the user. A receive drains what
waits, and hands it over as one response if it consists of events. Unread progress stays
one item.

What was received from the channel and not handed over yet is kept here, so a
cancellation in between loses nothing.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import NoReturn, final

import trio

from ._errors import WatchError, afresh
from ._responses import Event, WatchResponse
from ._subscription import Delivery, Subscription


@final
class Position:
    """The position of a consumer in a response whose events are handed over one by one.

    Attributes:
        remaining: how many events are still to be handed over; never 0 between two steps.
    """

    __slots__ = ("_count", "_events", "_response", "_revisions", "remaining")

    def __init__(self, response: WatchResponse, count: int) -> None:
        self.remaining: int = count
        self._response = response
        self._count = count
        self._events: Iterator[Event] = iter(response.events)
        # The revision of each event, from the first use of `next_revision` on.
        self._revisions: list[int] = []

    def take(self) -> Event:
        """Hand over the next event."""
        self.remaining -= 1
        return next(self._events)

    def rest(self) -> WatchResponse:
        """Return a response with the events that are not handed over yet."""
        return self._response.after(self._count - self.remaining)

    @property
    def next_revision(self) -> int:
        """The resume point: past a revision once all its events are handed over."""
        if not self._revisions:
            self._revisions = [e.kv.mod_revision for e in self._response.events]
        handed = self._count - self.remaining
        last, following = self._revisions[handed - 1 : handed + 1]
        return last + 1 if last < following else last


def _is_progress(delivery: Delivery) -> bool:
    item = delivery.item
    return isinstance(item, WatchResponse) and item.is_progress_notify


@final
class Inbox:
    """The unread deliveries of one watch. Made by `WatchStream.open()`.

    Attributes:
        subscription: the watch, as its session sees it.
        created: the creation response, once it has come.
        events_received: how many events have come.
        events_delivered: how many of these events the user has consumed.
        newest_revision: the newest revision in a header that has come.
        position: the consumer's position in a response that is handed over in part.
        is_waiting: whether a task is in `wait()`.
    """

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.created: WatchResponse | None = None
        self.events_received: int = 0
        self.events_delivered: int = 0
        self.newest_revision: int = 0
        self.position: Position | None = None
        self.is_waiting: bool = False
        # The resume point once the events of `position` are all handed over.
        self._next_revision = subscription.spec.start_revision
        self._sending, self._receiving = trio.open_memory_channel[Delivery](math.inf)
        # The item that was received from the channel, and the last one that was sent to
        # it; both are unread.
        self._first: Delivery | None = None
        self._newest: Delivery | None = None
        self._error: WatchError | None = None
        self._closed = False
        # Created, failed or closed.
        self._settled = trio.Event()

    @property
    def next_revision(self) -> int:
        """The `start_revision` that continues exactly after what was handed over."""
        if self.position is not None:
            return self.position.next_revision
        return self._next_revision

    @property
    def unread_events(self) -> int:
        """How many events wait for the user."""
        return 0 if self._closed else self.events_received - self.events_delivered

    # The user's side

    async def wait_created(self) -> None:
        """Return once the server has confirmed the watch.

        Raises:
            WatchError: the server refuses the watch, or the stream fails for good.
            trio.ClosedResourceError: the watcher was closed.
        """
        await self._settled.wait()
        if self.created is None:
            await self._end()

    async def wait(self) -> None:
        """Return once `take()` has a response. A checkpoint; cancelling loses nothing.

        Raises:
            WatchError: the watch has failed, and all that came before is consumed.
            trio.ClosedResourceError: the watch or its watcher was closed.
            trio.BusyResourceError: another task is waiting here.
        """
        if self.is_waiting:
            raise trio.BusyResourceError("another task is iterating this watch")
        self.is_waiting = True
        try:
            if self._has_any():
                await trio.lowlevel.checkpoint()
            if not self._has_any():
                # Not in a coroutine of its own: the garbage collector traverses all
                # that a task holds while it waits.
                try:
                    first = await self._receiving.receive()
                except (trio.EndOfChannel, trio.ClosedResourceError):
                    first = None
                if first is None or self._closed:
                    await self._end()
                self._first = first
        finally:
            self.is_waiting = False

    async def wait_position(self) -> Position:
        """Return the position of the next event; wait, and raise, as `wait()` does."""
        await self.wait()
        while self.position is None:
            response, count = self._take_waiting()
            if count:
                self.position = Position(response, count)
            else:
                await self.wait()
        return self.position

    def take(self) -> WatchResponse:
        """Return the next response. Call `wait()` before."""
        if self.position is None:
            return self._take_waiting()[0]
        rest, self.position = self.position.rest(), None
        return rest

    def leave(self) -> None:
        """Close the watch, here and on the server."""
        self.subscription.server.close(self.subscription)

    def _has_any(self) -> bool:
        return self.position is not None or self._first is not None

    async def _end(self) -> NoReturn:
        """Raise the error that has ended the watch.

        A task that was woken by the end, and is cancelled before it runs, gets Cancelled.
        One that was woken by an item gets that, as from Trio's channel.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._raise_end()

    def _raise_end(self) -> NoReturn:
        with contextlib.suppress(trio.EndOfChannel):
            # If the watch was closed, this raises ClosedResourceError.
            self._receiving.receive_nowait()
        assert self._error is not None, "nothing else ends the channel"
        raise afresh(self._error)

    def _take_waiting(self) -> tuple[WatchResponse, int]:
        """Consume the oldest delivery; if it has events, also those with events behind.

        Returns:
            The response, and how many events it has.
        """
        last = self._pop()
        response, count, size = last.item, last.events, last.size
        assert isinstance(response, WatchResponse)
        others = []
        while count and last is not self._newest and self._look().events:
            last = self._pop()
            assert isinstance(last.item, WatchResponse)
            others.append(last.item)
            count += last.events
            size += last.size
        if last is self._newest:
            self._newest = None
        self._next_revision = last.next_revision
        self.events_delivered += count
        if others:
            response = response.merged(others)
        if count:
            self.subscription.server.take(self.subscription, count, size)
        return response, count

    def _look(self) -> Delivery:
        """Return the next item, without consuming it; there must be one."""
        if self._first is None:
            self._first = self._receiving.receive_nowait()
        return self._first

    def _pop(self) -> Delivery:
        first, self._first = self._look(), None
        return first

    # The stream's side

    def deliver(self, delivery: Delivery) -> None:
        """Take a delivery for this watch. Never waits."""
        if self._closed:
            return
        item = delivery.item
        if isinstance(item, WatchError):
            self._error = item
            self._sending.close()
            self._settled.set()
        elif item is None:
            if self._newest is not None:
                self._newest.next_revision = delivery.next_revision
            else:
                self._next_revision = delivery.next_revision
        else:
            self.newest_revision = delivery.header_revision
            self.events_received += delivery.events
            if self.created is None:
                self.created = item
                self._next_revision = delivery.next_revision
                self._settled.set()
            if not item.created or self.subscription.spec.created_notify:
                self._put(delivery, item)

    def _put(self, delivery: Delivery, item: WatchResponse) -> None:
        newest = self._newest
        if newest is not None and item.is_progress_notify and _is_progress(newest):
            # The newest progress includes the earlier, so at most one is held.
            newest.item = item
            newest.next_revision = delivery.next_revision
        else:
            self._newest = delivery
            self._sending.send_nowait(delivery)

    def close(self) -> None:
        """End every wait with `trio.ClosedResourceError`; discard what is unread."""
        # The bookmark stays before what is not handed over by now.
        self._next_revision = self.next_revision
        self._closed = True
        self.position = self._first = self._newest = None
        self._receiving.close()
        self._sending.close()
        self._settled.set()
