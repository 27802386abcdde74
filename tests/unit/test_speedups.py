"""The decoder in C: it is chosen where it should be, and no input crashes it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sortedcontainers import SortedDict

import trio_etcd_watch
from trio_etcd_watch import (
    Event,
    EventType,
    KeyValue,
    WatcherStatistics,
    _responses,
    _twins,
)
from trio_etcd_watch._chain import put_again, put_again_fast
from trio_etcd_watch._grpc.messages import take_messages
from trio_etcd_watch._pages import decode_range
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._responses import decode

PURE = os.environ.get("TRIO_ETCD_WATCH_PURE") == "1"

in_c = pytest.mark.skipif(
    not trio_etcd_watch.__speedups__, reason="without speedups, by wish or compiler"
)


def message() -> bytes:
    """Return a message with every field that allocates memory."""
    raw = pb.WatchResponse(watch_id=2**40, cancel_reason="why \N{SNOWMAN}")
    raw.header.cluster_id = raw.header.revision = 2**62
    for revision in range(2**40, 2**40 + 3):
        kv = raw.events.add().kv
        kv.key, kv.value, kv.mod_revision = b"key", b"value", revision
    raw.events.add(type=pb.Event.DELETE).prev_kv.key = b"key"
    return raw.SerializeToString()


def range_reply() -> bytes:
    """Return such a reply of a range read, whose last field is a key."""
    raw = pb.RangeResponse(more=True, count=2**40)
    raw.header.cluster_id = raw.header.revision = 2**62
    for revision in range(2**40, 2**40 + 3):
        raw.kvs.add(key=b"key", value=b"value", mod_revision=revision)
    head, kvs = pb.RangeResponse(), pb.RangeResponse(kvs=raw.kvs)
    head.CopyFrom(raw)
    del head.kvs[:]
    return head.SerializeToString() + kvs.SerializeToString()


EVENTS = decode(message()).events


def twin() -> Any:  # noqa: ANN401  # a module
    """Return the decoder that is in use, in C or in Python."""
    assert isinstance(_responses.twin, ModuleType)
    return _responses.twin


def test_the_decoder_in_c_is_used_if_it_was_built_and_not_disabled() -> None:
    (folder,) = trio_etcd_watch.__path__
    built = any(Path(folder).glob("_speedups.*.so"))
    assert trio_etcd_watch.__speedups__ == (built and not PURE)
    assert "speedups" in WatcherStatistics.__slots__


def test_pure_can_be_forced_and_the_other_is_the_default() -> None:
    (folder,) = trio_etcd_watch.__path__
    built = any(Path(folder).glob("_speedups.*.so"))
    for value, speedups in (("1", False), ("0", built), ("", built)):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import trio_etcd_watch as t; print(t.__speedups__)",
            ],
            env={**os.environ, "TRIO_ETCD_WATCH_PURE": value},
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == str(speedups)


BESIDE = """
import logging, sys, types
logging.basicConfig(format="%(name)s: %(message)s")
beside = types.ModuleType("trio_etcd_watch._speedups")
beside.__file__ = "/of/another/build.so"
vars(beside).update({attributes})
sys.modules[beside.__name__] = beside
import trio_etcd_watch
from trio_etcd_watch import _responses
raw = _responses.decode({message})
print(trio_etcd_watch.__speedups__, _responses.twin.__name__, len(raw.events))
"""
"""A program in which the decoder in C is a module of another build."""


@pytest.mark.parametrize(
    ("attributes", "pure"),
    [({}, "0"), ({"ABI": _twins.ABI + 1}, "0"), ({"ABI": _twins.ABI + 1}, "1")],
)
def test_a_module_of_another_build_is_not_used(
    attributes: dict[str, object], pure: str
) -> None:
    program = BESIDE.format(attributes=attributes, message=message())
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TRIO_ETCD_WATCH_PURE": pure},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["False", "trio_etcd_watch._pure", "4"]
    # If the decoder in Python was asked for, there is no warning.
    warning = (
        "trio_etcd_watch: "
        "/of/another/build.so was built from other sources, and is not used: "
        "reinstall it\n"
    )
    assert done.stderr == ("" if pure == "1" else warning)


def test_both_twins_have_the_same_abi_number() -> None:
    source = Path(__file__).parents[2] / "trio_etcd_watch" / "_speedups.c"
    assert f'PyModule_AddIntConstant(module, "ABI", {_twins.ABI})' in source.read_text()
    assert not trio_etcd_watch.__speedups__ or twin().ABI == _twins.ABI


@in_c
def test_nothing_is_tracked_by_the_garbage_collector() -> None:
    raw = decode(message())
    (kv, *_) = decode_range(range_reply()).key_values().values()
    events = raw.events
    for value in (kv, raw, events, iter(events), events[0].kv, events[-1].prev_kv):
        assert not gc.is_tracked(value)


@in_c
def test_the_classes_cannot_be_subclassed() -> None:
    for kind in (KeyValue, Event):
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Other", (kind,), {})


@in_c
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("decode", ()),
        ("decode", ([b""], _responses._CLASSES)),
        ("decode", ((bytearray(),), _responses._CLASSES)),
        ("decode", ((b"", None), _responses._CLASSES)),
        ("decode", ((b"",), list(_responses._CLASSES))),
        ("decode", ((b"",), _responses._CLASSES[:5])),
        ("decode", ((b"",), (int, *_responses._CLASSES[1:]))),
        ("decode", ((b"",), (_responses.RawResponse, KeyValue, KeyValue, 0, 1, 2))),
        ("decode", ((b"",), (_responses.RawResponse, Event, None, 0, 1, 2))),
        ("decode_range", ()),
        ("decode_range", (bytearray(),)),
        ("decode_range", (b"", KeyValue)),
        ("put_range", ()),
        ("put_range", ({}, bytearray(), KeyValue)),
        ("put_range", ([], b"", KeyValue)),
        ("put_range", ({}, b"", Event)),
        ("put_range", ({}, b"", None)),
        ("make_key_value", ()),
        ("make_key_value", (KeyValue, "k", b"", 0, 0, 0, 0)),
        ("make_key_value", (KeyValue, b"", None, 0, 0, 0, 0)),
        ("make_key_value", (KeyValue, b"", b"", 0.5, 0, 0, 0)),
        ("make_key_value", (Event, b"", b"", 0, 0, 0, 0)),
        ("make_key_value", (bytes, b"", b"", 0, 0, 0, 0)),
        ("make_event", (Event, None, None, None)),
        ("make_event", (Event, EventType.PUT, None, None)),
        ("make_event", (Event, EventType.PUT, decode(message()).events[0].kv, 0)),
        ("make_event", (KeyValue, EventType.PUT, decode(message()).events[0].kv, None)),
        ("take_messages", (bytearray(20), 0, bytes(6), 9)),
        ("take_messages", (bytes(20), 0, None, 9)),
        ("take_messages", (bytes(20), 0.5, bytes(6), 9)),
        ("split_batches", (None,)),
        ("split_batches", ()),
        ("put_again", ()),
        ("put_again", ([], iter(()), 0, {}, None)),
        ("put_again", ({}, (), 0, {}, None)),
        ("put_again", ({}, iter(()), 0.5, {}, None)),
        ("put_again", ({}, iter(()), 0, [], None)),
        ("put_again", ({}, iter([None]), 0, {}, None)),
        ("put_again", ({b"key": 1}, iter(EVENTS), 0, {}, EventType.PUT)),
        ("join", (None,)),
        ("join", ([None],)),
        ("join", ([EVENTS, tuple(EVENTS)],)),
    ],
)
def test_arguments_of_wrong_types(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        getattr(twin(), name)(*arguments)


@in_c
@pytest.mark.parametrize("start", [-(10**9), -1, 21, 10**9])
def test_take_outside_of_the_buffer(start: int) -> None:
    with pytest.raises(ValueError, match=f"start is {start} of 20 bytes"):
        twin().take_messages(bytes(20), start, bytes(6), 9)
    with pytest.raises(ValueError, match="whose has 5"):
        twin().take_messages(bytes(20), 0, bytes(5), 9)
    with pytest.raises(OverflowError):
        twin().take_messages(bytes(20), 2**63, bytes(6), 9)


def version_of(number: int) -> KeyValue:
    return KeyValue._make(b"key", b"", 1, number, number, 0)


def put_of(kv: KeyValue, kind: EventType = EventType.PUT) -> Event:
    return Event._make(kind, kv, None)


numbers = st.integers(0, 4) | st.sampled_from([2**63 - 1, -(2**63)])
key_values = st.builds(
    KeyValue._make,
    st.sampled_from([b"a", b"b"]),
    st.just(b""),
    st.integers(0, 1),
    numbers,
    numbers,
    st.just(0),
)


@in_c
@given(
    st.lists(key_values, max_size=2),
    st.lists(st.builds(put_of, key_values, st.sampled_from(EventType)), max_size=6),
    st.integers(-1, 3),
    st.booleans(),
)
def test_events_are_put_as_in_python(
    present: list[KeyValue], events: list[Event], known: int, told: bool
) -> None:
    outcomes = []
    for function in (put_again, put_again_fast):
        mapping: Any = SortedDict({kv.key: kv for kv in present})
        olds: dict[bytes, KeyValue | None] = {b"a": None} if told else {}
        rest = iter(events)
        outcome = function(mapping, rest, known, olds, EventType.PUT)
        outcomes.append((outcome, list(mapping.items()), olds, list(rest)))
    assert outcomes[0] == outcomes[1]


@in_c
@pytest.mark.parametrize("same", [True, False])
def test_a_key_that_is_put_again_is_held_once(same: bool) -> None:
    old = KeyValue._make(b"key" if same else b"KEY", b"", 1, 1, 1, 0)
    new = version_of(2)
    put_again_fast({b"key": old}, iter([put_of(new)]), 0, {}, EventType.PUT)
    assert new.key == b"key"
    assert (new.key is old.key) == same


WHOSE = b"\0\0\0\0\1\0"


def frame(message: bytes, whose: bytes, kind: int) -> bytes:
    length = (len(message) + 5) << 8 | kind
    return length.to_bytes(4) + whose + len(message).to_bytes(4) + message


frames = st.builds(
    frame,
    st.binary(max_size=20),
    st.sampled_from([WHOSE] * 9 + [b"\1" + WHOSE[1:], WHOSE[:5] + b"\1"]),
    st.sampled_from([0] * 9 + [1, 255]),
)


@in_c
@given(st.lists(frames, max_size=6).map(b"".join), st.data())
def test_frames_are_consumed_as_in_python(buffer: bytes, data: st.DataObject) -> None:
    changed = bytearray(buffer)
    if buffer:
        at = data.draw(st.integers(0, len(buffer) - 1))
        changed[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=2)
        )
    for each in (buffer, bytes(changed), buffer[: len(changed) // 2]):
        start = data.draw(st.integers(0, len(each)))
        for arguments in ((each, 0, WHOSE, 15), (each, start, WHOSE, 2**40)):
            consumed = twin().take_messages(*arguments)
            assert consumed == take_messages(*arguments)


@in_c
def test_a_frame_whose_length_does_not_fit() -> None:
    for size in (2**24 - 5, 2**24 - 4, 2**32 - 5, 2**32 - 1):
        word = ((size + 5) << 8) & 0xFFFF_FFFF
        buffer = word.to_bytes(4) + WHOSE + size.to_bytes(4) + bytes(300)
        assert twin().take_messages(buffer, 0, WHOSE, 2**62) == ([], 0)
        assert twin().take_messages(buffer, 0, WHOSE, -1) == ([], 0)


@in_c
def test_numbers_that_are_too_large() -> None:
    for number in (2**63, -(2**63) - 1):
        with pytest.raises(OverflowError):
            twin().make_key_value(KeyValue, b"", b"", number, 0, 0, 0)


@in_c
def test_what_join_iterates_over_may_fail() -> None:
    def parts() -> Any:  # noqa: ANN401  # an iterator
        yield EVENTS
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        twin().join(parts())
    with pytest.raises(ValueError, match="no part to join"):
        twin().join([])


@in_c
def test_what_events_come_from_may_fail() -> None:
    def events() -> Any:  # noqa: ANN401  # an iterator
        yield put_of(version_of(2))
        raise ZeroDivisionError

    mapping = {b"key": version_of(1)}
    with pytest.raises(ZeroDivisionError):
        put_again_fast(mapping, events(), 0, {}, EventType.PUT)
    # As in Python, the caller has to undo the change.
    assert mapping == {b"key": version_of(2)}


@in_c
@pytest.mark.parametrize("place", ["mapping", "olds"])
def test_a_key_that_cannot_be_compared(place: str) -> None:
    class Key:
        def __hash__(self) -> int:
            return hash(b"key")

        def __eq__(self, other: object) -> bool:
            raise ZeroDivisionError

    odd: Any = {Key(): version_of(1)}
    mapping, olds = (odd, {}) if place == "mapping" else ({b"key": version_of(1)}, odd)
    events = iter([put_of(version_of(2))])
    with pytest.raises(ZeroDivisionError):
        put_again_fast(mapping, events, 0, olds, EventType.PUT)


@in_c
def test_a_page_that_was_not_decoded_before() -> None:
    with pytest.raises(ValueError, match="not a range response"):
        twin().put_range({}, range_reply()[:-1], KeyValue)
