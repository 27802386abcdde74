"""The chaos runs recognize reasons by their words, which are those of the library."""

from __future__ import annotations

from pathlib import Path

import pytest

import trio_etcd_watch
from tests.chaos.mirrors import REASONS

SOURCE = "\n".join(
    file.read_text() for file in Path(trio_etcd_watch.__file__).parent.glob("*.py")
)


@pytest.mark.parametrize("words", REASONS)
def test_the_library_says_so(words: str) -> None:
    assert words in SOURCE
