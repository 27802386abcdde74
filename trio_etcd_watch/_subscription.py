"""The state of one watch, as its session sees it, and the deliveries for it.

Sans-IO, and only data; the rules are in `_session`. A watch is in one phase. What has a
meaning in one phase only, such as the watch id of a live watch, is an attribute of that
phase, and is discarded with it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol, TypeAlias, final

from ._cursor import Cursor
from ._errors import WatchError
from ._fragments import Fragments
from ._requests import WatchSpec
from ._responses import WatchResponse
from ._tokens import WatchTokens

BROADCAST_ID = -1
"""The watch id under which the server answers a progress request."""


MAX_PREV_KV_TRIES = 3
"""How often a watch may be created again because etcd left out prev_kv. etcd's race
left it out in 3 of 10,000 tries. If prev_kv is compacted, another try does not help."""


class State(enum.Enum):
    """The name of the phase of a watch."""

    RESUMING = "resuming"
    """It waits for a stream, which begins by creating it; or, if the member is behind
    it, for the proof that the cluster is not."""
    CREATING = "creating"
    """Its creation was sent, or waits for its turn, and the reply is awaited."""
    LIVE = "live"
    """It has an id, and events flow."""
    PARKED = "parked"
    """Its buffer is full, and the watch does not exist on the server."""
    ENDED = "ended"
    """It failed, or was closed."""


@dataclass(frozen=True, slots=True)
class Resuming:
    """Nothing has been requested."""

    state: ClassVar[State] = State.RESUMING


@dataclass(frozen=True, slots=True)
class Creating:
    """Its creation was sent, or waits for the reply to an earlier one.

    Attributes:
        prev_kv_tries: how often it may still be created again because its first changes
            come without their prev_kv.
    """

    state: ClassVar[State] = State.CREATING
    prev_kv_tries: int


@dataclass(slots=True)
class Live:
    """The server has confirmed it on the present stream.

    Attributes:
        watch_id: the id that the server has assigned.
        created_revision: the revision in the header of its creation.
        prev_kv_tries: as in `Creating`; 0 once changes have come with prev_kv.
        fragments: the fragments of a revision that is not complete yet.
    """

    state: ClassVar[State] = State.LIVE
    watch_id: int
    created_revision: int
    prev_kv_tries: int
    fragments: Fragments = field(default_factory=Fragments)


@dataclass(frozen=True, slots=True)
class Parked:
    """Its buffer is full, so its user must consume half of that first."""

    state: ClassVar[State] = State.PARKED


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more is delivered."""

    state: ClassVar[State] = State.ENDED


Phase: TypeAlias = Resuming | Creating | Live | Parked | Ended


class Receiver(Protocol):
    """The consumer's end of a watch."""

    def deliver(self, delivery: Delivery) -> None:
        """Take a delivery. Never waits."""

    def close(self) -> None:
        """Hand over nothing more, and end every wait."""


@final
class ClosedReceiver:
    """The receiver of a closed watch, which drops what still comes."""

    def deliver(self, delivery: Delivery) -> None:
        """Drop a delivery."""

    def close(self) -> None:
        """Do nothing."""


CLOSED_RECEIVER: Final = ClosedReceiver()


class Server(Protocol):
    """What serves a watch: its stream."""

    def take(self, subscription: Subscription, events: int, size: int) -> None:
        """Note that the user consumed this many events, of `size` bytes in total."""

    def close(self, subscription: Subscription) -> None:
        """Close the watch, here and on the server."""


class Subscription:
    """One watch, as its session sees it. Made by `Session.open()`.

    Attributes:
        spec: what the user asked for.
        cursor: its resume point.
        phase: its phase.
        server: what serves it now. Set by the server itself.
        receiver: what gets its deliveries. Set by the server.
        unread, unread_bytes: how many events, and how many bytes of them, are delivered
            and not consumed by the user yet.
        confirmed: whether a server has ever confirmed it.
        cluster_id: the id of the cluster that confirmed it; 0 if none has given its id.
        tokens: counts the tokens that were refused for it.
        splits: whether it requests fragments, since one of its responses was too large.
        oversized: how many responses were too large in a row.
        last_loss: why its stream was last lost, refused or not opened; None if never.
        lost_at: when it lost its stream, by the server's clock; None while it is
            confirmed on one.
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
        """The name of the phase."""
        return self.phase.state

    @property
    def live(self) -> Live:
        """The phase, which must be that of a live watch."""
        assert isinstance(self.phase, Live)
        return self.phase

    @property
    def is_full(self) -> bool:
        """Whether it holds more than its bounds permit."""
        return (
            self.unread > self.spec.max_buffered_events
            or self.unread_bytes > self.spec.max_buffered_bytes
        )

    @property
    def is_drained(self) -> bool:
        """Whether it holds at most half of what its bounds permit."""
        return (
            self.unread * 2 <= self.spec.max_buffered_events
            and self.unread_bytes * 2 <= self.spec.max_buffered_bytes
        )


@dataclass(slots=True)
class Delivery:
    """What a session delivers to one watch in one step.

    While it is unread, a later delivery may change it: see `_inbox`.

    Attributes:
        subscription: the watch.
        item: a response for the user, the error that ends the watch, or None if only
            next_revision has moved.
        next_revision: the resume point once the user has consumed the item.
        events: how many events the item has.
        size: how many bytes the messages with these events had.
        header_revision: the revision in the header of the last message; 0 if the item
            is no response.
    """

    subscription: Subscription
    item: WatchResponse | WatchError | None
    next_revision: int
    events: int = 0
    size: int = 0
    header_revision: int = 0
