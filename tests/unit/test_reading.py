"""How much is read from a connection before its messages are delivered."""

from __future__ import annotations

import pytest

from trio_etcd_watch._grpc.reading import (
    MAX_GATHERED,
    MAX_RECEIVE_SIZE,
    RECEIVE_SIZE,
    SEVERAL,
    STEP,
    Reading,
)


def test_a_read_asks_for_some_thousand_events() -> None:
    assert Reading().size == RECEIVE_SIZE


@pytest.mark.parametrize(
    ("came", "missing", "still_missing", "size"),
    [
        (RECEIVE_SIZE, 2 * RECEIVE_SIZE, RECEIVE_SIZE, RECEIVE_SIZE),
        (RECEIVE_SIZE, 5 * RECEIVE_SIZE, 4 * RECEIVE_SIZE, 4 * RECEIVE_SIZE),
        (RECEIVE_SIZE, 2 * MAX_RECEIVE_SIZE, MAX_RECEIVE_SIZE + 1, MAX_RECEIVE_SIZE),
        # The message is nearly whole.
        (RECEIVE_SIZE, RECEIVE_SIZE, 1, RECEIVE_SIZE),
        # Less came than was asked for.
        (RECEIVE_SIZE - 1, 5 * RECEIVE_SIZE, 4 * RECEIVE_SIZE, RECEIVE_SIZE),
        # Half of it was of other messages.
        (RECEIVE_SIZE, 10**6, 10**6 - RECEIVE_SIZE // 2, RECEIVE_SIZE),
        (RECEIVE_SIZE, 10**6, 10**6 - RECEIVE_SIZE // 2 - 1, 10**6 - 61_441),
    ],
)
def test_reads_are_larger_within_a_large_message(
    came: int, missing: int, still_missing: int, size: int
) -> None:
    reading = Reading()
    reading.note_read(came, missing, still_missing)
    assert reading.size == size


def test_a_large_read_that_is_full_goes_on() -> None:
    reading = Reading()
    reading.note_read(RECEIVE_SIZE, 5 * RECEIVE_SIZE, 4 * RECEIVE_SIZE)
    # As much as it asked for before, but not now.
    reading.note_read(RECEIVE_SIZE, 4 * RECEIVE_SIZE, 3 * RECEIVE_SIZE)
    assert reading.size == RECEIVE_SIZE


def test_nothing_is_gathered_for_few_consumers() -> None:
    reading = Reading()
    assert not reading.gathers(0)
    reading.note_delivery(steps=0)
    assert not reading.gathers(0)


def test_several_messages_are_gathered_for_each_of_many_consumers() -> None:
    reading = Reading()
    reading.note_delivery(steps=2)
    assert reading.gathers(1)
    assert reading.gathers(SEVERAL * 2 * STEP - 1)
    assert not reading.gathers(SEVERAL * 2 * STEP)
    # The next delivery counts, and no earlier one.
    reading.note_delivery(steps=1)
    assert not reading.gathers(SEVERAL * STEP)


def test_what_is_gathered_is_bounded() -> None:
    reading = Reading()
    reading.note_delivery(steps=2)
    reading.note_read(MAX_GATHERED // 2, 0, 0)
    assert reading.gathers(1)
    reading.note_read(MAX_GATHERED // 2 - 1, 0, 0)
    assert reading.gathers(1)
    reading.note_read(1, 0, 0)
    assert not reading.gathers(1)
    # Delivered bytes do not count.
    reading.note_delivery(steps=2)
    assert reading.gathers(1)
