"""Records why followers read a range again, whatever the budget of their log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from trio_etcd_watch._follower import Follower

RESYNC = "a mirror is read again: "


@contextmanager
def resyncs_noted(note: Callable[[Follower, str], None]) -> Iterator[None]:
    """Call `note` with the reason each time a range is to be read again."""
    warn = Follower._warn

    def noting(follower: Follower, line: str, *values: object) -> None:
        text = line % values
        if text.startswith(RESYNC):
            note(follower, text.removeprefix(RESYNC))
        warn(follower, line, *values)

    with patch.object(Follower, "_warn", noting):
        yield
