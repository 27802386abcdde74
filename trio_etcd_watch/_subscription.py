"""One watch as its session sees it: where it stands, and what is delivered for it.

Sans-IO, and nothing but data: `_session` has the rules. A watch is in one phase, which
carries what has a meaning in that phase only, and takes it along when it ends: an id, and
what depends on the stream, are those of a live watch.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

from ._cursor import Cursor
from ._errors import WatchError
from ._fragments import Fragments
from ._requests import WatchSpec
from ._responses import WatchResponse
from ._tokens import WatchTokens

BROADCAST_ID = -1
"""The watch id under which the server answers a progress request."""


MAX_PREV_KV_TRIES = 3
"""How often a watch may be created again because etcd left out prev_kv. Its race was
lost in 3 of 10,000 tries; where prev_kv is compacted, repeating changes nothing."""


class State(enum.Enum):
    """Where a watch stands: the name of its phase."""

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


@dataclass(frozen=True, slots=True)
class Resuming:
    """Nothing is asked for."""

    state: ClassVar = State.RESUMING


@dataclass(frozen=True, slots=True)
class Creating:
    """Its creation has been sent, or waits for those before it.

    Attributes:
        prev_kv_tries: how often it may still be repeated because the first changes come
            without their prev_kv.
    """

    state: ClassVar = State.CREATING
    prev_kv_tries: int


@dataclass(slots=True, eq=False)
class Live:
    """The server has confirmed it on the present stream.

    Attributes:
        watch_id: given by the server.
        created_revision: of the header of its creation.
        prev_kv_tries: as those of its creation; 0 once changes came with prev_kv.
        fragments: of a revision that is still to be completed.
    """

    state: ClassVar = State.LIVE
    watch_id: int
    created_revision: int
    prev_kv_tries: int
    fragments: Fragments = field(default_factory=Fragments)


@dataclass(frozen=True, slots=True)
class Parked:
    """What it holds is to be taken first."""

    state: ClassVar = State.PARKED


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing follows."""

    state: ClassVar = State.ENDED


Phase: TypeAlias = Resuming | Creating | Live | Parked | Ended


class Receiver(Protocol):
    """What a user holds of a watch."""

    def deliver(self, delivery: Delivery) -> None:
        """Take what has come; never wait."""

    def close(self) -> None:
        """Hand over nothing more, and end every wait."""


class Server(Protocol):
    """What serves a watch."""

    def take(self, subscription: Subscription, events: int, size: int) -> None:
        """Note that its user has taken so many events, of so many bytes."""

    def close(self, subscription: Subscription) -> None:
        """Drop it."""


class Subscription:
    """One watch, as its session sees it. Made by `Session.open()`.

    Attributes:
        phase: where it stands.
        server: what serves it now. Set by that, as is
        receiver: what gets its deliveries.
        unread, unread_bytes: delivered, and not taken by the user yet.
        confirmed: whether a server has ever confirmed it.
        cluster_id: of the cluster that confirmed it; 0 where it has not said.
        tokens: how it has fared with its tokens.
        splits: whether it asks for fragments: a response was too large once.
        oversized: how many were, since the last fragment.
        last_loss: why it has lost its stream, or got none, the last time.
        lost_at: when it lost its stream, by the clock of who serves it; None while it
            is confirmed on one.
    """

    __slots__ = (
        "cluster_id",
        "confirmed",
        "cursor",
        "last_loss",
        "lost_at",
        "oversized",
        "phase",
        "receiver",
        "server",
        "spec",
        "splits",
        "tokens",
        "unread",
        "unread_bytes",
    )

    receiver: Receiver
    server: Server

    def __init__(self, spec: WatchSpec) -> None:
        self.spec: WatchSpec = spec
        self.cursor: Cursor = Cursor(spec.start_revision)
        self.phase: Phase = Resuming()
        self.unread: int = 0
        self.unread_bytes: int = 0
        self.confirmed: bool = False
        self.cluster_id: int = 0
        self.tokens: WatchTokens = WatchTokens()
        self.splits: bool = False
        self.oversized: int = 0
        self.last_loss: str | None = None
        self.lost_at: float | None = None

    @property
    def state(self) -> State:
        """The name of its phase."""
        return self.phase.state

    @property
    def live(self) -> Live:
        """Its phase, which has to be that of a live watch."""
        assert isinstance(self.phase, Live)
        return self.phase

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


class Delivery(NamedTuple):
    """Something for one watch.

    Attributes:
        item: a response for the user, the error that ends the watch, or None where
            only next_revision moved.
        next_revision: where to continue once item has been taken.
        events: how many item holds.
        size: bytes of the messages that brought them.
        header_revision: of the newest of these messages, where there is one.
    """

    subscription: Subscription
    item: WatchResponse | WatchError | None
    next_revision: int
    events: int = 0
    size: int = 0
    header_revision: int = 0
