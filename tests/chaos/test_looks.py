"""The checks of mirrors under chaos pass a right mirror, and find each error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.chaos.looks import Fold, Look, differs, unlike_history
from tests.support.robustness import DELETE, PUT, Event, History, KeyValue


class Change(NamedTuple):
    """Like the client's own Change."""

    key: bytes
    old: KeyValue | None
    new: KeyValue | None


EVERY_KEY = (b"\0", b"\0")


def put(key: bytes, revision: int) -> Event:
    kv = KeyValue(key, b"%d" % revision, revision, revision, 1)
    return Event(PUT, kv, None, is_create=True)


def delete(key: bytes, revision: int) -> Event:
    kv = KeyValue(key, b"", 0, revision, 0)
    return Event(DELETE, kv, None, is_create=False)


EVENTS = (
    put(b"a", 2),
    put(b"b", 3),
    delete(b"a", 4),
    put(b"c", 5),
    put(b"d", 5),
    delete(b"c", 6),
)
HISTORY = History(EVENTS)


def looks(*lost: int) -> Iterator[Look]:
    """Yield what a mirror shows at each revision, if it never got these events."""
    state: dict[bytes, KeyValue] = {}
    for place, event in enumerate(EVENTS):
        if place not in lost:
            if event.type == PUT:
                state[event.kv.key] = event.kv
            else:
                state.pop(event.kv.key, None)
        if place != 3:  # within a revision
            rows = tuple(kv for _, kv in sorted(state.items()))
            yield Look("m", EVERY_KEY, event.revision, rows)


def test_a_right_mirror_passes() -> None:
    assert list(unlike_history([*looks()][::-1], HISTORY)) == []


@pytest.mark.parametrize("lost", range(len(EVENTS)))
def test_a_lost_event_is_caught(lost: int) -> None:
    # After a lost deletion, the key exists again.
    (wrong, *_) = unlike_history(looks(lost), HISTORY)
    key, revision = EVENTS[lost].kv.key, EVENTS[lost].revision
    assert wrong.startswith(f"m: at revision {revision}, {key!r} is ")


def test_half_a_transaction_is_caught() -> None:
    (wrong,) = unlike_history([[*looks(4)][3]], HISTORY)
    assert "b'd' is None instead of" in wrong


def test_a_wrong_order_is_caught() -> None:
    last = [*looks()][-1]
    (wrong,) = unlike_history([last._replace(rows=last.rows[::-1])], HISTORY)
    assert "not in order" in wrong


def test_a_revision_of_nowhere_is_caught() -> None:
    last = [*looks()][-1]
    (wrong,) = unlike_history([last._replace(revision=7)], HISTORY)
    assert "past 6" in wrong


def test_only_the_range_counts() -> None:
    b, d = put(b"b", 3).kv, put(b"d", 5).kv
    assert differs(Look("m", (b"b", b"c"), 6, (b,)), {b"b": b, b"d": d}) == ""
    assert "b'b'" in differs(Look("m", (b"c", b"\0"), 6, (b, d)), {b"d": d, b"b": b})


A2, A4, B3 = put(b"a", 2).kv, put(b"a", 4).kv, put(b"b", 3).kv


def test_updates_add_up() -> None:
    fold = Fold[KeyValue]()
    updates = (
        (1, ()),
        (3, (Change(b"a", None, A2), Change(b"b", None, B3))),
        (4, (Change(b"a", A2, A4),)),
        (5, (Change(b"b", B3, None),)),
    )
    for revision, changes in updates:
        assert list(fold.take(revision, changes)) == []
    assert (fold.state, fold.revision, fold.updates) == ({b"a": A4}, 5, 4)


@pytest.mark.parametrize(
    ("revision", "changes", "wrong"),
    [
        (4, (), "is empty"),
        (2, (Change(b"a", A2, A4),), "fell from 3 to 2"),
        (4, (Change(b"b", B3, None), Change(b"a", A2, A4)), "not in order"),
        (4, (Change(b"a", None, A4),), "wrong old for b'a'"),
        (4, (Change(b"a", A2, A2),), "changes nothing in b'a'"),
    ],
)
def test_a_wrong_update_is_caught(
    revision: int, changes: tuple[Change, ...], wrong: str
) -> None:
    fold = Fold({b"a": A2, b"b": B3}, revision=3, initial=False)
    (found,) = fold.take(revision, changes)
    assert wrong in found
