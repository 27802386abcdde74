"""README says which test shows what: each of them is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    """The text of one section of README."""
    _, _, rest = README.partition(f"\n## {title}\n")
    return rest.partition("\n## ")[0]


def named_tests(text: str) -> list[str]:
    """The tests that a text names."""
    return re.findall(r"`(?:[\w/.]+::)?(test_\w+)`", text)


def rows_of_tests(text: str) -> list[str]:
    """The rows of a section's tables of three columns; the third names tests."""
    lines = [line for line in text.splitlines() if line.count(" | ") == 2]
    assert lines[0].endswith("| tests |")
    return [line for line in lines if not line.endswith("| tests |")]


def functions() -> set[str]:
    """The names of all tests, methods included."""
    trees = [
        ast.parse(file.read_text()) for file in (ROOT / "tests").rglob("test_*.py")
    ]
    return {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_the_tests_that_it_names_are_there() -> None:
    named = named_tests(README)
    assert named
    assert set(named) - functions() == set()


def test_each_fault_has_a_test() -> None:
    rows = rows_of_tests(section("What happens when …"))
    assert len(rows) >= 30
    assert [row for row in rows if not named_tests(row)] == []
    faults = [row.split(" | ")[0] for row in rows]
    assert len(set(faults)) == len(faults)
