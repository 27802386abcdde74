"""The pages that explain: the tests that they name are there, and each rule has a name."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.unit.test_readme import functions, named_tests, rows_of_tests

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted([*DOCS.glob("explanation/*.md"), *DOCS.glob("*.md")])

RULE = re.compile(r"^\| `([a-z_]+)` \| (.+) \| (.+) \|$", re.MULTILINE)
"""A row of guarantees.md: the name of a rule, what it says, and what shows it."""


@pytest.fixture(scope="module")
def there() -> set[str]:
    """The names of all tests; all files are parsed for them."""
    return functions()


def page(name: str) -> str:
    """The text of a page of the explanation."""
    return (DOCS / "explanation" / name).read_text()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_the_tests_that_a_page_names_are_there(path: Path, there: set[str]) -> None:
    assert set(named_tests(path.read_text())) - there == set()


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


def test_a_rule_that_is_explained_has_its_row() -> None:
    names = {name for name, _, _ in RULE.findall(page("guarantees.md"))}
    explained = {
        name
        for path in PAGES
        for name in re.findall(
            r"^(?:\d+\.|-) \*\*`([a-z_]+)`", path.read_text(), re.MULTILINE
        )
    }
    assert explained
    assert explained - names == set()
