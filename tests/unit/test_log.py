"""Text from outside stays on one line of the log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_etcd_watch._log import MAX_LENGTH, printable


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("etcdserver: no leader", "etcdserver: no leader"),
        ("Grüße, 你好", "Grüße, 你好"),
        ("two\nlines\r\n", r"two\nlines\r\n"),
        ("\x1b[2J\0\x7f\x85", r"\x1b[2J\x00\x7f\x85"),
        # A line separator, an override of direction, and half a surrogate pair.
        ("\u2028\u202e\udc80", r"\u2028\u202e\udc80"),
        (StopIteration("of\ta type"), r"of\ta type"),
        ("x" * MAX_LENGTH, "x" * MAX_LENGTH),
        ("x" * 30_000, "x" * (MAX_LENGTH - 1) + "…"),
        ("\n" * 30_000, r"\n" * (MAX_LENGTH // 2 - 1) + "\\…"),
    ],
)
def test_printable(text: object, line: str) -> None:
    assert printable(text) == line


@given(st.text(st.characters()))
def test_any_text_is_one_line_and_stays_it(text: str) -> None:
    line = printable(text)
    assert line.isprintable()
    assert len(line) <= MAX_LENGTH
    assert len(line.splitlines()) <= 1
    assert printable(line) == line
