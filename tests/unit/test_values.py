"""The values that users get own what they hold, and nothing else."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import trio_etcd_watch
from tests.support.replies import response_of
from tests.support.wire import key_value_of
from trio_etcd_watch import (
    Event,
    EventType,
    KeyValue,
    ResponseHeader,
    WatchResponse,
)
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._responses import SPEEDUPS, decode, join

PUT = pb.Event(
    kv=pb.KeyValue(
        key=b"k",
        value=b"v",
        create_revision=2,
        mod_revision=-3,
        version=4,
        lease=2**63 - 1,
    ),
    prev_kv=pb.KeyValue(key=b"k", mod_revision=1),
)
DELETE = pb.Event(type=pb.Event.DELETE, kv=pb.KeyValue(key=b"k", mod_revision=9))
UNKNOWN = pb.Event()
UNKNOWN.type = -7  # type: ignore[assignment]  # of a newer server


def whole_response() -> WatchResponse:
    """Return a response with every field set."""
    return response_of(
        pb.WatchResponse(
            header=pb.ResponseHeader(
                cluster_id=2**64 - 1, member_id=2**63, revision=-1, raft_term=5
            ),
            watch_id=6,
            created=True,
            canceled=True,
            compact_revision=-1,
            cancel_reason="why \N{SNOWMAN}",
            fragment=True,
            events=[PUT, DELETE, UNKNOWN],
        )
    )


def test_every_field() -> None:
    response = whole_response()
    assert response.header == ResponseHeader(
        cluster_id=2**64 - 1, member_id=2**63, revision=-1, raft_term=5
    )
    assert (response.created, response.canceled) == (True, True)
    assert (response.compact_revision, response.cancel_reason) == (
        -1,
        "why \N{SNOWMAN}",
    )
    put, delete, unknown = response.events
    assert [e.type for e in response.events] == [
        EventType.PUT,
        EventType.DELETE,
        EventType.UNKNOWN,
    ]
    kv = put.kv
    assert (kv.key, kv.value) == (b"k", b"v")
    assert (kv.create_revision, kv.mod_revision, kv.version) == (2, -3, 4)
    assert kv.lease == 2**63 - 1
    assert put.prev_kv is not None
    assert (put.prev_kv.mod_revision, put.prev_kv.lease) == (1, 0)
    assert delete.prev_kv is None
    assert (unknown.kv.key, unknown.kv.mod_revision) == (b"", 0)


def test_types_are_numbers_which_pickles_have() -> None:
    assert [EventType(number) for number in (0, 1, -1)] == list(EventType)


def test_who_looks_at_revisions_changes_nothing() -> None:
    raw = pb.WatchResponse()
    for number in range(4):
        raw.events.add(type=number % 2).kv.key = b"%d" % number
    data = raw.SerializeToString()
    untouched, looked_at = decode(data).events, decode(data)
    assert not looked_at.rising
    read = looked_at.events
    expected = list(untouched)
    for parts in ([read], [read, read], [read, untouched], [untouched, read]):
        assert list(join(parts)) == expected * len(parts)
        assert list(join(parts)[1:3]) == expected[1:3]
    for part in (slice(1, 3), slice(2), slice(None, None, -1), slice(0, 0)):
        assert list(read[part]) == expected[part]
    assert [read[index] for index in (0, -1)] == [expected[0], expected[-1]]


def test_reprs_name_every_field() -> None:
    put = whole_response().events[0]
    assert repr(put.kv) == (
        "KeyValue(key=b'k', value=b'v', create_revision=2, mod_revision=-3, "
        "version=4, lease=9223372036854775807)"
    )
    assert repr(put).startswith("Event(type=<EventType.PUT: 0>, kv=KeyValue(")
    whole = whole_response()
    assert repr(whole) == (
        f"WatchResponse(header={whole.header!r}, events={whole.events!r}, "
        "compact_revision=-1, created=True, canceled=True, "
        "cancel_reason='why \N{SNOWMAN}')"
    )
    assert "raft_term=5" in repr(whole)


@pytest.mark.parametrize(
    "value_of",
    [
        lambda response: response,
        lambda response: response.events[0],
        lambda response: response.events[0].kv,
    ],
    ids=["response", "event", "key"],
)
def test_values_are_values(value_of: Callable[[WatchResponse], object]) -> None:
    value, twin = value_of(whole_response()), value_of(whole_response())
    assert value is not twin
    for other in (
        twin,
        copy.copy(value),
        copy.deepcopy(value),
        *(pickle.loads(pickle.dumps(value, p)) for p in range(6)),
    ):
        assert value == other
        assert hash(value) == hash(other)
        assert repr(value) == repr(other)
        assert type(value) is type(other)
    assert value != object()
    assert not hasattr(value, "__dict__")


def test_events_of_responses_are_equal_by_content() -> None:
    events, same = whole_response().events, whole_response().events
    assert events is not same
    assert events == same
    assert hash(events) == hash(same)
    assert repr(events) == repr(same)
    assert events != response_of(pb.WatchResponse(events=[PUT, DELETE])).events
    assert events != object()


@pytest.mark.parametrize(
    "field", ["key", "value", "create_revision", "mod_revision", "version", "lease"]
)
def test_keys_that_differ_in_one_field_differ(field: str) -> None:
    one = pb.KeyValue(key=b"k", mod_revision=2)
    other = pb.KeyValue(key=b"k", mod_revision=2)
    setattr(other, field, b"x" if field in ("key", "value") else 7)
    assert key_value_of(one) != key_value_of(other)


@pytest.mark.parametrize("index", range(3))
def test_events_that_differ_in_one_field_differ(index: int) -> None:
    one = pb.Event(kv=pb.KeyValue(key=b"k"))
    other = pb.Event(kv=pb.KeyValue(key=b"k"))
    other.MergeFrom(
        [
            pb.Event(type=pb.Event.DELETE),
            pb.Event(kv=pb.KeyValue(key=b"l")),
            pb.Event(prev_kv=pb.KeyValue()),
        ][index]
    )
    (one_event, other_event) = response_of(pb.WatchResponse(events=[one, other])).events
    assert one_event != other_event


def test_nothing_can_be_set() -> None:
    response = whole_response()
    event = response.events[0]
    for value, names in (
        (response, ("events", "created", "header", "other")),
        (event, ("type", "kv", "prev_kv", "is_create", "other")),
        (event.kv, ("key", "value", "mod_revision", "lease", "other")),
    ):
        before = repr(value)
        for name in names:
            with pytest.raises(AttributeError):
                setattr(value, name, None)
            with pytest.raises(AttributeError):
                delattr(value, name)
        assert repr(value) == before


@pytest.mark.parametrize("kind", [KeyValue, Event])
def test_only_the_library_makes_them(kind: type) -> None:
    with pytest.raises(TypeError, match=kind.__name__):
        kind()
    with pytest.raises(TypeError, match=kind.__name__):
        kind(b"k")
    # Nor does help() show how they would be made.
    assert "__init__" not in vars(kind)


@pytest.mark.skipif(not SPEEDUPS, reason="without speedups, by wish or compiler")
@pytest.mark.parametrize("kind", [KeyValue, Event])
def test_none_whose_fields_are_missing_can_be_made_in_c(kind: type) -> None:
    with pytest.raises(TypeError, match="is not safe"):
        object.__new__(kind)


@pytest.mark.parametrize("kind", [KeyValue, Event, WatchResponse])
def test_they_say_where_they_are_public(kind: type) -> None:
    assert (kind.__module__, kind.__qualname__) == ("trio_etcd_watch", kind.__name__)
    assert getattr(trio_etcd_watch, kind.__name__) is kind


def test_keys_of_other_messages() -> None:
    assert key_value_of(PUT.kv) == whole_response().events[0].kv


@pytest.mark.parametrize("what", ["values", "watches"])
def test_what_is_kept(what: str) -> None:
    """After 200 responses of 1 MB, only a value of 1 kB of each is kept, or nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.keeping", what],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[2],
        timeout=300,
    )
    kept = json.loads(done.stdout)
    limit = {"values": 1e6, "watches": 2e6}[what]
    assert kept["traced"] <= limit
    # The pools of the allocator are not returned, and do not count.
    assert kept["resident"] <= limit + 1e6
