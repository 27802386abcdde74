"""The two functions that check whether an event continues its key."""

from __future__ import annotations

import pytest
from sortedcontainers import SortedDict

from trio_etcd_watch import Event, EventType, KeyValue
from trio_etcd_watch._chain import begins_or_ends, put_again_fast


def kv_of(version: int, revision: int, created: int = 1, key: bytes = b"a") -> KeyValue:
    return KeyValue._make(key, b"", created, revision, version, 0)


def put_of(version: int, revision: int, created: int = 1, key: bytes = b"a") -> Event:
    return Event._make(EventType.PUT, kv_of(version, revision, created, key), None)


def deletion(revision: int) -> Event:
    return Event._make(EventType.DELETE, kv_of(0, revision, 0), None)


@pytest.mark.parametrize(
    "stops",
    [put_of(4, 8), put_of(2, 8), put_of(3, 8, 2), put_of(1, 8, 8, b"b"), deletion(8)],
    ids=["a lost put", "again", "of another creation", "a creation", "a deletion"],
)
def test_puts_are_applied_up_to_what_is_no_such_put(stops: Event) -> None:
    mapping = SortedDict({b"a": kv_of(1, 5)})
    olds: dict[bytes, KeyValue | None] = {}
    rest = iter([put_of(1, 5), put_of(2, 7), stops, put_of(3, 9)])
    stopped, revision = put_again_fast(mapping, rest, 5, olds, EventType.PUT)
    assert (stopped, revision) == (stops, 7)
    assert dict(mapping) == {b"a": kv_of(2, 7)}
    assert olds == {b"a": kv_of(1, 5)}
    assert list(rest) == [put_of(3, 9)]


def test_the_first_of_what_was_there_is_told() -> None:
    mapping = SortedDict({b"a": kv_of(1, 5)})
    olds: dict[bytes, KeyValue | None] = {b"a": None}
    rest = iter([put_of(2, 6), put_of(3, 7)])
    assert put_again_fast(mapping, rest, 0, olds, EventType.PUT) == (None, 7)
    assert olds == {b"a": None}
    assert put_again_fast(mapping, rest, 0, olds, EventType.PUT) == (None, 0)


def test_what_begins_and_ends_a_key() -> None:
    creation, there = put_of(1, 5, 5), kv_of(1, 3)
    assert begins_or_ends(creation, None)
    assert not begins_or_ends(creation, there)
    assert not begins_or_ends(put_of(2, 5, 5), None)
    assert not begins_or_ends(put_of(1, 5, 4), None)
    assert begins_or_ends(deletion(5), there)
    assert not begins_or_ends(deletion(5), None)
    odd = Event._make(EventType.DELETE, kv_of(1, 5, 5), None)
    assert not begins_or_ends(odd, None)
