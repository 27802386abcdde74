"""Each of the rules that move a watch's resume point."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trio_etcd_watch._cursor import MAX_REVISION, Cursor
from trio_etcd_watch._grpc.status import StreamLost


def test_from_now_is_above_the_header_of_the_creation() -> None:
    cursor = Cursor(0)
    cursor.created(7)
    assert cursor.next_revision == 8


def test_creation_never_moves_a_start_that_was_asked_for() -> None:
    cursor = Cursor(3)
    cursor.created(7)
    assert cursor.next_revision == 3


@pytest.mark.parametrize("move", [Cursor.delivered, Cursor.progressed])
def test_it_never_falls(move: Callable[[Cursor, int], None]) -> None:
    cursor = Cursor(3)
    positions = []
    for revision in (5, 4, 5, 6):
        move(cursor, revision)
        positions.append(cursor.next_revision)
    assert positions == [6, 6, 6, 7]


def test_what_is_below_was_delivered() -> None:
    cursor = Cursor(3)
    assert [cursor.is_new(revision) for revision in (2, 3, 4)] == [False, True, True]


@pytest.mark.parametrize("move", [Cursor.created, Cursor.delivered, Cursor.progressed])
def test_a_revision_past_all_others_is_not_believed(
    move: Callable[[Cursor, int], None],
) -> None:
    cursor = Cursor(0)
    with pytest.raises(StreamLost, match=f"revision {MAX_REVISION} is nonsense"):
        move(cursor, MAX_REVISION)
    assert cursor.next_revision == 0
