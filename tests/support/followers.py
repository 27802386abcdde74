"""What the followers of mirrors warn of, also where their log's budget leaves it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from trio_etcd_watch._follower import Follower

READ_ANEW = "a mirror is read anew: "


@contextmanager
def resyncs_noted(note: Callable[[Follower, str], None]) -> Iterator[None]:
    """Call `note` with the reason whenever a range is to be read anew."""
    warn = Follower._warn

    def noting(follower: Follower, line: str, *values: object) -> None:
        text = line % values
        if text.startswith(READ_ANEW):
            note(follower, text.removeprefix(READ_ANEW))
        warn(follower, line, *values)

    with patch.object(Follower, "_warn", noting):
        yield
