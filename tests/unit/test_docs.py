"""The programs that the documentation shows are files, and tests run them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.pages import INSTALLS, LONG, typed
from tests.support.programs import DOCS, PROGRAMS, ROOT, blocks
from tests.unit.test_readme import functions, named_tests

PAGES = {str(path.relative_to(DOCS)): path.read_text() for path in DOCS.rglob("*.md")}
LANGUAGES = {"console", "ini", "nginx", "text", "toml", "yaml", "go"}
"""The languages of blocks whose text is on the page itself."""


def included(text: str) -> set[str]:
    """Return the files that a page includes."""
    return set(re.findall(r"^```\{literalinclude\} (\S+)$", text, re.MULTILINE))


def test_what_is_included_is_there() -> None:
    for page, text in PAGES.items():
        for name in included(text):
            base = DOCS if name.startswith("/") else (DOCS / page).parent
            assert (base / name.lstrip("/")).is_file(), (page, name)


def test_each_program_is_shown() -> None:
    shown = {Path(name).name for text in PAGES.values() for name in included(text)}
    assert {path.name for path in PROGRAMS.glob("*.py")} - shown == set()


def test_each_program_is_run_by_a_test() -> None:
    tests = [path.read_text() for path in (ROOT / "tests/etcd").glob("test_docs*.py")]
    for path in PROGRAMS.glob("*.py"):
        assert any(f'"{path.name}"' in text for text in tests), path.name


def test_commands_are_run_by_a_test() -> None:
    """Except for pages that `make docs-follow` runs."""
    tests = "".join(
        path.read_text() for path in (ROOT / "tests/etcd").glob("test_docs*.py")
    )
    for page, text in PAGES.items():
        assert text.count("```console") == len(blocks(page, "console")), page
        commands = {each for each in typed(page) if not each.startswith(INSTALLS)}
        if commands:
            # By its path, or by its name for a helper that knows the folder.
            named = re.search(rf'"({page}|{Path(page).name})"', tests)
            assert named, page


def test_commands_of_minutes_are_there() -> None:
    for page, commands in LONG.items():
        assert set(commands) < set(typed(page)), page


def test_no_program_is_written_into_a_page() -> None:
    for page, text in PAGES.items():
        opened = re.findall(r"^[ >]*(?:```+|~~~+|:::+)([^`~:\n]+)$", text, re.MULTILINE)
        directives = {name for name in opened if name.startswith("{")}
        assert {name for name in opened if name not in directives} <= LANGUAGES, page
        assert not any(re.search(r"code|sourcecode", name) for name in directives), page


def test_the_tests_that_are_named_are_there() -> None:
    named = {name for text in PAGES.values() for name in named_tests(text)}
    assert named - functions() == set()
