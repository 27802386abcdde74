"""Reads the list of mutants that no test should catch: nothing that they change matters.

They change nothing observable, or only the wording of a text for people.

An entry is a mutant, as it is printed, followed by the reason, which is indented:

    _backoff bound_of_delay compare
    - if failures <= 0:
    + if failures < 0:
      The reason, on as many lines as it takes.

An empty line ends it; a line that begins with `#` is a comment. Entries have no line
numbers: an entry is valid as long as its function contains its line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.operators import Mutant

FILE = Path(__file__).with_name("survivors.txt")


class MistakeError(ValueError):
    """An entry is malformed, or occurs twice."""


@dataclass(frozen=True, slots=True)
class Survivor:
    """One entry: a mutant, as it is printed, and the reason why it changes nothing."""

    mutant: str
    reason: str

    @property
    def module(self) -> str:
        return self.mutant.partition(" ")[0]


def parse(text: str) -> list[Survivor]:
    """Read the list.

    Raises:
        MistakeError: an entry has no reason, is incomplete, or occurs twice.
    """
    found: dict[str, Survivor] = {}
    for block in without_comments(text).split("\n\n"):
        lines = block.strip("\n").splitlines()
        if not lines:
            continue
        mutant, reason = "\n".join(lines[:3]), lines[3:]
        signs = [line[:2] for line in lines[1:]]
        if signs[:2] != ["- ", "+ "] or not reason or set(signs[2:]) != {"  "}:
            raise MistakeError(f"a mutant in three lines, then why:\n{block}")
        if mutant in found:
            raise MistakeError(f"listed twice:\n{mutant}")
        found[mutant] = Survivor(mutant, " ".join(line.strip() for line in reason))
    return list(found.values())


def without_comments(text: str) -> str:
    """Return the text without the lines that begin with `#`."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def listed(path: Path = FILE) -> list[Survivor]:
    """Read the list from its file; without a file it is empty."""
    return parse(path.read_text()) if path.exists() else []


def stale(survivors: Iterable[Survivor], mutants: Iterable[Mutant]) -> list[str]:
    """Return the entries whose mutant no longer exists."""
    existing = {str(mutant) for mutant in mutants}
    return [each.mutant for each in survivors if each.mutant not in existing]
