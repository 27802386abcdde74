"""One watch as its session sees it: where it stands, and what is delivered for it.

Sans-IO, and nothing but data: `_session` has the rules.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from ._cursor import Cursor
from ._errors import WatchError
from ._fragments import Fragments
from ._requests import WatchSpec
from ._responses import WatchResponse

BROADCAST_ID = -1
"""The watch id under which the server answers a progress request."""


MAX_PREV_KV_TRIES = 3
"""How often a watch may be created again because etcd left out prev_kv. Its race was
lost in 3 of 10,000 tries; where prev_kv is compacted, repeating changes nothing."""


class State(enum.Enum):
    """Where a watch stands."""

    RESUMING = "resuming"
    """It waits for a stream, which starts by creating it; or, on a member that is behind
    it, for the proof that the cluster is not."""
    CREATING = "creating"
    """Its creation has been sent, and its reply is awaited."""
    LIVE = "live"
    """It has an id, and events flow."""
    PARKED = "parked"
    """It holds all that it may; the server does not know of it."""
    ENDED = "ended"
    """It failed, or its user left."""


class Subscription:
    """One watch, as its session sees it. Made by `Session.open()`.

    Attributes:
        unread, unread_bytes: delivered, and not taken by the user yet.
        confirmed: whether a server has ever confirmed it.
        created_revision: of the header of its creation on the present stream.
        cluster_id: of the cluster that confirmed it; 0 where it has not said.
        splits: whether it asks for fragments: a response was too large once.
        oversized: how many were, since the last fragment.
        prev_kv_tries: how often its creation may still be repeated because the first
            changes came without their prev_kv; 0 once they came with it.
        fragments: of a revision that is still to be completed.
        expulsions: how often it was given up for want of a token, since it last brought
            anything.
        last_loss: why it has lost its stream, or got none, the last time.
        lost_at: when it lost its stream, by the clock of who serves it; None while it
            is confirmed on one.
    """

    __slots__ = (
        "cluster_id",
        "confirmed",
        "created_revision",
        "cursor",
        "expulsions",
        "fragments",
        "last_loss",
        "lost_at",
        "oversized",
        "prev_kv_tries",
        "refused_tokens",
        "spec",
        "splits",
        "state",
        "unread",
        "unread_bytes",
        "watch_id",
    )

    def __init__(self, spec: WatchSpec) -> None:
        self.spec: WatchSpec = spec
        self.cursor: Cursor = Cursor(spec.start_revision)
        self.state: State = State.RESUMING
        self.watch_id: int = BROADCAST_ID
        self.unread: int = 0
        self.unread_bytes: int = 0
        self.confirmed: bool = False
        self.created_revision: int = 0
        self.cluster_id: int = 0
        self.refused_tokens: int = 0
        self.expulsions: int = 0
        self.splits: bool = False
        self.oversized: int = 0
        self.prev_kv_tries: int = 0
        self.last_loss: str | None = None
        self.lost_at: float | None = None
        self.fragments: Fragments = Fragments()
        self.expect_prev_kv()

    @property
    def is_full(self) -> bool:
        """Whether it holds more than it may."""
        return (
            self.unread > self.spec.max_buffered_events
            or self.unread_bytes > self.spec.max_buffered_bytes
        )

    @property
    def is_drained(self) -> bool:
        """Whether at most half of what it may hold is left."""
        return (
            self.unread * 2 <= self.spec.max_buffered_events
            and self.unread_bytes * 2 <= self.spec.max_buffered_bytes
        )

    def expect_prev_kv(self) -> None:
        """Look at the first changes of the next stream, whether they have it."""
        self.prev_kv_tries = MAX_PREV_KV_TRIES if self.spec.prev_kv else 0


class Delivery(NamedTuple):
    """Something for one watch.

    Attributes:
        item: a response for the user, the error that ends the watch, or None where
            only next_revision moved.
        next_revision: where to continue once item has been taken.
        events: how many item holds.
        size: bytes of the messages that brought them.
    """

    subscription: Subscription
    item: WatchResponse | WatchError | None
    next_revision: int
    events: int = 0
    size: int = 0
