"""Responses and events as a user sees them."""

from __future__ import annotations

import pytest

from tests.support.replies import response_of
from trio_etcd_watch import (
    CompactedError,
    Event,
    EventType,
    KeyValue,
    WatchCanceledError,
)
from trio_etcd_watch._grpc.status import StreamLost
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._responses import changes_of, decode, watch_id_of_head


def put(key: bytes, revision: int, created: int) -> pb.Event:
    kv = pb.KeyValue(key=key, mod_revision=revision, create_revision=created)
    return pb.Event(type=pb.Event.PUT, kv=kv)


def delete(key: bytes, revision: int) -> pb.Event:
    kv = pb.KeyValue(key=key, mod_revision=revision)
    return pb.Event(type=pb.Event.DELETE, kv=kv)


EVENTS = [put(b"a", 2, 2), put(b"b", 3, 2), delete(b"c", 4)]


def test_events_are_a_sequence() -> None:
    parts = [pb.WatchResponse(events=EVENTS[:2]), pb.WatchResponse(events=EVENTS[2:])]
    first, second = map(response_of, parts)
    joined = first.merged([second])
    events = joined.events
    assert [e.kv.key for e in events] == [b"a", b"b", b"c"]
    assert [e.kv.key for e in reversed(events)] == [b"c", b"b", b"a"]
    assert len(events) == 3
    assert events[-1] == events[2]
    assert [e.kv.key for e in events[1:]] == [b"b", b"c"]
    rest = joined.after(1).events
    assert [e.kv.key for e in rest] == [b"b", b"c"]
    assert (len(rest), rest[0].kv.key) == (2, b"b")


def test_kinds_of_events() -> None:
    events = response_of(pb.WatchResponse(events=EVENTS)).events
    create, modify, gone = events
    assert (create.is_create, create.is_modify) == (True, False)
    assert (modify.is_create, modify.is_modify) == (False, True)
    assert (gone.is_create, gone.is_modify) == (False, False)
    assert gone.type is EventType.DELETE
    assert changes_of(events) == [modify, gone]


def test_an_event_of_an_unknown_type_is_no_put() -> None:
    event = pb.Event(kv=pb.KeyValue(key=b"a", mod_revision=3, create_revision=3))
    event.MergeFromString(b"\x08\x07")
    (unknown,) = response_of(pb.WatchResponse(events=[event])).events
    assert unknown.type is EventType.UNKNOWN
    assert (unknown.is_create, unknown.is_modify) == (False, False)


def test_values_are_equal_by_content() -> None:
    raw = pb.WatchResponse(events=[EVENTS[0], EVENTS[0], EVENTS[1]])
    one, same, other = response_of(raw).events
    assert one == same != other
    assert len({one, same, other}) == 2
    assert one.kv == same.kv != other.kv
    assert isinstance(one, Event)
    assert isinstance(one.kv, KeyValue)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (pb.WatchResponse(header=pb.ResponseHeader(revision=5)), True),
        (pb.WatchResponse(), False),
        (pb.WatchResponse(header=pb.ResponseHeader(revision=5), created=True), False),
        (pb.WatchResponse(header=pb.ResponseHeader(revision=5), canceled=True), False),
        (pb.WatchResponse(header=pb.ResponseHeader(revision=5), events=EVENTS), False),
        (
            pb.WatchResponse(header=pb.ResponseHeader(revision=5), compact_revision=3),
            False,
        ),
    ],
)
def test_progress_is_a_revision_and_nothing_else(
    raw: pb.WatchResponse, expected: bool
) -> None:
    assert response_of(raw).is_progress_notify is expected


def test_only_a_cancel_raises() -> None:
    response_of(pb.WatchResponse(events=EVENTS)).raise_for_error()
    for canceled in (True, False):
        compacted = pb.WatchResponse(canceled=canceled, compact_revision=3)
        with pytest.raises(CompactedError):
            response_of(compacted).raise_for_error()
    with pytest.raises(WatchCanceledError, match="a reason"):
        response_of(
            pb.WatchResponse(canceled=True, cancel_reason="a reason")
        ).raise_for_error()


def test_bytes_that_are_no_message() -> None:
    with pytest.raises(StreamLost, match="1 bytes are not a watch response"):
        decode(b"\xff")


def test_the_watch_id_of_a_head() -> None:
    header = pb.ResponseHeader(
        cluster_id=2**63, member_id=2**63, revision=9, raft_term=1
    )
    message = pb.WatchResponse(header=header, watch_id=300, events=EVENTS)
    data = message.SerializeToString()
    assert watch_id_of_head(data[:80]) == 300
    assert watch_id_of_head(b"") == 0


def test_the_watch_id_of_a_head_that_ends_anywhere_after_it() -> None:
    # Each number has as many bytes as it can have.
    header = pb.ResponseHeader(
        cluster_id=2**64 - 1, member_id=2**64 - 1, revision=-1, raft_term=2**64 - 1
    )
    first = pb.WatchResponse(header=header, watch_id=-300).SerializeToString()
    event = pb.Event(kv=pb.KeyValue(key=bytes(200)))
    data = first + pb.WatchResponse(events=[event]).SerializeToString()
    for length in range(len(first), len(data) + 1):
        assert watch_id_of_head(data[:length]) == -300
