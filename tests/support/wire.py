"""Random bytes that resemble responses, and how protobuf's own parser reads them."""

from __future__ import annotations

from random import Random
from typing import TypeAlias

from google import protobuf
from google.protobuf.message import DecodeError

from trio_etcd_watch import Event, EventType, KeyValue
from trio_etcd_watch._batches import split_batches, split_batches_fast
from trio_etcd_watch._columns import fields_of
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._grpc.status import StreamLost
from trio_etcd_watch._pages import decode_range
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._responses import decode, join

Outcome: TypeAlias = tuple[object, ...] | None
"""All fields of a message; None if it cannot be parsed."""

SAME_PROTOBUF = int(protobuf.__version__.partition(".")[0]) >= 7
"""Whether protobuf refuses the same malformed messages as the speedups. Protobuf 6.30
accepts lengths of up to ten bytes, and also refuses the field 0 within groups."""

VARINT, I64, LEN, SGROUP, EGROUP, I32 = range(6)
NUMBERS = (0, 1, 2, 127, 128, 300, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63)
PADDINGS = [0] * 30 + [1, 3, 4, 5]
"""How many superfluous bytes tags and lengths get."""
INSIDE = {
    "watch": {1: "header", 11: "event"},
    "event": {2: "kv", 3: "kv"},
    "range": {1: "header", 2: "kv"},
}
"""Which fields are messages, and their types."""


def varint(number: int, padding: int = 0) -> bytes:
    """Return a varint, with this many more bytes than necessary."""
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    data.append(number)
    for _ in range(padding):
        data[-1] |= 128
        data.append(0)
    return bytes(data)


def some_number(random: Random) -> bytes:
    if random.random() < 0.05:
        # The excess bits of the tenth byte are dropped.
        return b"\xff" * random.randrange(8, 11) + bytes([random.randrange(128)])
    number = random.choice([*NUMBERS, random.getrandbits(64), 2**64 - 1])
    return varint(number, random.choice([0] * 20 + [1, 2, 5, 9]))


def some_field(random: Random, place: str, depth: int) -> bytes:
    number = random.choice([1, 2, 3, 4, 5, 6, 7, 11, 11, 2, 3, 8, 99, 2**29 - 1, 0])
    if number == 0 and random.random() < 0.9:
        number = 12
    inner = INSIDE.get(place, {}).get(number)
    kind = random.choice([VARINT, VARINT, VARINT, LEN, LEN, LEN, I64, I32, SGROUP])
    if inner and random.random() < 0.9:
        kind = LEN
    tag = varint(number << 3 | kind, random.choice(PADDINGS))
    if kind == VARINT:
        return tag + some_number(random)
    if kind in (I64, I32):
        return tag + random.randbytes(8 if kind == I64 else 4)
    if kind == SGROUP:
        body = some_fields(random, "group", depth + 1)
        close = number if random.random() < 0.95 else number + 1
        return tag + body + varint(close << 3 | EGROUP)
    if inner:
        body = some_fields(random, inner, depth + 1)
    else:
        body = random.choice(
            [b"", b"k", b"key", "\N{SNOWMAN}".encode(), b"\xed\xa0\x80"]
        )
    size = len(body) if random.random() < 0.97 else random.choice(NUMBERS)
    return tag + varint(size, random.choice(PADDINGS)) + body


def some_fields(random: Random, place: str, depth: int) -> bytes:
    count = random.randrange(6) if depth < 6 else 0
    return b"".join(some_field(random, place, depth) for _ in range(count))


def some_message(random: Random, kind: str = "watch") -> bytes:
    """Return bytes that resemble a response: random fields, then a few changes."""
    if random.random() < 0.03:
        # Around the depth that is allowed.
        nested = random.randrange(96, 104)
        deep = varint(15 << 3 | SGROUP) * nested + varint(15 << 3 | EGROUP) * nested
        for number in random.choice([(), (11,), (2, 11), (1,)]):
            deep = varint(number << 3 | LEN) + varint(len(deep)) + deep
        return deep
    data = bytearray(some_fields(random, kind, 0))
    for _ in range(random.choice([0, 0, 1, 2])):
        at = random.randrange(len(data) + 1)
        match random.randrange(4):
            case 0:
                data[at:at] = random.randbytes(1)
            case 1:
                del data[at : at + 1]
            case 2:
                data[at : at + 1] = random.randbytes(1)
            case _:
                del data[at:]
    return bytes(data)


def some_read(random: Random) -> list[bytes | Oversized]:
    """Return the messages of a read, most of which can join a batch."""
    kinds = [_some_events] * 20 + [some_message] * 2 + [_oversized]
    return [random.choice(kinds)(random) for _ in range(random.randrange(9))]


def _oversized(random: Random) -> Oversized:
    return Oversized(random.randrange(9), b"")


