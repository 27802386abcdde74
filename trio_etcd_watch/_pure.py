"""Decodes the messages of a Watch stream and of reads, in Python.

Sans-IO. The classes here declare the fields of the classes in `_responses`, which add the
methods. Every field is read once and copied, so that an event that is kept keeps neither
its message nor other events alive.

Events are made when they are accessed. Hundreds of objects that live together cost more
in the garbage collector than to make, and it does not track protobuf's objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from operator import lt
from typing import Any, NamedTuple, TypeVar, cast, overload

from ._columns import (
    EventColumns,
    columns_of_events,
    columns_of_keys,
    parse_response,
)
from ._parsing import UNPARSABLE
from ._pb import watch_pb2 as pb


class KeyValueFields:
    """The fields of a `KeyValue`."""

    __slots__ = (
        "create_revision",
        "key",
        "lease",
        "mod_revision",
        "value",
        "version",
    )
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class EventFields:
    """The fields of an `Event`."""

    __slots__ = ("kv", "prev_kv", "type")
    type: Any
    kv: Any
    prev_kv: Any


class ResponseFields:
    """The fields of a `RawResponse`.

    Attributes:
        first_revision: the revision of the first event; 0 if there is none.
        last_revision: the revision of the last event; 0 if there is none.
        size: the size of the messages, in bytes.
    """

    __slots__ = (
        "cancel_reason",
        "canceled",
        "cluster_id",
        "compact_revision",
        "created",
        "events",
        "first_revision",
        "fragment",
        "last_revision",
        "member_id",
        "raft_term",
        "revision",
        "size",
        "watch_id",
    )
    cluster_id: int
    member_id: int
    revision: int
    raft_term: int
    watch_id: int
    created: bool
    canceled: bool
    compact_revision: int
    cancel_reason: str
    fragment: bool
    events: Any
    first_revision: int
    last_revision: int
    size: int

    @property
    def rising(self) -> bool:
        """Whether each event has a higher revision than the one before."""
        rising: bool = self.events.rising()
        return rising


KeyValue = TypeVar("KeyValue", bound=KeyValueFields)
Event = TypeVar("Event", bound=EventFields)


class Classes(NamedTuple):
    """The classes to make, which are subclasses of those above without further fields."""

    response: type[Any]
    event: type[EventFields]
    kv: type[KeyValueFields]
    put: object
    """The `Event.type` of a PUT."""
    delete: object
    unknown: object
    """The `Event.type` of an event of any other kind."""


class EventSequence(Sequence[EventFields]):
    """The events of one or more messages, each made when it is accessed."""

    __slots__ = ("_classes", "_columns")

    def __init__(self, columns: EventColumns, classes: Classes) -> None:
        self._columns = columns
        self._classes = classes

    def __iter__(self) -> Iterator[EventFields]:
        # This loop is the cost of a response, so it avoids every call that it can.
        _, event_class, kv_class, put, delete, unknown = self._classes
        rows = zip(*self._columns, strict=True)
        for kind, key, value, created, modified, version, lease, prev_kv in rows:
            kv = KeyValueFields()
            kv.key = key
            kv.value = value
            kv.create_revision = created
            kv.mod_revision = modified
            kv.version = version
            kv.lease = lease
            kv.__class__ = kv_class
            event = EventFields()
            event.type = put if kind == 0 else delete if kind == 1 else unknown
            event.kv = kv
            event.prev_kv = prev_kv and make_key_value(kv_class, *prev_kv)
            event.__class__ = event_class
            yield event

    def __len__(self) -> int:
        return len(self._columns.type)

    @overload
    def __getitem__(self, index: int) -> EventFields: ...
    @overload
    def __getitem__(self, index: slice) -> EventSequence: ...
    def __getitem__(self, index: int | slice) -> EventFields | EventSequence:
        if isinstance(index, slice):
            columns = EventColumns._make(column[index] for column in self._columns)
            return EventSequence(columns, self._classes)
        columns = EventColumns._make([column[index]] for column in self._columns)
        return next(iter(EventSequence(columns, self._classes)))

    # `_responses` gives these four methods to the class in C, too.

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[object, ...]:
        # What is pickled are the events, and not the bytes of other fields.
        return tuple, (tuple(self),)

    def rising(self) -> bool:
        """Whether each event has a higher revision than the one before."""
        revisions = self._columns.mod_revision
        return all(map(lt, revisions, revisions[1:]))


def join(parts: Sequence[Any]) -> Sequence[Any]:
    """Return the events of several responses as one sequence."""
    columns = zip(*(part._columns for part in parts), strict=True)
    joined = (list(chain.from_iterable(column)) for column in columns)
    return EventSequence(EventColumns._make(joined), parts[0]._classes)


def decode(messages: Sequence[bytes], classes: Classes) -> object:
    """Decode messages; several are merged into one, as protobuf merges messages.

    Returns:
        A `classes.response`.

    Raises:
        ValueError: the messages are not a `WatchResponse`.
    """
    data = messages[0] if len(messages) == 1 else b"".join(messages)
    try:
        raw = parse_response(data)
    except UNPARSABLE as exc:
        raise ValueError(f"{len(data)} bytes are not a watch response") from exc
    header = raw.header
    response = classes.response()
    response.cluster_id = header.cluster_id
    response.member_id = header.member_id
    response.revision = header.revision
    response.raft_term = header.raft_term
    response.watch_id = raw.watch_id
    response.created = raw.created
    response.canceled = raw.canceled
    response.compact_revision = raw.compact_revision
    response.cancel_reason = raw.cancel_reason
    response.fragment = raw.fragment
    response.size = len(data)
    columns = columns_of_events(data, raw)
    response.events = EventSequence(columns, classes)
    revisions = columns.mod_revision
    response.first_revision = revisions[0] if revisions else 0
    response.last_revision = revisions[-1] if revisions else 0
    return response


def decode_range(message: bytes) -> tuple[Any, ...]:
    """Decode a page of a range, except for its keys.

    Returns:
        The header's cluster_id, member_id, revision and raft_term; the fields more and
        count; the number of keys in the page, and the last key; and the argument `keys`
        of `put_range()`.

    Raises:
        ValueError: the message is not a `RangeResponse`.
    """
    try:
        raw = pb.RangeResponse.FromString(message)
    except UNPARSABLE as exc:
        raise ValueError(f"{len(message)} bytes are not a range response") from exc
    header, kvs = raw.header, raw.kvs
    return (
        header.cluster_id,
        header.member_id,
        header.revision,
        header.raft_term,
        raw.more,
        raw.count,
        len(kvs),
        kvs[-1].key if kvs else b"",
        (message, kvs),
    )


def put_range(
    mapping: dict[bytes, Any],
    keys: tuple[bytes, Sequence[pb.KeyValue]],
    kv_class: type[Any],
) -> None:
    """Put the keys of a page, as returned by `decode_range()`, into a mapping."""
    columns = columns_of_keys(*keys)
    # As in `EventSequence`, this loop avoids every call that it can.
    for key, value, created, modified, version, lease in zip(*columns, strict=True):
        kv = KeyValueFields()
        kv.key = key
        kv.value = value
        kv.create_revision = created
        kv.mod_revision = modified
        kv.version = version
        kv.lease = lease
        kv.__class__ = kv_class
        mapping[key] = kv


def make_key_value(
    kv_class: type[KeyValue],
    key: bytes,
    value: bytes,
    create_revision: int,
    mod_revision: int,
    version: int,
    lease: int,
) -> KeyValue:
    """Return a key with these fields."""
    kv: Any = KeyValueFields()
    kv.key = key
    kv.value = value
    kv.create_revision = create_revision
    kv.mod_revision = mod_revision
    kv.version = version
    kv.lease = lease
    kv.__class__ = kv_class
    return cast("KeyValue", kv)


def make_event(
    event_class: type[Event], kind: object, kv: object, prev_kv: object
) -> Event:
    """Return an event with these fields."""
    event: Any = EventFields()
    event.type = kind
    event.kv = kv
    event.prev_kv = prev_kv
    event.__class__ = event_class
    return cast("Event", event)
