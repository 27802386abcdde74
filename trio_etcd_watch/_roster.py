"""Keeps the watches of one stream, their states, and the requests to send for them.

Sans-IO. It handles requests and no replies; `_session` handles those. It is the only
register of watches: each watch whose user has not closed it is in exactly one roster,
that of the stream that serves it or served it last.
"""

from __future__ import annotations

from collections.abc import Iterable

from ._creations import Creations
from ._grpc.status import StreamLost
from ._requests import WatchSpec, cancel_request, create_request, progress_request
from ._subscription import (
    MAX_PREV_KV_TRIES,
    Creating,
    Ended,
    Parked,
    Resuming,
    State,
    Subscription,
)

MAX_UNKNOWN_IDS = 10_000
"""How many unknown watch ids a stream may bring. A healthy server sends a few, of
watches that were just closed."""


class Roster:
    """The watches of one stream, across all its reconnects."""

    def __init__(self) -> None:
        self._connected = False
        # Includes those that have failed, until their users leave them.
        self._subscriptions: dict[Subscription, None] = {}
        self._live: dict[int, Subscription] = {}
        self._creations = Creations()
        # Ids that were canceled on this stream, so that each is canceled once.
        self._canceled: set[int] = set()
        self._unknown_ids = 0
        self._requests: list[bytes] = []
        # How many of these requests are creations.
        self._unsent = 0
        self._asks_progress = False
        # Watches that the member is behind, and the newest revision that a linearizable
        # read has shown the cluster to have.
        self._unproved: dict[Subscription, None] = {}
        self._proved = 0
        self._expelled: list[Subscription] = []

    # The user's side

    @property
    def registered(self) -> Iterable[Subscription]:
        """The watches that their users have not closed, in the order of their opening."""
        return self._subscriptions.keys()

    @property
    def is_empty(self) -> bool:
        """Whether the users have closed all watches."""
        return not self._subscriptions

    @property
    def subscriptions(self) -> list[Subscription]:
        """The watches that have not ended."""
        return [each for each in self._subscriptions if each.state is not State.ENDED]

    def open(self, spec: WatchSpec) -> Subscription:
        """Add a watch. It is created now, or once there is a stream."""
        subscription = Subscription(spec)
        self.adopt(subscription)
        return subscription

    def adopt(self, subscription: Subscription) -> None:
        """Add a watch that another stream has expelled."""
        self._subscriptions[subscription] = None
        self._create(subscription)

    def close(self, subscription: Subscription) -> None:
        """Remove a watch, and cancel it on the server unless it has ended."""
        self.end(subscription)
        self._subscriptions.pop(subscription, None)

    def end(self, subscription: Subscription) -> None:
        """Cancel a watch on the server, and ignore what still comes for it."""
        if subscription.state is State.LIVE:
            self._drop_id(subscription)
        elif subscription.state is State.CREATING:
            self._creations.abandoned += 1
        self._end(subscription)

    def take(self, subscription: Subscription, events: int, size: int) -> None:
        """Note what the user consumed; a parked watch may continue (woken_at_half)."""
        subscription.unread -= events
        subscription.unread_bytes -= size
        if subscription.state is State.PARKED and subscription.is_drained:
            self._create(subscription)

    def request_progress(self) -> None:
        """Request progress of this stream; without a stream do nothing.

        One answer is as good as several, so requests that wait to be sent become one.
        """
        self._asks_progress = self._connected

    # The stream's side

    def connect(self) -> None:
        """Create every watch on the new stream.

        resumed_at_once: no creation waits for anything but its turn.
        """
        self._connected = True
        for subscription in self._subscriptions:
            if subscription.state is State.RESUMING:
                self._create(subscription)

    def disconnect(self) -> None:
        """Discard the stream and what belongs to it (stream_state_dies).

        whole_revisions: the fragments of a live watch are discarded with its phase, and
        the server sends them again.
        """
        self._connected = False
        for subscription in self._subscriptions:
            if subscription.state in (State.LIVE, State.CREATING):
                subscription.phase = Resuming()
        self._live.clear()
        self._creations.clear()
        self._canceled.clear()
        self._unknown_ids = 0
        self._requests.clear()
        self._unsent = 0
        self._asks_progress = False
        self._unproved.clear()
        self._proved = 0

    def note_loss(self, reason: str, now: float) -> None:
        """Note why there is no stream, and since when.

        A failed attempt does not reset that time. A parked watch needs no stream.
        """
        for subscription in self.subscriptions:
            subscription.last_loss = reason
            if subscription.lost_at is None and subscription.state is not State.PARKED:
                subscription.lost_at = now

    @property
    def unanswered(self) -> int:
        """How many creations await their replies, abandoned ones included."""
        return len(self._creations)

    @property
    def answered(self) -> int:
        """How many creations have been answered, on all streams so far."""
        return self._creations.answered

    @property
    def abandoned(self) -> int:
        """How many of the unanswered creations are of watches that have ended."""
        return self._creations.abandoned

    @property
    def has_requests(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._requests) or self._asks_progress

    def requests(self) -> list[bytes]:
        """Return the messages to send, and remove them here."""
        requests, self._requests = self._requests, []
        self._unsent = 0
        if self._asks_progress:
            requests.append(progress_request())
        self._asks_progress = False
        return requests

    def expelled(self) -> list[Subscription]:
        """Return, and remove here, the watches that need a stream with a new token."""
        expelled, self._expelled = self._expelled, []
        return expelled

    @property
    def unproved(self) -> list[Subscription]:
        """The watches that this member is behind; they wait for `prove()`."""
        return list(self._unproved)

    # Steps

    def _repeat(
        self, subscription: Subscription, prev_kv_tries: int | None = None
    ) -> None:
        """Create a live watch again, and drop what still comes of its old creation.

        prev_kv may need this: etcd begins to send events before it has noted that
        prev_kv is wanted (recvLoop, v3rpc/watch.go), so the first responses sometimes
        lack it.

        Args:
            subscription: the watch.
            prev_kv_tries: how many tries for prev_kv remain after this one; None if the
                watch is created again for another reason.
        """
        self._drop_id(subscription)
        self._create(subscription, prev_kv_tries)

    def _create(
        self, subscription: Subscription, prev_kv_tries: int | None = None
    ) -> None:
        if not self._connected:
            subscription.phase = Resuming()
            return
        if prev_kv_tries is None:
            # previous_value_retried: each stream has all its tries.
            prev_kv_tries = MAX_PREV_KV_TRIES if subscription.spec.prev_kv else 0
        subscription.phase = Creating(prev_kv_tries)
        if self._creations.add(subscription):
            self._request(subscription)

    def _request(self, subscription: Subscription) -> None:
        self._requests.append(
            create_request(
                subscription.spec,
                subscription.cursor.next_revision,
                fragment=subscription.splits,
            )
        )
        self._unsent += 1

    def _cancel(self, watch_id: int) -> None:
        if watch_id not in self._canceled:
            self._canceled.add(watch_id)
            self._requests.append(cancel_request(watch_id))

    def _cancel_unknown(self, watch_id: int) -> None:
        if watch_id not in self._canceled:
            self._unknown_ids += 1
            if self._unknown_ids > MAX_UNKNOWN_IDS:
                raise StreamLost("the server uses watch ids that it has not assigned")
            self._cancel(watch_id)

    def _drop_id(self, subscription: Subscription) -> None:
        """Cancel a live watch on the server; what is in flight for it is dropped.

        live_ids_only: responses with its id are not processed any more. The caller sets
        the next phase.
        """
        watch_id = subscription.live.watch_id
        del self._live[watch_id]
        self._cancel(watch_id)

    def _park(self, subscription: Subscription) -> None:
        self._drop_id(subscription)
        subscription.phase = Parked()

    def _doubt(self, subscription: Subscription) -> None:
        """Stop using this member for a watch until it is known why it is behind."""
        self._drop_id(subscription)
        subscription.phase = Resuming()
        self._unproved[subscription] = None

    def _expel(self, subscription: Subscription, now: float) -> None:
        """Give up a watch, which moves to a stream with a new token."""
        subscription.phase = Resuming()
        if subscription.lost_at is None:
            subscription.lost_at = now
        del self._subscriptions[subscription]
        self._expelled.append(subscription)

    def _end(self, subscription: Subscription) -> None:
        subscription.phase = Ended()
        self._unproved.pop(subscription, None)
