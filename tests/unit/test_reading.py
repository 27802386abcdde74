"""How much is read from a connection before its messages are delivered."""

from __future__ import annotations

import pytest

from trio_etcd_watch._grpc.reading import (
    MAX_DELIVERY_TIME,
    MAX_GATHER_TIME,
    MAX_GATHERED,
    MAX_RECEIVE_SIZE,
    MOMENT,
    RECEIVE_SIZE,
    SEVERAL,
    STEP,
    Reading,
)


def test_the_bounds_are_those_that_were_measured() -> None:
    assert Reading().size == RECEIVE_SIZE == 122_880
    assert (MAX_RECEIVE_SIZE, MAX_GATHERED) == (1_048_576, 16_777_216)
    assert (STEP, SEVERAL) == (256, 8)
    assert (MOMENT, MAX_GATHER_TIME, MAX_DELIVERY_TIME) == (0.001, 0.05, 1)


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
    reading.note_delivery(steps=0, messages=1, seconds=0)
    assert not reading.gathers(0)


def test_several_messages_are_gathered_for_each_of_many_consumers() -> None:
    reading = Reading()
    reading.note_delivery(steps=2, messages=2 * STEP, seconds=0.01)
    assert reading.gathers(1)
    assert reading.gathers(SEVERAL * 2 * STEP - 1)
    assert not reading.gathers(SEVERAL * 2 * STEP)
    # The next delivery counts, and no earlier one.
    reading.note_delivery(steps=1, messages=STEP, seconds=0.01)
    assert not reading.gathers(SEVERAL * STEP)


def test_what_is_gathered_is_bounded() -> None:
    reading = Reading()
    reading.note_delivery(steps=2, messages=2 * STEP, seconds=0.01)
    reading.note_read(MAX_GATHERED // 2, 0, 0)
    assert reading.gathers(1)
    reading.note_read(MAX_GATHERED // 2 - 1, 0, 0)
    assert reading.gathers(1)
    reading.note_read(1, 0, 0)
    assert not reading.gathers(1)
    # Delivered bytes do not count.
    reading.note_delivery(steps=2, messages=2 * STEP, seconds=0.01)
    assert reading.gathers(1)


def test_no_more_is_gathered_than_is_delivered_in_time() -> None:
    reading = Reading()
    reading.note_delivery(steps=2, messages=1000, seconds=MAX_DELIVERY_TIME / 2)
    assert reading.gathers(1999)
    assert not reading.gathers(2000)
    # Consumers that are this slow are never made to wait for others.
    reading.note_delivery(steps=2, messages=1000, seconds=1e9)
    assert not reading.gathers(1)
