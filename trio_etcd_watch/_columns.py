"""Decodes many keys or events at once into columns: all keys, all values, and so on.

Sans-IO, for `_pure`. A protobuf object for each event, and for each message in it, costs
more than everything else that Python does with an event. The types of `columns.proto`
decode the same bytes without these objects. They declare the repeated messages of etcd's
types as singular, so that protobuf merges them, and the fields of these messages as
repeated, so that merging appends their values. Each column is then one list, in the order
of the events, made in C.

A value can be assigned to its event if each event has the field exactly once. No event
has a field twice if the message keeps its length when protobuf writes it again: repeated
values of a field are dropped, which makes it shorter, and only unknown fields are kept as
they are. No event has an unknown field if all events, merged into one, have none. Then a
column with as many values as there are events has one value for each event. In all other
cases, and where only some events have a field, the messages are read one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from google.protobuf.message import Message

from ._pb import columns_pb2 as columns
from ._pb import watch_pb2 as pb

FEW = 6
"""For up to this many events or keys, the checks cost more than columns save."""

SMALL, BIG = 256, 2**20
"""Bytes of a response below which it probably has few events, and from which on it may
have large ones."""

LARGE = 4096
"""Average bytes of an event or key from which on columns are not tried: each parse holds
a copy of all values, and 40 events of 53 MB in total briefly took 213 MB."""

Fields: TypeAlias = tuple[bytes, bytes, int, int, int, int]
"""Key, value, create_revision, mod_revision, version and lease."""

T = TypeVar("T")
M = TypeVar("M", bound=Message)


class KeyValueColumns(NamedTuple):
    """The fields of some keys, as columns."""

    key: Sequence[bytes]
    value: Sequence[bytes]
    create_revision: Sequence[int]
    mod_revision: Sequence[int]
    version: Sequence[int]
    lease: Sequence[int]


class EventColumns(NamedTuple):
    """The fields of some events and of their keys, as columns."""

    type: Sequence[int]
    key: Sequence[bytes]
    value: Sequence[bytes]
    create_revision: Sequence[int]
    mod_revision: Sequence[int]
    version: Sequence[int]
    lease: Sequence[int]
    prev_kv: Sequence[Fields | None]


fields_of: Callable[[pb.KeyValue], Fields] = attrgetter(*KeyValueColumns._fields)
"""Copy the fields of a key."""


Response: TypeAlias = "pb.WatchResponse | columns.WatchResponseApart"


def parse_response(message: bytes) -> Response:
    """Parse one or more concatenated WatchResponses, for `columns_of_events()` and others.

    The type is the one that is probably used: any other costs another parse.

    Raises:
        DecodeError: the bytes are not a WatchResponse.
    """
    if SMALL <= len(message) < BIG:
        return columns.WatchResponseApart.FromString(message)
    return pb.WatchResponse.FromString(message)


def columns_of_events(message: bytes, response: Response) -> EventColumns:
    """Return the events of one or more concatenated WatchResponses as columns.

    Args:
        message: the bytes that `response` was parsed from.
        response: what `parse_response()` has returned for them.
    """
    if _is_worthwhile(message, response.events):
        if isinstance(response, pb.WatchResponse):
            response = columns.WatchResponseApart.FromString(message)
        apart = response.events
        if response.ByteSize() == len(message) and not _has_unknown(
            columns.EventsMerged.FromString(message).events
        ):
            events = columns.WatchResponseColumns.FromString(message).events
            return EventColumns(
                _column(events.type, 0, apart, _type_of),
                *_key_value_columns(events.kv, apart, "kv."),
                _prev_kvs(events, apart),
            )
    if not isinstance(response, pb.WatchResponse):
        response = pb.WatchResponse.FromString(message)
    raws = response.events
    rows = [
        (
            raw.type,
            *fields_of(raw.kv),
            fields_of(raw.prev_kv) if raw.HasField("prev_kv") else None,
        )
        for raw in raws
    ]
    return EventColumns(*zip(*rows, strict=True)) if rows else EventColumns(*[()] * 8)


def _type_of(apart: columns.EventApart) -> int:
    # An enum has 32 bits. As every other number is an unknown type, the sign is not
    # restored.
    return apart.type & 0xFFFF_FFFF


def columns_of_keys(message: bytes, raws: Sequence[pb.KeyValue]) -> KeyValueColumns:
    """Return the keys of a RangeResponse as columns.

    Args:
        message: the bytes that `raws` were parsed from, without an error.
        raws: the keys, as protobuf parsed them.
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
    """Whether columns save more than they cost; see `FEW` and `LARGE`."""
    return len(raws) > FEW and len(message) < LARGE * len(raws)


def _has_unknown(merged: Message) -> bool:
    """Whether it has a field that is not declared, or of another type. This drops it."""
    # Not ByteSize(): protobuf in Python caches it, and the cache includes dropped fields.
    whole = merged.SerializeToString()
    # The type annotations of protobuf lack this method.
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
    raws: Sequence[M],
    read: Callable[[M], T],
) -> Sequence[T]:
    """Return one value for each of the messages."""
    if len(values) == len(raws):
        # A slice copies the values in one step.
        return values[:]
    if not values:
        return [default] * len(raws)
    return list(map(read, raws))


def _prev_kvs(
    events: columns.EventColumns, raws: Sequence[columns.EventApart]
) -> Sequence[Fields | None]:
    if not events.HasField("prev_kv"):
        return [None] * len(raws)
    if len(events.prev_kv.key) == len(raws):
        rows = zip(*_key_value_columns(events.prev_kv, raws, "prev_kv."), strict=True)
        return cast("list[Fields | None]", list(rows))
    return [fields_of(raw.prev_kv) if raw.HasField("prev_kv") else None for raw in raws]
