"""Many keys or events at once, as columns: all keys, all values, and so on.

Sans-IO, for `_pure`. An object of protobuf's for each event, and for each message in it,
costs more than all else that is done with an event in Python. The types of
`columns.proto` read the same bytes without them: what is repeated in etcd's messages is
expected once there, and merged, and the fields of what is merged are repeated, and
append. So each column is one list, in the order of the events, made in C.

To which event a value belongs is known if each event has that field exactly once. No
event has any field twice if protobuf writes them as long as they came: what is read can
only be written shorter, but for fields that are unknown, which are kept as they are. And
there are none of these if the events merged into one have none. Then a column as long
as there are events has one value of each. Else, and where only some events have a field,
the messages are read one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from google.protobuf.message import Message

from ._pb import columns_pb2 as columns
from ._pb import watch_pb2 as pb

FEW = 6
"""So many events or keys cost more to be checked than columns bring."""

LARGE = 4096
"""Bytes of an event or key, on the average, from which on columns are not tried: each
parse holds all values once more, and 53 MB of 40 events took 213 MB for a moment."""

Fields: TypeAlias = tuple[bytes, bytes, int, int, int, int]
"""Key, value, create_revision, mod_revision, version and lease."""

T = TypeVar("T")


class KeyValueColumns(NamedTuple):
    """Of some keys."""

    key: Sequence[bytes]
    value: Sequence[bytes]
    create_revision: Sequence[int]
    mod_revision: Sequence[int]
    version: Sequence[int]
    lease: Sequence[int]


class EventColumns(NamedTuple):
    """Of some events: of their keys, and the rest."""

    type: Sequence[int]
    key: Sequence[bytes]
    value: Sequence[bytes]
    create_revision: Sequence[int]
    mod_revision: Sequence[int]
    version: Sequence[int]
    lease: Sequence[int]
    prev_kv: Sequence[Fields | None]


fields_of: Callable[[pb.KeyValue], Fields] = attrgetter(*KeyValueColumns._fields)
"""Copy what a key has."""


def columns_of_events(message: bytes, raws: Sequence[pb.Event]) -> EventColumns:
    """Return the events of some WatchResponses, one behind another, as columns.

    Args:
        message: what `raws` were parsed from, and nothing was wrong with.
        raws: the events, as protobuf has them.
    """
    if (
        _is_worthwhile(message, raws)
        and columns.EventsApart.FromString(message).ByteSize() == len(message)
        and not _has_unknown(columns.EventsMerged.FromString(message).events)
    ):
        events = columns.WatchResponseColumns.FromString(message).events
        return EventColumns(
            _column(events.type, 0, raws, attrgetter("type")),
            *_key_value_columns(events.kv, raws, "kv."),
            _prev_kvs(events, raws),
        )
    rows = [
        (
            raw.type,
            *fields_of(raw.kv),
            fields_of(raw.prev_kv) if raw.HasField("prev_kv") else None,
        )
        for raw in raws
    ]
    return EventColumns(*zip(*rows, strict=True)) if rows else EventColumns(*[()] * 8)


def columns_of_keys(message: bytes, raws: Sequence[pb.KeyValue]) -> KeyValueColumns:
    """Return the keys of a RangeResponse as columns.

    Args:
        message: what `raws` were parsed from, and nothing was wrong with.
        raws: the keys, as protobuf has them.
    """
    if (
        _is_worthwhile(message, raws)
        and columns.KeysApart.FromString(message).ByteSize() == len(message)
        and not _has_unknown(columns.KeysMerged.FromString(message).kvs)
    ):
        kvs = columns.RangeResponseColumns.FromString(message).kvs
        return _key_value_columns(kvs, raws, "")
    rows = list(map(fields_of, raws))
    return (
        KeyValueColumns(*zip(*rows, strict=True))
        if rows
        else KeyValueColumns(*[()] * 6)
    )


def _is_worthwhile(message: bytes, raws: Sequence[Message]) -> bool:
    """Whether columns bring more than they cost: each parse holds all values once more."""
    return len(raws) > FEW and len(message) < LARGE * len(raws)


def _has_unknown(merged: Message) -> bool:
    """Whether it has a field that is not ours, or not of its type; such are dropped."""
    # Not ByteSize(): protobuf in Python remembers it, also of what was dropped.
    whole = merged.SerializeToString()
    # Not in the annotations that there are of protobuf.
    cast("Any", merged).DiscardUnknownFields()
    return merged.SerializeToString() != whole


def _key_value_columns(
    kvs: columns.KeyValueColumns, raws: Sequence[Message], prefix: str
) -> KeyValueColumns:
    def column(values: Sequence[T], default: T, name: str) -> Sequence[T]:
        return _column(values, default, raws, attrgetter(prefix + name))

    return KeyValueColumns(
        column(kvs.key, b"", "key"),
        column(kvs.value, b"", "value"),
        column(kvs.create_revision, 0, "create_revision"),
        column(kvs.mod_revision, 0, "mod_revision"),
        column(kvs.version, 0, "version"),
        column(kvs.lease, 0, "lease"),
    )


def _column(
    values: Sequence[T],
    default: T,
    raws: Sequence[Message],
    read: Callable[[Message], T],
) -> Sequence[T]:
    """Return one value for each of the messages."""
    if len(values) == len(raws):
        # A slice is made in one step.
        return values[:]
    if not values:
        return [default] * len(raws)
    return list(map(read, raws))


def _prev_kvs(
    events: columns.EventColumns, raws: Sequence[pb.Event]
) -> Sequence[Fields | None]:
    if not events.HasField("prev_kv"):
        return [None] * len(raws)
    if len(events.prev_kv.key) == len(raws):
        rows = zip(*_key_value_columns(events.prev_kv, raws, "prev_kv."), strict=True)
        return cast("list[Fields | None]", list(rows))
    return [fields_of(raw.prev_kv) if raw.HasField("prev_kv") else None for raw in raws]
