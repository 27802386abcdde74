"""Events and keys decoded as columns equal those that protobuf decodes one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.test_parsing import IMPLEMENTATIONS, run
from trio_etcd_watch import _columns
from trio_etcd_watch._columns import (
    BIG,
    FEW,
    LARGE,
    SMALL,
    EventColumns,
    columns_of_events,
    columns_of_keys,
    fields_of,
    parse_response,
)
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._pb.columns_pb2 import WatchResponseApart

MANY = FEW + 2


def varint(number: int, length: int = 1) -> bytes:
    """Return a varint of at least `length` bytes."""
    digits = []
    while number > 0x7F or length > 1:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
        length -= 1
    return bytes([*digits, number])


def integer(field: int, number: int, length: int = 1) -> bytes:
    return varint(field << 3) + varint(number, length)


def message(field: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return varint(field << 3 | 2) + varint(len(body)) + body


def key_value(revision: int) -> list[bytes]:
    """Return the fields of a key as etcd writes them."""
    return [
        message(1, b"key%d" % revision),
        integer(2, revision - 1),
        integer(3, revision),
        integer(4, 2),
        message(5, b"value%d" % revision),
    ]


def response(*events: bytes) -> bytes:
    header = message(1, integer(1, 7), integer(3, 500))
    return header + integer(2, 1) + b"".join(message(11, event) for event in events)


def put(revision: int, *more: bytes) -> bytes:
    return message(2, *key_value(revision)) + b"".join(more)


def unsigned(kind: int) -> int:
    # Columns do not restore the sign of an unknown type.
    return kind & 0xFFFF_FFFF


def one_by_one(raws: Sequence[pb.Event]) -> list[tuple[object, ...]]:
    return [
        (
            unsigned(raw.type),
            *fields_of(raw.kv),
            fields_of(raw.prev_kv) if raw.HasField("prev_kv") else None,
        )
        for raw in raws
    ]


def check_events(data: bytes) -> None:
    whole = pb.WatchResponse.FromString(data)
    expected = one_by_one(whole.events)
    apart = WatchResponseApart.FromString(data)
    for parsed in (parse_response(data), whole, apart):
        columns = columns_of_events(data, parsed)
        columns = columns._replace(type=[*map(unsigned, columns.type)])
        assert list(zip(*columns, strict=True)) == expected


def check_keys(data: bytes) -> None:
    raws = pb.RangeResponse.FromString(data).kvs
    columns = columns_of_keys(data, raws)
    assert list(zip(*columns, strict=True)) == list(map(fields_of, raws))


PUTS = [put(revision) for revision in range(10, 10 + MANY)]
DELETE = integer(1, 1) + message(2, message(1, b"gone"), integer(3, 99))
PREV = message(3, *key_value(5))


@pytest.mark.parametrize(
    "events",
    [
        [],
        PUTS,
        [put(10 + n, PREV) for n in range(MANY)],
        [*[put(10, PREV)] * MANY, put(11, message(3, *key_value(5), integer(6, 4)))],
        [DELETE] * MANY,
        [*PUTS, DELETE],
        [*PUTS, put(50, PREV)],
        [*PUTS, put(50, message(3))],
        [b""] * MANY,
        [message(2, *key_value(9), integer(6, 4))] * MANY,
        [*PUTS, message(2, *key_value(90), integer(6, 4))],
    ],
)
def test_what_etcd_sends(events: list[bytes]) -> None:
    check_events(response(*events))
    # Several concatenated messages.
    check_events(b"".join(map(response, events)))


PACKED = message(3, varint(77))
"""mod_revision as a list, although it is not repeated."""

TWICE_AND_NEVER = [
    # One event has two keys, and the next has none.
    put(60, message(2, message(1, b"other"))),
    message(2, *key_value(61)[1:]),
]


@pytest.mark.parametrize(
    "events",
    [
        TWICE_AND_NEVER,
        # Five bytes are dropped, and come back where a type is read as 32 bits.
        [
            message(2, message(1, b"abc"), *key_value(60)),
            message(2, *key_value(61)[1:]),
            integer(1, 0xFFFFFFFF) + put(62),
        ],
        # A list in place of a number in one event, and no number in the next.
        [
            message(2, *key_value(60), PACKED),
            message(2, *[part for part in key_value(61) if part[0] != 0x18]),
        ],
        [put(60, put(61)), b""],
        [put(60, PREV, PREV), put(61)],
        [put(60, integer(1, 1)), put(61, integer(1, 0, 3))],
        [message(2, *key_value(60), integer(9, 1))],
        [message(2, *key_value(60)) + integer(9, 1)],
        [message(2, message(1, b"k"), integer(3, 60, 5), integer(4, 0))],
        [message(2, *reversed(key_value(60)))],
    ],
)
def test_what_etcd_does_not_send(events: list[bytes]) -> None:
    check_events(response(*PUTS, *events))
    check_events(response(*events, *PUTS))


def test_fields_outside_of_the_events_do_not_matter() -> None:
    for more in (integer(9, 1), message(2, bytes(5)), integer(2, 0), message(8)):
        check_events(response(*PUTS) + more)
        check_events(more + response(*PUTS[1:], *TWICE_AND_NEVER) + more)


numbers = st.builds(
    integer,
    st.integers(1, 7),
    st.integers(0, 3) | st.just(2**32 - 1),
    st.integers(1, 3),
)
texts = st.builds(message, st.integers(1, 7), st.binary(max_size=3))
kvs = st.lists(numbers | texts | st.sampled_from(key_value(9)), max_size=8).map(
    b"".join
)
events_of = st.lists(
    st.builds(message, st.integers(2, 3), kvs) | numbers | texts, max_size=4
).map(b"".join)
plain_events = st.sampled_from([*PUTS, DELETE, put(9, PREV)])


@given(st.lists(events_of | plain_events, min_size=MANY, max_size=MANY + 3))
@example([*PUTS, *TWICE_AND_NEVER])
@example([b""] * MANY + [integer(1, 2**32 - 1)])
def test_events_of_any_bytes(events: list[bytes]) -> None:
    data = response(*events)
    try:
        pb.WatchResponse.FromString(data)
    except DecodeError:
        return
    check_events(data)


@given(st.lists(kvs, min_size=MANY, max_size=MANY + 3), numbers | texts)
@example([message(1, b"a") + message(1, b"b"), b"", *[message(1, b"c")] * MANY], b"")
def test_keys_of_any_bytes(keys: list[bytes], more: bytes) -> None:
    data = more + b"".join(message(2, key) for key in keys)
    try:
        pb.RangeResponse.FromString(data)
    except DecodeError:
        return
    check_keys(data)


@pytest.mark.parametrize("count", [0, 1, FEW, FEW + 1, 100])
def test_keys_that_etcd_sends(count: int) -> None:
    keys = [message(2, *key_value(revision)) for revision in range(2, count + 2)]
    check_keys(b"".join(keys))


@pytest.mark.parametrize(
    "keys",
    [
        [key_value(60), key_value(61)[1:]],
        [[message(1, b"other"), *key_value(60)], key_value(61)[1:]],
        [[*key_value(60), PACKED], [part for part in key_value(61) if part[0] != 0x18]],
        [[*key_value(60), integer(9, 1)]],
    ],
)
def test_keys_that_etcd_does_not_send(keys: list[list[bytes]]) -> None:
    usual = [message(2, *key_value(revision)) for revision in range(2, 2 + MANY)]
    check_keys(b"".join([*usual, *(message(2, *parts) for parts in keys)]))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_both_implementations_of_protobuf(implementation: str) -> None:
    """What the implementations cache and drop differs between them."""
    program = """
