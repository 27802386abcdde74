"""Defines `WatchResponse`, `Event` and `KeyValue`, and decodes messages into them.

Sans-IO. An event or key owns its bytes: whoever keeps one keeps no message and no other
value in memory.
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
"""The module that makes values of bytes: in C if that is built, otherwise in Python."""

SPEEDUPS = speedups is not None
"""Whether messages are decoded in C."""

_T = TypeVar("_T", bound=type)


def _twinned(cls: _T) -> _T:
    """Copy the attributes of a class to the class in C, and return that instead.

    The garbage collector tracks every instance of a class made in Python, which costs
    more than all of the decoding. The class in C has the fields, and makes them
    read-only.
    """
    if not SPEEDUPS:
        return cls
    in_c = vars(twin)[cls.__name__]
    of_python = {"__slots__", "__new__", "__setattr__", "__delattr__"}
    for name in vars(cls).keys() - of_python:
        setattr(in_c, name, vars(cls)[name])
    return cast("_T", in_c)


def _complete_sequence() -> None:
    """Give the sequence of events in C the methods that are not worth writing in C."""
    in_c, of_python = vars(twin)["EventSequence"], vars(_pure.EventSequence)
    for name in ("__eq__", "__hash__", "__repr__", "__reduce__"):
        setattr(in_c, name, of_python[name])
    for name in ("__contains__", "__reversed__", "count", "index"):
        setattr(in_c, name, vars(Sequence)[name])
    Sequence.register(in_c)


if SPEEDUPS:
    _complete_sequence()


class EventType(enum.IntEnum):
    """What happened to the key."""

    PUT = 0
    """It was created, or has a new value."""
    DELETE = 1
    """It was deleted, or its lease has expired."""
    UNKNOWN = -1
    """A type that this version does not know; no server sends one."""


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
    """How many puts the key has had, starting with its creation; 0 in a DELETE."""
    lease: int
    """The id of the lease that the key is attached to; 0 if there is none."""

    if TYPE_CHECKING:

        def __new__(cls, made_by_the_library: Never, /) -> Self:
            """Raise TypeError."""

    else:

        def __new__(cls, *args: object, **kwargs: object) -> Self:
            """Raise TypeError."""
            raise TypeError("a KeyValue cannot be constructed: the library returns it")

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
    """The key after this change; a DELETE sets only its `key` and `mod_revision`."""
    prev_kv: KeyValue | None
    """The key before this change.

    None if the watch lacks `prev_kv=True`, if the key did not exist before, or if the
    earlier revision has been compacted.
    """

    if TYPE_CHECKING:

        def __new__(cls, made_by_the_library: Never, /) -> Self:
            """Raise TypeError."""

    else:

        def __new__(cls, *args: object, **kwargs: object) -> Self:
            """Raise TypeError."""
            raise TypeError("an Event cannot be constructed: the library returns it")

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
    """The member that answered, and the state of its store at that time.

    The revision does not show which events a watch has delivered, since a server that
    replays history sends its newest revision. `Watch.next_revision` shows that.
    """

    cluster_id: int
    """The id of the cluster."""
    member_id: int
    """The id of the member that answered."""
    revision: int
    """The newest revision of that member's store."""
    raft_term: int
    """The raft term of that member."""


@final
@_twinned
class RawResponse(_pure.ResponseFields):
    """One message of the stream, or a batch merged into one, for `_session`."""

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
    """A response of the server for one watch. Immutable; made by the library only.

    Responses that waited while the user was busy may come as one, which has all their
    events in order, whole revisions only, and the header of the last.
    """

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
        """The events, by revision; those of one revision are in the same response.

        The response keeps the bytes of its messages, and each access makes an event.
        """
        return self._events

    @property
    def compact_revision(self) -> int:
        """Not 0 if the watch ended because its next revision has been compacted."""
        return self._raw.compact_revision

    @property
    def created(self) -> bool:
        """Whether this confirms (or, with `canceled`, refuses) the creation."""
        return self._raw.created

    @property
    def canceled(self) -> bool:
        """Whether the server has ended the watch."""
        return self._raw.canceled

    @property
    def cancel_reason(self) -> str:
        """Why the server ended the watch, in its own words; may be empty."""
        return self._raw.cancel_reason

    @property
    def is_progress_notify(self) -> bool:
        """Whether this only reports the server's progress (Go's IsProgressNotify)."""
        raw = self._raw
        return not (
            self._events or raw.canceled or raw.created or raw.compact_revision
        ) and bool(raw.revision)

    def raise_for_error(self) -> None:
        """Raise the error of a response that ended the watch; do nothing for others.

        Raises:
            WatchCanceledError: The server ended the watch; a subclass says why.
        """
        if self.canceled or self.compact_revision:
            raise error_of_cancel(self)

    def merged(self, others: Sequence[WatchResponse]) -> WatchResponse:
        """Return this response and those that followed it as one."""
        parts = [self._events, *(other._events for other in others)]
        return construct(WatchResponse, others[-1]._raw, join(parts))

    def after(self, events: int) -> WatchResponse:
        """Return this response without this many of its first events."""
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
        events: tuple[Event, ...],
        compact_revision: int,
        created: bool,
        canceled: bool,
        cancel_reason: str,
    ) -> WatchResponse:
        """Make a response from its values instead of a message."""
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
    """Decode a message of a Watch stream, or the merge of several.

    By protobuf's rules, a merge has the events of all messages, in order. It has every
    other field, including each of the header, as in the last message that has it.

    Raises:
        StreamLost: a message is no `WatchResponse`, so the stream cannot be trusted.
    """
    try:
        response = twin.decode(messages, _CLASSES)
    except ValueError as exc:
        raise StreamLost(f"a message is not a watch response: {exc}") from exc
    assert isinstance(response, RawResponse)
    return response


def watch_id_of_head(head: bytes) -> int:
    """Return the watch id of a response, given only its first bytes.

    The header and the id come first and take at most 59 bytes, so the longest prefix
    that decodes, which ends between two fields, has both.
    """
    for length in range(min(len(head), 64), -1, -1):
        try:
            return decode(head[:length]).watch_id
        except StreamLost:
            continue
    raise AssertionError("an empty message always decodes")


def changes_of(events: Iterable[Event]) -> list[Event]:
    """Return the events of keys that existed before, which may have a `prev_kv`."""
    return [event for event in events if not event.is_create]
