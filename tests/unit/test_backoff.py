"""Retry delays are small at first, bounded, spread, and reset after a success."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_etcd_watch._backoff import bound_of_delay, delays

LARGEST = 1 - 2**-53
"""The largest value of `random.random()`."""
BOUNDS = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0]


def test_bounds_double_up_to_the_last() -> None:
    waits = itertools.islice(delays(lambda: LARGEST), len(BOUNDS))
    assert list(waits) == pytest.approx(BOUNDS)


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=60))
def test_delays_are_within_their_bounds(drawn: list[float]) -> None:
    random: Iterator[float] = iter(drawn)
    waits = delays(random.__next__)
    for i, fraction in enumerate(drawn):
        wait, bound = next(waits), BOUNDS[min(i, len(BOUNDS) - 1)]
        assert wait == pytest.approx(fraction * bound)
        assert 0 <= wait < bound
        assert i > 0 or wait < 0.050


@given(st.lists(st.booleans(), max_size=60))
def test_starting_over(successes: list[bool]) -> None:
    waits = delays(lambda: LARGEST)
    failures = 0
    assert next(waits) == pytest.approx(BOUNDS[0])
    for success in successes:
        failures = 0 if success else failures + 1
        bound = BOUNDS[min(failures, len(BOUNDS) - 1)]
        assert waits.send(success) == pytest.approx(bound)


def test_clients_that_failed_together_come_back_apart() -> None:
    fractions = iter([0.0, 0.5, 0.999])
    first = [next(delays(fractions.__next__)) for _ in range(3)]
    assert first == [0.0, 0.025, pytest.approx(0.04995)]


def test_the_bound_after_so_many_failures_is_that_of_the_delays() -> None:
    assert [bound_of_delay(failures) for failures in (-1, 0)] == [0, 0]
    for failures, bound in enumerate(BOUNDS, 1):
        assert bound_of_delay(failures) == pytest.approx(bound)


@pytest.mark.parametrize("failures", [100, 2_000, 10**6])
def test_the_bound_is_one_after_any_number_of_failures(failures: int) -> None:
    assert bound_of_delay(failures) == BOUNDS[-1]
