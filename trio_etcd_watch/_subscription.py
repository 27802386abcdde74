"""One watch as its session sees it: where it stands, and what is delivered for it.

Sans-IO, and nothing but data: `_session` has the rules.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from ._cursor import Cursor
from ._errors import WatchError
from ._requests import WatchSpec
from ._responses import RawResponse, WatchResponse

BROADCAST_ID = -1
"""The watch id under which the server answers a progress request."""


class State(enum.Enum):
    """Where a watch stands."""

    RESUMING = "resuming"
    """There is no stream; the next one starts by creating it."""
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
        unread: events delivered that the user has not taken yet.
        confirmed: whether a server has ever confirmed it.
        cluster_id: of the cluster that did; 0 where it has not said.
    """

    __slots__ = (
        "cluster_id",
        "confirmed",
        "cursor",
        "fragment_bytes",
        "fragments",
        "prev_kv_checked",
        "refused_tokens",
        "spec",
        "state",
        "unread",
        "watch_id",
    )

    def __init__(self, spec: WatchSpec) -> None:
        self.spec = spec
        self.cursor = Cursor(spec.start_revision)
        self.state = State.RESUMING
        self.watch_id = BROADCAST_ID
        self.unread = 0
        self.confirmed = False
        self.cluster_id = 0
        self.refused_tokens = 0
        self.prev_kv_checked = not spec.prev_kv
        self.fragments: list[RawResponse] = []
        self.fragment_bytes = 0


class Delivery(NamedTuple):
    """Something for one watch.

    Attributes:
        item: a response for the user, the error that ends the watch, or None where
            only next_revision moved.
        next_revision: where to continue once item has been taken.
        events: how many item holds.
    """

    subscription: Subscription
    item: WatchResponse | WatchError | None
    next_revision: int
    events: int = 0
