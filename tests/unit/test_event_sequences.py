"""The events of a response are a sequence and a value, and need no other response."""

from __future__ import annotations

import gc
import pickle
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_speedups import in_c, message, put_of, twin, version_of
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._responses import decode

bounds = st.integers(-12, 12) | st.sampled_from([sys.maxsize, -sys.maxsize])


@given(st.integers(0, 9), st.lists(bounds | st.none(), max_size=3))
def test_events_are_indexed_as_a_tuple_is(size: int, of: list[int | None]) -> None:
    raw = pb.WatchResponse()
    for revision in range(size):
        raw.events.add().kv.mod_revision = revision
    events = decode(raw.SerializeToString()).events
    values = tuple(events)
    assert (len(events), bool(events)) == (size, bool(size))
    part = slice(*of) if of else slice(None)
    if part.step == 0:
        with pytest.raises(ValueError, match="cannot be zero"):
            events[part]
    else:
        assert tuple(events[part]) == values[part]
    for index in range(-12, 12):
        if -size <= index < size:
            assert events[index] == values[index]
        else:
            with pytest.raises(IndexError):
                events[index]


def test_events_are_a_sequence_and_a_value() -> None:
    events = decode(message()).events
    assert isinstance(events, Sequence)
    assert list(reversed(events)) == list(events)[::-1]
    assert events[1] in events
    assert put_of(version_of(1)) not in events
    assert (events.index(events[1]), events.count(events[1])) == (1, 1)
    again = decode(message()).events
    assert events == again
    assert hash(events) == hash(again)
    assert events != again[1:]
    assert events != tuple(again)
    assert repr(events) == repr(tuple(events))
    assert pickle.loads(pickle.dumps(events)) == tuple(events)
    with pytest.raises(TypeError):
        events["key"]  # type: ignore[call-overload]  # what a user may do
    with pytest.raises(IndexError):
        events[2**70]


@in_c
def test_events_outlive_what_they_were_decoded_from() -> None:
    whole = decode(message(), message()).events
    kept = [whole[1:2], iter(whole), twin().join([whole[:1], whole[:0], whole[-1:]])]
    values = [[whole[1]], list(whole), [whole[0], whole[-1]]]
    del whole
    gc.collect()
    assert [list(each) for each in kept] == values
    assert next(kept[1], None) is None


@in_c
def test_without_events_no_message_is_kept() -> None:
    data = pb.WatchResponse(created=True, watch_id=2**40).SerializeToString()
    before = sys.getrefcount(data)
    created = decode(data)
    assert sys.getrefcount(data) == before
    assert not created.events
