"""The log lines about failures are few, whatever the peer does."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from trio_etcd_watch._outage import LineBudget, Outage

HOUR = 3600.0


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "trio_etcd_watch")
    return lambda: [record.getMessage() for record in caplog.records]


def test_begin_and_end_have_one_logger_and_one_level(
    lines: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage(LineBudget())
    outage.ended(0.0)
    outage.failed(1.0, "refused", 0.1)
    outage.failed(2.0, "refused", 0.1)
    outage.failed(3.0, "reset", 0.1)
    outage.ended(5.0)
    assert lines() == [
        "no watch stream: refused; next try in 0.10 s",
        "no watch stream: reset; next try in 0.10 s",
        "watch stream resumed after 3 tries in 4.0 s",
    ]
    logged = {(record.name, record.levelname) for record in caplog.records}
    assert logged == {("trio_etcd_watch", "WARNING")}
    # The next outage is logged from its beginning.
    outage.failed(9.0, "refused", 0.1)
    outage.ended(10.0)
    assert lines()[3:] == [
        "no watch stream: refused; next try in 0.10 s",
        "watch stream resumed after 1 tries in 1.0 s",
    ]


def test_an_outage_lasts_until_a_stream_does() -> None:
    outage = Outage(LineBudget())
    seen = [outage.lasts]
    outage.failed(1.0, "refused", 0.1)
    seen.append(outage.lasts)
    outage.ended(2.0)
    seen.append(outage.lasts)
    assert seen == [False, True, False]


def test_lines_are_saved_up_to_a_bound() -> None:
    budget = LineBudget()
    for now, lines in ((0.0, 30), (60.0, 1), (7200.0, 30)):
        assert [budget.take(now) for _ in range(lines + 1)] == [True] * lines + [False]


def test_an_outage_that_lasts_is_told_again_each_minute(
    lines: Callable[[], list[str]],
) -> None:
    outage = Outage(LineBudget())
    for second in range(61):
        outage.failed(100.0 + second, "refused", 1.0)
    assert lines()[1:] == [
        "still no watch stream that lasts, after 61 tries in 60 s: refused"
    ]


def test_reasons_that_are_made_up_without_end(lines: Callable[[], list[str]]) -> None:
    outage = Outage(LineBudget())
    for i in range(1000):
        outage.failed(0.0, f"reason {i}", 0.1)
    assert len(lines()) == 20


def test_a_peer_that_lives_just_long_enough(lines: Callable[[], list[str]]) -> None:
    budget = LineBudget()
    outages = Outage(budget), Outage(budget)
    now = 0.0
    while now < HOUR:
        for outage in outages:
            outage.failed(now, f"dropped at {now}", 0.1)
            outage.ended(now + 3)
        now += 4
    assert 60 <= len(lines()) <= 100
    # Each outage that is logged as begun is logged as ended, and vice versa.
    began = [line for line in lines() if line.startswith("no watch stream: ")]
    assert len(lines()) == 2 * len(began)


def test_an_outage_is_told_late_rather_than_never(
    lines: Callable[[], list[str]],
) -> None:
    budget = LineBudget()
    while budget.take(0.0):
        pass
    outage = Outage(budget)
    for second in range(200):
        outage.failed(float(second), "refused", 1.0)
    outage.ended(200.0)
    assert lines() == [
        "still no watch stream that lasts, after 121 tries in 120 s: refused",
        "still no watch stream that lasts, after 181 tries in 180 s: refused",
        "watch stream resumed after 200 tries in 200.0 s",
    ]


def test_what_comes_from_outside_is_one_line(lines: Callable[[], list[str]]) -> None:
    Outage(LineBudget()).failed(0.0, "a\nWARNING b\x1b[2J" + "c" * 30_000, 0.1)
    (line,) = lines()
    assert line.startswith("no watch stream: a\\nWARNING b\\x1b[2J")
    assert line.isprintable()
    assert len(line) < 500
