"""The way in: messages become `WatchResponse`, `Event`, `KeyValue`.

Sans-IO. The values own what they hold: who keeps one keeps no message, and no other.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Never, Self, TypeVar, cast, final

from . import _pure
from ._face import NoPublicConstructor, construct
from ._grpc.status import StreamLost
from ._pb import watch_pb2 as pb
from ._twins import speedups
from ._verdicts import error_of_cancel

twin = _pure
if not TYPE_CHECKING and speedups is not None:
    twin = speedups
"""What makes values of bytes: in C, or in Python."""

SPEEDUPS = speedups is not None
"""Whether messages are decoded in C."""

_T = TypeVar("_T", bound=type)


def _twinned(cls: _T) -> _T:
    """Give what is defined here to the class in C, which takes its place.

    One made in Python is always known to the garbage collector, which costs more than
    all of the decoding. In C there are the fields, and that nobody sets them.
    """
    if not SPEEDUPS:
        return cls
    in_c = vars(twin)[cls.__name__]
    of_python = {"__slots__", "__new__", "__setattr__", "__delattr__"}
    for name in vars(cls).keys() - of_python:
        setattr(in_c, name, vars(cls)[name])
    return cast("_T", in_c)


class EventType(enum.IntEnum):
    """What happened to the key."""

    PUT = 0
    """It was created, or has a new value."""
    DELETE = 1
    """It was deleted, or its lease has expired."""
    UNKNOWN = -1
    """A kind that this version does not know; no server has one."""


@final
@_twinned
@dataclass(frozen=True, init=False)
class KeyValue(_pure.KeyValueFields):
    """A key with its value at one revision. Immutable; made by the library only."""

    __module__ = "trio_etcd_watch"
    __slots__ = ()

    key: bytes
    """The key."""
    value: bytes
    """The value; empty in the `kv` of a DELETE."""
    create_revision: int
    """The revision of the put that created the key; 0 in a DELETE."""
    mod_revision: int
    """The revision of this change."""
    version: int
    """How many puts since the key was created, this one included; 0 in a DELETE."""
    lease: int
    """The id of the lease that the key is attached to; 0 for none."""

    if TYPE_CHECKING:

        def __new__(cls, made_by_the_library: Never, /) -> Self:
            """Refuse every call."""

    else:

        def __new__(cls, *args: object, **kwargs: object) -> Self:
            """Refuse."""
            raise TypeError("a KeyValue comes from the library, and is not constructed")

    @classmethod
    def _make(
        cls,
        key: bytes,
        value: bytes,
        create_revision: int,
        mod_revision: int,
        version: int,
        lease: int,
    ) -> KeyValue:
        return twin.make_key_value(
            cls, key, value, create_revision, mod_revision, version, lease
        )

    def __reduce__(self) -> tuple[object, ...]:
        return KeyValue._make, (
            self.key,
            self.value,
            self.create_revision,
            self.mod_revision,
            self.version,
            self.lease,
        )


@final
@_twinned
@dataclass(frozen=True, init=False)
class Event(_pure.EventFields):
    """One change of one key. Immutable; made by the library only."""

    __module__ = "trio_etcd_watch"
    __slots__ = ()

    type: EventType
    """Whether the key was put or deleted."""
    kv: KeyValue
    """The key as it is now; of a DELETE only key and mod_revision are set."""
    prev_kv: KeyValue | None
    """The key before this change.

    None unless asked for with prev_kv=True, for a key that did not exist before, and
    where the earlier revision has been compacted.
    """

    if TYPE_CHECKING:

        def __new__(cls, made_by_the_library: Never, /) -> Self:
            """Refuse every call."""

    else:

        def __new__(cls, *args: object, **kwargs: object) -> Self:
            """Refuse."""
            raise TypeError("an Event comes from the library, and is not constructed")

    @classmethod
    def _make(cls, type: EventType, kv: KeyValue, prev_kv: KeyValue | None) -> Event:  # noqa: A002  # the field
        return twin.make_event(cls, type, kv, prev_kv)

    @property
    def is_create(self) -> bool:
        """Whether this put created the key."""
        kv = self.kv
        return self.type is EventType.PUT and kv.create_revision == kv.mod_revision

    @property
    def is_modify(self) -> bool:
        """Whether this put gave a new value to a key that existed."""
        kv = self.kv
        return self.type is EventType.PUT and kv.create_revision != kv.mod_revision

    def __reduce__(self) -> tuple[object, ...]:
        return Event._make, (self.type, self.kv, self.prev_kv)


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """Who answered, and how far that member was.

    The revision says nothing about what a watch has been given: a server that
    replays history sends its newest revision. `Watch.next_revision` says that.
    """

    cluster_id: int
    """The id of the cluster."""
    member_id: int
    """The id of the member that answered."""
    revision: int
    """The newest revision of that member's store."""
    raft_term: int
    """The term of raft."""


@final
@_twinned
class RawResponse(_pure.ResponseFields):
    """One message of the stream, or some that are alike: what `_session` works on."""

    __slots__ = ()
    events: Sequence[Event]

    @property
    def header(self) -> ResponseHeader:
        """The header."""
        return ResponseHeader(
            cluster_id=self.cluster_id,
            member_id=self.member_id,
            revision=self.revision,
            raft_term=self.raft_term,
        )


