"""README is short, its links have targets, and texts name existing tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    """Return the text of one section of README."""
    _, _, rest = README.partition(f"\n## {title}\n")
    return rest.partition("\n## ")[0]


def named_tests(text: str) -> list[str]:
    """Return the tests that a text names."""
    return re.findall(r"`(?:[\w/.]+::)?(test_\w+)`", text)


def rows_of_tests(text: str) -> list[str]:
    """Return a section's table rows of three columns; the third one names tests."""
    lines = [line for line in text.splitlines() if line.count(" | ") == 2]
    assert lines[0].endswith("| tests |")
    return [line for line in lines if not line.endswith("| tests |")]


def functions() -> set[str]:
    """Return the names of all tests, including methods."""
    trees = [
        ast.parse(file.read_text()) for file in (ROOT / "tests").rglob("test_*.py")
    ]
    return {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_it_is_read_in_two_minutes() -> None:
    assert len(README.splitlines()) <= 150
    guarantees = section("What you may rely on")
    assert len(re.findall(r"^- \*\*", guarantees, re.MULTILINE)) == 10


def test_its_links_lead_to_files() -> None:
    links = re.findall(r"\]\((?![a-z]+:)([^)]+)\)", README)
    assert len(links) >= 15
    assert [link for link in links if not (ROOT / link).is_file()] == []
