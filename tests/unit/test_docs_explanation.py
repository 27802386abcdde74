"""The explanation pages: each rule has a name, and each fault a test."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.unit.test_readme import README, named_tests, rows_of_tests

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted([*DOCS.glob("explanation/*.md"), *DOCS.glob("*.md")])

RULE = re.compile(r"^\| `([a-z_]+)` \| (.+) \| (.+) \|$", re.MULTILINE)
"""A row of guarantees.md: the name of a rule, its text, and its tests."""


def page(name: str) -> str:
    """Return the text of an explanation page."""
    return (DOCS / "explanation" / name).read_text()


def test_each_fault_has_a_test() -> None:
    rows = rows_of_tests(page("faults.md"))
    assert len(rows) >= 80
    assert [row for row in rows if not named_tests(row)] == []
    faults = Counter(row.split(" | ")[0] for row in rows)
    assert [fault for fault, count in faults.items() if count > 1] == []


def test_each_rule_has_one_name_and_a_test() -> None:
    rules = RULE.findall(page("guarantees.md"))
    assert len(rules) >= 40
    names = Counter(name for name, _, _ in rules)
    assert [name for name, count in names.items() if count > 1] == []
    assert [name for name, _, tests in rules if not named_tests(tests)] == []


def test_a_rule_that_is_spoken_of_has_its_row() -> None:
    """A rule that is explained, in bold, or cited, in brackets."""
    names = {name for name, _, _ in RULE.findall(page("guarantees.md"))}
    pages = {
        path.name: path.read_text()
        for path in PAGES
        if path.name not in {"architecture.md", "guarantees.md"}  # modules; the rules
    }
    explained = re.compile(r"\*\*`([a-z_]+)`")
    cited = re.compile(r"\(((?:`[a-z_]+`(?:, )?)+)[ )]")
    spoken_of = {
        (file, name)
        for file, text in pages.items()
        for name in [
            *explained.findall(text),
            *re.findall(r"`([a-z_]+)`", " ".join(cited.findall(text))),
        ]
        if not name.startswith("test_")
    }
    # Fields of `Mirror.statistics()`.
    fields = {("mirrors.md", "connected"), ("mirrors.md", "disconnected_since")}
    assert len(spoken_of) >= 25
    assert {name for _, name in spoken_of - fields} - names == set()


def test_the_versions_are_those_of_the_readme() -> None:
    """Texts that `test_matrix` compares with what is declared, pinned and tested."""
    stability = (DOCS / "stability.md").read_text()
    rows = re.findall(
        r"^\| (?:[\w]+) \| (?:[\d.]+, )*[\d.]+.*\|$", stability, re.MULTILINE
    )
    assert len(rows) == 7
    assert [row for row in rows if f"\n{row}\n" not in README] == []


def test_each_difference_between_servers_has_a_test() -> None:
    stability = (DOCS / "stability.md").read_text()
    rows = rows_of_tests(
        stability.partition("### What differs")[2].partition("\n## ")[0]
    )
    assert len(rows) >= 11
    assert [row for row in rows if not named_tests(row)] == []


def test_each_cell_of_the_comparison_can_be_checked() -> None:
    comparison, _, shown = (
        (DOCS / "comparison.md").read_text().partition("## What shows it")
    )
    table = dict(re.findall(r"^\| (.+) \| (.+) \|$", shown, re.MULTILINE))
    rows = re.findall(r"^\| ([^|-].+) \|$", comparison, re.MULTILINE)
    assert len(rows) >= 30
    for row in rows:
        what, ours, *others = row.split(" | ")
        assert "{doc}" in ours or named_tests(table[what]), what
        assert [cell for cell in others if cell != "—" and "][" not in cell] == [], what
    named = set(re.findall(r"\]\[([\w-]+)\]", comparison))
    defined = re.findall(r"^\[([\w-]+)\]: https://", shown, re.MULTILINE)
    assert named == set(defined)
    assert len(defined) == len(set(defined))
