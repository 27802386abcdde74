"""Messages are decoded as protobuf's own parser decodes them, for any bytes.

These tests, and all others that get events from bytes, should run twice: as they are,
and with TRIO_ETCD_WATCH_PURE=1 (`make test` does both).
"""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.wire import (
    SAME_PROTOBUF,
    expected,
    expected_range,
    outcome,
    outcome_range,
    some_message,
)
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._responses import SPEEDUPS, decode

messages = st.randoms(use_true_random=False).map(some_message)
ranges = st.randoms(use_true_random=False).map(partial(some_message, kind="range"))


def groups(count: int) -> bytes:
    return b"\x7b" * count + b"\x7c" * count


def check(*messages: bytes) -> None:
    """Check that messages decode as in protobuf; which are malformed depends on it."""
    ours, theirs = outcome(*messages), expected(*messages)
    if SAME_PROTOBUF or not SPEEDUPS or None not in (ours, theirs):
        assert ours == theirs


def check_range(message: bytes) -> None:
    ours, theirs = outcome_range(message), expected_range(message)
    if SAME_PROTOBUF or not SPEEDUPS or None not in (ours, theirs):
        assert ours == theirs


def inside(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2, len(data) & 127 | 128, len(data) >> 7]) + data


@settings(max_examples=1000)
@given(messages)
def test_any_message(message: bytes) -> None:
    check(message)


@settings(max_examples=300)
@given(st.binary(max_size=60))
@example(b"\x10" + b"\xff" * 9 + b"\x7f")
@example(b"\x10" + b"\xff" * 10 + b"\x01")
@example(b"\x90\x80\x80\x80\x0f\x05")
@example(b"\x90\x80\x80\x80\x1f\x05")
@example(b"\x90\x80\x80\x80\x80\x00\x05")
@example(b"\x5a\x80\x80\x80\x80\x00")
@example(b"\x5a\x80\x80\x80\x80\x80\x00")
@example(b"\x5a\xff\xff\xff\xff\x0f")
@example(b"\x00\x00")
@example(b"\x7b\x00\x05\x7c")
@example(b"\x7b\x03\x04\x7c")
@example(b"\x7b\x04\x7c")
@example(b"\x7b\x32\x01\xff\x7c")
@example(b"\x16")
@example(b"\x17")
@example(b"\x7c")
@example(b"\x7b\x74")
@example(b"\x7b\x73\x7c\x74")
@example(b"\x5a\x01\x7b\x7c")
@example(b"\x5a\x01\x7c")
@example(b"\x32\x01\xff\x32\x00")
@example(b"\x0d\x00\x00\x00")
@example(b"\x09\x00\x00\x00\x00\x00\x00\x00")
@example(b"\x08")
@example(b"")
def test_any_bytes(data: bytes) -> None:
    check(data)


@settings(max_examples=1000)
@given(ranges)
def test_any_reply_to_a_read(message: bytes) -> None:
    check_range(message)


@settings(max_examples=300)
@given(st.binary(max_size=60))
@example(b"\x20" + b"\xff" * 9 + b"\x7f")
@example(b"\x18\x80\x02")
@example(b"\x12\x00\x12\x04\x0a\x02kk")
@example(b"\x12\x01\x7b\x7c")
@example(b"\x12\x01\x7c")
@example(b"\x12\x02\x0a\x01")
@example(b"\x0a\x02\x08\x05\x0a\x02\x10\x06")
@example(b"")
def test_any_bytes_in_reply_to_a_read(data: bytes) -> None:
    check_range(data)


@pytest.mark.parametrize("count", [97, 98, 99, 100, 101])
def test_groups_nest_as_deep_as_protobuf_lets_them(count: int) -> None:
    for data in (
        groups(count),
        inside(1, groups(count)),
        inside(11, groups(count)),
        inside(11, inside(2, groups(count))),
        inside(11, inside(3, groups(count))),
        b"\x5b" * count + b"\x5c" * count,
    ):
        assert outcome(data) == expected(data)
    assert outcome(groups(count)) is None or count <= 100
    for data in (
        groups(count),
        inside(1, groups(count)),
        inside(2, groups(count)),
    ):
        assert outcome_range(data) == expected_range(data)


def test_every_cut_of_a_message() -> None:
    raw = pb.WatchResponse(watch_id=300, cancel_reason="why", created=True)
    raw.header.cluster_id, raw.header.revision = 2**64 - 1, -1
    for revision in (7, -8):
        event = raw.events.add(type=pb.Event.DELETE)
        event.kv.key, event.kv.value, event.kv.mod_revision = b"key", b"value", revision
        event.kv.create_revision = event.kv.version = event.kv.lease = 2**40
        event.prev_kv.key = b"key"
    data = raw.SerializeToString()
    for length in range(len(data) + 1):
        assert outcome(data[:length]) == expected(data[:length])


def test_every_cut_of_a_reply_to_a_read() -> None:
    raw = pb.RangeResponse(more=True, count=300)
    raw.header.cluster_id, raw.header.revision = 2**64 - 1, -1
    for revision in (7, -8):
        kv = raw.kvs.add(key=b"key", value=b"value", mod_revision=revision)
        kv.create_revision = kv.version = kv.lease = 2**40
    data = raw.SerializeToString()
    for length in range(len(data) + 1):
        assert outcome_range(data[:length]) == expected_range(data[:length])


@settings(max_examples=300)
@given(st.lists(messages.filter(lambda m: expected(m) is not None), max_size=5))
def test_several_are_merged(run: list[bytes]) -> None:
    check(*run)


def test_messages_are_merged_at_every_level() -> None:
    one = pb.Event(kv=pb.KeyValue(key=b"k", version=1), prev_kv=pb.KeyValue(lease=1))
    other = pb.Event(
        kv=pb.KeyValue(value=b"v", version=2), prev_kv=pb.KeyValue(key=b"p")
    )
    both = one.SerializeToString() + other.SerializeToString()
    data = inside(11, both) + inside(1, b"\x08\x05") + inside(1, b"\x10\x06")
    assert outcome(data) == expected(data)
    (event,) = decode(data).events
    assert (event.kv.key, event.kv.value, event.kv.version) == (b"k", b"v", 2)


def test_no_message_at_all() -> None:
    assert outcome() == expected()


@pytest.mark.parametrize("first", range(6))
def test_fields_in_another_order_than_etcd_writes_them(first: int) -> None:
    kv = pb.KeyValue(
        key=b"k", create_revision=2, mod_revision=3, version=4, value=b"v", lease=6
    )
    parts = []
    for descriptor, value in kv.ListFields():
        part = pb.KeyValue(**{descriptor.name: value})
        parts.append(part.SerializeToString())
    # A field in its place, then one that is out of order, twice.
    data = b"".join((*parts[first:], *parts[:first], parts[first], parts[first]))
    event = b"\x12" + bytes([len(data)]) + data
    check(b"\x5a" + bytes([len(event)]) + event)
    for size in range(len(data)):
        cut = b"\x12" + bytes([size]) + data[:size]
        check(b"\x5a" + bytes([len(cut)]) + cut)