import tests.conftest  # Hypothesis without a deadline, as under pytest
import tests.unit.test_columns as tests
for test in tests.test_what_etcd_does_not_send, tests.test_keys_that_etcd_does_not_send:
    for case in test.pytestmark[0].args[1]:
        test(case)
tests.test_events_of_any_bytes()
tests.test_keys_of_any_bytes()
"""
    run(program, implementation)


def test_large_values_are_not_copied_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_columns, "columns", None)
    large = response(*[message(2, message(5, bytes(BIG // MANY)))] * MANY)
    assert BIG // MANY > LARGE
    whole = pb.WatchResponse.FromString(large)
    assert parse_response(large) == whole
    assert len(columns_of_events(large, whole).key) == MANY
    check_keys(b"".join([message(2, message(5, bytes(LARGE)))] * MANY))
    with pytest.raises(AttributeError, match="WatchResponseApart"):
        columns_of_events(response(*PUTS), parse_response(response(*PUTS)))


@pytest.mark.parametrize("size", [SMALL - 1, SMALL, BIG - 1, BIG])
def test_which_type_is_parsed(size: int) -> None:
    around = len(message(99, bytes(size))) - size
    data = message(99, bytes(size - around))
    assert len(data) == size
    expected = WatchResponseApart if SMALL <= size < BIG else pb.WatchResponse
    assert type(parse_response(data)) is expected


class Apart:
    """A parsed response, whose events must not be read one by one."""

    def __init__(self, data: bytes, events: list[Any]) -> None:
        self.events = events
        self.ByteSize = WatchResponseApart.FromString(data).ByteSize


class Never:
    """A message whose fields must not be read one by one."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name} is read one by one")


# No result shows whether columns were used, so the next tests look at the way to it.


def test_columns_of_events_are_read_where_they_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(data: bytes, count: int) -> EventColumns:
        apart: Any = Apart(data, [Never()] * count)
        return columns_of_events(data, apart)

    columns = read(response(*PUTS), MANY)
    assert columns.mod_revision == list(range(10, 10 + MANY))
    assert columns.prev_kv == [None] * MANY
    columns = read(response(*[put(9, PREV)] * MANY), MANY)
    assert columns.prev_kv == [(b"key5", b"value5", 4, 5, 2, 0)] * MANY
    monkeypatch.setattr(_columns, "_key_value_columns", None)
    assert len(read(response(*PUTS, *TWICE_AND_NEVER), MANY + 2).key) == MANY + 2


def test_columns_of_keys_are_read_where_they_can_be() -> None:
    raws: list[Any] = [Never()] * MANY
    keys = [message(2, *key_value(10 + number)) for number in range(MANY)]
    columns = columns_of_keys(b"".join(keys), raws)
    assert columns.mod_revision == list(range(10, 10 + MANY))


def key_of_size(size: int) -> bytes:
    """Return a key that takes this many bytes in its message."""
    around = len(message(2, message(5, bytes(size)))) - size
    return message(2, message(5, bytes(size - around)))


@pytest.mark.parametrize(
    ("count", "size", "tried"),
    [
        (FEW, 100, False),
        (FEW + 1, 100, True),
        (MANY, LARGE - 1, True),
        (MANY, LARGE, False),
    ],
)
def test_few_or_large_keys_are_read_one_by_one(
    count: int, size: int, tried: bool
) -> None:
    raws: list[Any] = [Never()] * count
    data = key_of_size(size) * count
    assert len(data) == size * count
    if tried:
        columns_of_keys(data, raws)
    else:
        with pytest.raises(AssertionError, match="one by one"):
            columns_of_keys(data, raws)
