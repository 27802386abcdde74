"""Each of the rules that move a watch's resume point."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trio_etcd_watch._cursor import Cursor
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


def test_the_cluster_has_told_what_it_said() -> None:
    cursor = Cursor(100)
    reported = [cursor.reported]
    for move, revision in (
        (Cursor.created, 7),
        (Cursor.created, 5),
        (Cursor.delivered, 100),
        (Cursor.progressed, 90),
        (Cursor.progressed, 110),
    ):
        move(cursor, revision)
        reported.append(cursor.reported)
    assert reported == [0, 7, 7, 100, 100, 110]


def test_a_header_that_a_proxy_made_up_is_not_the_clusters_word() -> None:
    cursor = Cursor(0)
    cursor.created(7, made_up=True)
    assert (cursor.next_revision, cursor.reported) == (8, 0)
    cursor.delivered(9)
    cursor.created(11, made_up=True)
    assert (cursor.next_revision, cursor.reported) == (10, 9)


def test_the_last_revision_that_is_believed() -> None:
    cursor = Cursor(0)
    cursor.delivered(2**63 - 2)
    assert cursor.next_revision == 2**63 - 1


@pytest.mark.parametrize("move", [Cursor.created, Cursor.delivered, Cursor.progressed])
def test_a_revision_past_all_others_is_not_believed(
    move: Callable[[Cursor, int], None],
) -> None:
    cursor = Cursor(0)
    with pytest.raises(StreamLost, match=f"revision {2**63 - 1} is nonsense"):
        move(cursor, 2**63 - 1)
    assert cursor.next_revision == 0
