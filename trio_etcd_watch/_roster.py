"""The watches of one stream: in which state each is, and what is asked for it.

Sans-IO. It knows requests and nothing of replies; `_session` says what those mean. It is
the one register of watches: each that its user has not left is in one roster, that of the
stream which serves it, or which has ended its service.
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
"""Watch ids on one stream that nobody knows. A server that is well sends a few, for
watches that were just left."""


class Roster:
    """The watches of one stream, across all its reconnects."""

    def __init__(self) -> None:
        self._connected = False
        # Also those that have failed, until their users leave.
        self._subscriptions: dict[Subscription, None] = {}
        self._live: dict[int, Subscription] = {}
        self._creations = Creations()
        # Ids that have been canceled on this stream, so that each is canceled once.
        self._canceled: set[int] = set()
        self._unknown_ids = 0
        self._requests: list[bytes] = []
        # How many of them are creations.
        self._unsent = 0
        self._asks_progress = False
        # Watches on a member that is behind them, and how far the cluster is proved.
        self._unproved: dict[Subscription, None] = {}
        self._proved = 0
        self._expelled: list[Subscription] = []

    # The user's side

    @property
    def registered(self) -> Iterable[Subscription]:
        """The watches that have not been left, in the order of their opening."""
        return self._subscriptions.keys()

    @property
    def is_empty(self) -> bool:
        """Whether all watches have been left."""
        return not self._subscriptions

    @property
    def subscriptions(self) -> list[Subscription]:
        """The watches that have neither failed nor been left."""
        return [each for each in self._subscriptions if each.state is not State.ENDED]

    def open(self, spec: WatchSpec) -> Subscription:
        """Add a watch. Its creation is sent now, or when there is a stream."""
        subscription = Subscription(spec)
        self.adopt(subscription)
        return subscription

    def adopt(self, subscription: Subscription) -> None:
        """Add a watch that another stream has expelled."""
        self._subscriptions[subscription] = None
        self._create(subscription)

    def close(self, subscription: Subscription) -> None:
        """Forget a watch, and cancel it on the server; one that has ended may come."""
        self.end(subscription)
        self._subscriptions.pop(subscription, None)

    def end(self, subscription: Subscription) -> None:
        """Cancel a watch on the server, and expect nothing more of it."""
        if subscription.state is State.LIVE:
            self._drop_id(subscription)
        elif subscription.state is State.CREATING:
            self._creations.abandoned += 1
        self._end(subscription)

    def take(self, subscription: Subscription, events: int, size: int) -> None:
        """Note what the user has taken; a parked watch may go on (woken_at_half)."""
        subscription.unread -= events
        subscription.unread_bytes -= size
        if subscription.state is State.PARKED and subscription.is_drained:
            self._create(subscription)

    def request_progress(self) -> None:
        """Ask the server how far this stream is; without a stream do nothing.

        One answer is as good as many, so what has not been sent yet is asked once.
        """
        self._asks_progress = self._connected

    # The stream's side

    def connect(self) -> None:
        """A new stream is open: create every watch that is to be on it.

        resumed_at_once: nothing is waited for in between.
        """
        self._connected = True
        for subscription in self._subscriptions:
            if subscription.state is State.RESUMING:
                self._create(subscription)

    def disconnect(self) -> None:
        """The stream is gone, with what belongs to it (stream_state_dies).

        whole_revisions: with the phase go its fragments, which are sent again.
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

        Tries that fail do not make it shorter. A watch that is parked has none anyway.
        """
        for subscription in self.subscriptions:
            subscription.last_loss = reason
            if subscription.lost_at is None and subscription.state is not State.PARKED:
                subscription.lost_at = now

    @property
    def unanswered(self) -> int:
        """How many creations wait for their replies, wanted or not."""
        return len(self._creations)

    @property
    def answered(self) -> int:
        """How many have been answered, on all streams so far."""
        return self._creations.answered

    @property
    def abandoned(self) -> int:
        """How many of the unanswered nobody wants any more."""
        return self._creations.abandoned

    @property
    def has_requests(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._requests) or self._asks_progress

    def requests(self) -> list[bytes]:
        """Return the messages to send, and forget them."""
        requests, self._requests = self._requests, []
        self._unsent = 0
        if self._asks_progress:
            requests.append(progress_request())
        self._asks_progress = False
        return requests

    def expelled(self) -> list[Subscription]:
        """Return, and forget, the watches that are to go on with a new token."""
        expelled, self._expelled = self._expelled, []
        return expelled

    @property
    def unproved(self) -> list[Subscription]:
        """The watches that this member is behind: `prove()` how far the cluster is."""
        return list(self._unproved)

    # Steps

    def _repeat(
        self, subscription: Subscription, prev_kv_tries: int | None = None
    ) -> None:
        """Create a live watch again; what comes of its present creation is dropped.

        For prev_kv: etcd begins to send before it has noted that it is wanted
        (recvLoop, v3rpc/watch.go), so now and then the first responses come without.

        Args:
            subscription: the watch.
            prev_kv_tries: that are left, where this is one; None where it is not.
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
            # previous_value_retried: on each stream.
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
                raise StreamLost("the server makes up watch ids")
            self._cancel(watch_id)

    def _drop_id(self, subscription: Subscription) -> None:
        """Cancel a live watch on the server; what is in flight for it is dropped.

        live_ids_only: nothing under its id is listened to any more. The caller says in
        which phase it is then.
        """
        watch_id = subscription.live.watch_id
        del self._live[watch_id]
        self._cancel(watch_id)

    def _park(self, subscription: Subscription) -> None:
        self._drop_id(subscription)
        subscription.phase = Parked()

    def _doubt(self, subscription: Subscription) -> None:
        """Take nothing from this member before it is known why it is behind."""
        self._drop_id(subscription)
        subscription.phase = Resuming()
        self._unproved[subscription] = None

    def _expel(self, subscription: Subscription, now: float) -> None:
        """Give a watch up to a stream that comes with a new token."""
        subscription.phase = Resuming()
        if subscription.lost_at is None:
            subscription.lost_at = now
        del self._subscriptions[subscription]
        self._expelled.append(subscription)

    def _end(self, subscription: Subscription) -> None:
        subscription.phase = Ended()
        self._unproved.pop(subscription, None)
