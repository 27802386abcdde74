"""The line that shows the progress of a long read."""

from __future__ import annotations

import io

from trio_etcd_watch._cli.progress import Progress


def shown(*calls: tuple[int, int]) -> str:
    terminal = io.StringIO()
    with Progress(terminal) as progress:
        for done, count in calls:
            progress(done, count)
    return terminal.getvalue()


def test_it_is_written_over_and_gone_in_the_end() -> None:
    assert shown((1_000, 2_500), (2_500, 2_500)) == (
        "\r1,000 of 2,500 keys\r2,500 of 2,500 keys\r" + " " * 19 + "\r"
    )


def test_it_is_seen_at_once() -> None:
    screen = io.BytesIO()
    terminal = io.TextIOWrapper(screen)
    Progress(terminal)(1, 2)
    assert screen.getvalue() == b"\r1 of 2 keys"


def test_a_read_that_starts_over_leaves_nothing_of_the_longer_line() -> None:
    assert "\r1 of 2 keys        \r" in shown((1_000, 2_500), (1, 2))


def test_one_page_is_not_worth_a_line() -> None:
    assert shown((900, 900)) == ""
    assert shown() == ""


def test_no_terminal() -> None:
    with Progress(None) as progress:
        progress(1, 2)