@final
class WatchResponse(metaclass=NoPublicConstructor):
    """What the server said of one watch. Immutable; made by the library only.

    Responses that waited while the user was busy may come as one: their events in
    order, whole revisions only, with the header of the last.
    """

    __module__ = "trio_etcd_watch"
    __slots__ = ("_events", "_raw")

    def __init__(self, raw: RawResponse, events: Sequence[Event] | None = None) -> None:
        self._raw = raw
        self._events: Sequence[Event] = raw.events if events is None else events

    @property
    def header(self) -> ResponseHeader:
        """The header; its revision is 0 in a cancel because of compaction."""
        return self._raw.header

    @property
    def events(self) -> Sequence[Event]:
        """The events, by revision; those of one revision are never torn apart."""
        return self._events

    @property
    def compact_revision(self) -> int:
        """Not 0 if the watch ended because what it asked for is compacted."""
        return self._raw.compact_revision

    @property
    def created(self) -> bool:
        """Whether this confirms (or, with canceled, refuses) the creation."""
        return self._raw.created

    @property
    def canceled(self) -> bool:
        """Whether the server has ended the watch."""
        return self._raw.canceled

    @property
    def cancel_reason(self) -> str:
        """Why, in the server's words; may be empty."""
        return self._raw.cancel_reason

    @property
    def is_progress_notify(self) -> bool:
        """Whether this only tells how far the server is (Go's IsProgressNotify)."""
        raw = self._raw
        return not (
            self._events or raw.canceled or raw.created or raw.compact_revision
        ) and bool(raw.revision)

    def raise_for_error(self) -> None:
        """Raise what a cancel means; do nothing for every other response.

        Raises:
            WatchCanceledError: or one of its kinds.
        """
        if self.canceled or self.compact_revision:
            raise error_of_cancel(self)

    def merged(self, others: Sequence[WatchResponse]) -> WatchResponse:
        """Return this and what followed it as one response."""
        parts = [self._events, *(other._events for other in others)]
        return construct(WatchResponse, others[-1]._raw, join(parts))

    def after(self, events: int) -> WatchResponse:
        """Return what is left of this response after so many of its events."""
        return construct(WatchResponse, self._raw, self._events[events:])

    def _values(self) -> tuple[Any, ...]:
        return (
            self.header,
            tuple(self._events),
            self.compact_revision,
            self.created,
            self.canceled,
            self.cancel_reason,
        )

    @classmethod
    def _make(
        cls,
        header: ResponseHeader,
        events: tuple[Event, ...] = (),
        compact_revision: int = 0,
        created: bool = False,
        canceled: bool = False,
        cancel_reason: str = "",
    ) -> WatchResponse:
        """Make one that no message holds."""
        raw = decode(
            pb.WatchResponse(
                header=pb.ResponseHeader(**asdict(header)),
                compact_revision=compact_revision,
                created=created,
                canceled=canceled,
                cancel_reason=cancel_reason,
            ).SerializeToString()
        )
        return construct(WatchResponse, raw, events)

    def __reduce__(self) -> tuple[object, ...]:
        return WatchResponse._make, self._values()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WatchResponse):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return (
            f"WatchResponse(header={self.header!r}, events={self.events!r}, "
            f"compact_revision={self.compact_revision}, created={self.created}, "
            f"canceled={self.canceled}, cancel_reason={self.cancel_reason!r})"
        )


def join(parts: Sequence[Sequence[Event]]) -> Sequence[Event]:
    """Return the events of several responses as one sequence."""
    if len(parts) == 1:
        return parts[0]
    return twin.join(parts) if parts else ()


_CLASSES = _pure.Classes(
    RawResponse,
    Event,
    KeyValue,
    EventType.PUT,
    EventType.DELETE,
    EventType.UNKNOWN,
)


def decode(*messages: bytes) -> RawResponse:
    """Decode a message of a Watch stream, or several as their merge.

    Of protobuf's rules: events of all of them, in order; a field that a later one has
    replaces an earlier one's, and what it has not, stays.

    Raises:
        StreamLost: it is no `WatchResponse`; nothing on this stream can be trusted.
    """
    try:
        response = twin.decode(messages, _CLASSES)
    except ValueError as exc:
        raise StreamLost(f"a message is no watch response: {exc}") from exc
    assert isinstance(response, RawResponse)
    return response


def watch_id_of_head(head: bytes) -> int:
    """Return the watch id of a response of which only the first bytes are known.

    The header and the id stand first and fill at most 59 bytes, so the longest start
    that decodes, cut between two fields, has both.
    """
    for length in range(min(len(head), 64), -1, -1):
        try:
            return decode(head[:length]).watch_id
        except StreamLost:
            continue
    raise AssertionError("an empty message always decodes")


def changes_of(events: Iterable[Event]) -> list[Event]:
    """Return the events of keys that existed, and so have an earlier key to tell."""
    return [event for event in events if not event.is_create]