def _some_events(random: Random) -> bytes:
    """Return bytes that resemble a header, a watch id and events."""
    header = random.choice([b"", b"\x08\x5a", bytes(127), bytes(128)])
    long = b"\xff" * random.randrange(8, 11) + bytes([random.randrange(128)])
    watch_id = random.choice([b"", *([b"\x10\x01", b"\x10\x5a"] * 3), b"\x10" + long])
    data = bytearray(b"\x0a" + varint(len(header)) + header + watch_id)
    for _ in range(random.randrange(3)):
        event = bytes(random.choice([0, 1, 127, 128, 300, max(0, 4090 - len(data))]))
        data += b"\x5a" + varint(len(event), random.choice([0] * 9 + [1, 2])) + event
    if random.random() < 0.2:
        data[random.randrange(len(data))] = random.randrange(256)
    if random.random() < 0.2:
        del data[random.randrange(len(data)) :]
    return bytes(data)


def expected(*messages: bytes) -> Outcome:
    """Return what protobuf reads in messages that are merged."""
    raw = pb.WatchResponse()
    try:
        for message in messages:
            raw.MergeFromString(message)
    except DecodeError:
        return None
    kinds = {0: EventType.PUT, 1: EventType.DELETE}
    return (
        raw.header.cluster_id,
        raw.header.member_id,
        raw.header.revision,
        raw.header.raft_term,
        raw.watch_id,
        raw.created,
        raw.canceled,
        raw.compact_revision,
        raw.cancel_reason,
        raw.fragment,
        [
            (
                kinds.get(event.type, EventType.UNKNOWN),
                _fields(event.kv),
                _fields(event.prev_kv) if event.HasField("prev_kv") else None,
            )
            for event in raw.events
        ],
    )


def outcome(*messages: bytes) -> Outcome:
    """Return what our decoder reads in them."""
    try:
        raw = decode(*messages)
    except StreamLost:
        return None
    events: list[Event] = list(raw.events)
    kvs = [kv for event in events for kv in (event.kv, event.prev_kv) if kv is not None]
    assert all(type(event) is Event for event in events)
    assert all(type(kv) is KeyValue for kv in kvs)
    assert [raw.events[i] for i in range(len(events))] == events
    assert list(join([raw.events[1:], raw.events[::-2]])) == events[1:] + events[::-2]
    revisions = [event.kv.mod_revision for event in events]
    assert raw.size == sum(map(len, messages))
    assert raw.rising == (revisions == sorted(set(revisions)))
    assert raw.first_revision == (revisions[0] if revisions else 0)
    assert raw.last_revision == (revisions[-1] if revisions else 0)
    return (
        raw.cluster_id,
        raw.member_id,
        raw.revision,
        raw.raft_term,
        raw.watch_id,
        raw.created,
        raw.canceled,
        raw.compact_revision,
        raw.cancel_reason,
        raw.fragment,
        [
            (e.type, _fields(e.kv), None if e.prev_kv is None else _fields(e.prev_kv))
            for e in events
        ],
    )


def expected_range(message: bytes) -> Outcome:
    """Return what protobuf reads in the reply to a read."""
    try:
        raw = pb.RangeResponse.FromString(message)
    except DecodeError:
        return None
    header = raw.header
    return (
        (header.cluster_id, header.member_id, header.revision, header.raft_term),
        # For a key that comes twice, the place of the first and the fields of the last
        # count.
        list({kv.key: _fields(kv) for kv in raw.kvs}.items()),
        raw.more,
        raw.count,
        len(raw.kvs),
        raw.kvs[-1].key if raw.kvs else b"",
    )


def outcome_range(message: bytes) -> Outcome:
    """Return what our decoder reads in it."""
    try:
        page = decode_range(message)
    except StreamLost:
        return None
    header, kvs = page.header, page.key_values()
    assert all(type(kv) is KeyValue for kv in kvs.values())
    return (
        (header.cluster_id, header.member_id, header.revision, header.raft_term),
        [(key, _fields(kv)) for key, kv in kvs.items()],
        page.more,
        page.count,
        page.size,
        page.last_key,
    )


KINDS = ("watch", "range", "read")
"""What `compare()` compares: a watch response, the reply to a read, and the batches of
what one read of the connection brought."""


def compare(kind: str, random: Random) -> tuple[str, object, object]:
    """Return a random input, the correct result, and the result of the speedups."""
    if kind == "read":
        read = some_read(random)
        return repr(read), split_batches(read), split_batches_fast(read)
    message = some_message(random, kind)
    if kind == "watch":
        return message.hex(), expected(message), outcome(message)
    return message.hex(), expected_range(message), outcome_range(message)


def key_value_of(raw: pb.KeyValue) -> KeyValue:
    """Return a key as users get it."""
    return KeyValue._make(*fields_of(raw))


def _fields(kv: pb.KeyValue | KeyValue) -> tuple[object, ...]:
    return (
        kv.key,
        kv.value,
        kv.create_revision,
        kv.mod_revision,
        kv.version,
        kv.lease,
    )
