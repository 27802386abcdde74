"""The documentation shows programs that are files, and that tests run."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.programs import DOCS, PROGRAMS, ROOT
from tests.unit.test_readme import functions, named_tests

PAGES = {str(path.relative_to(DOCS)): path.read_text() for path in DOCS.rglob("*.md")}
LANGUAGES = {"console", "ini", "nginx", "text", "toml", "yaml", "go"}
"""Those of blocks whose text is on the page itself."""


def included(text: str) -> set[str]:
    """The files that a page includes."""
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


NOT_RUN = {
    "performance.md": "it takes minutes",
    "explanation/etcd-limits.md": "test_history restores such snapshots, by the same flags",
    "explanation/finding-the-cluster.md": "it installs an extra",
    "howto/membership.md": "the system's resolver would have to know the domain",
}
"""Pages whose commands no test of the documentation runs, and why."""


def test_commands_are_run_by_a_test() -> None:
    tests = "".join(
        path.read_text() for path in (ROOT / "tests/etcd").glob("test_docs*.py")
    )
    for page, text in PAGES.items():
        if "```console" in text:
            # By its path, or by its name to a helper that knows the folder.
            named = re.search(rf'"({page}|{Path(page).name})"', tests)
            assert named or page in NOT_RUN, page


def test_no_program_is_written_into_a_page() -> None:
    for page, text in PAGES.items():
        opened = re.findall(r"^[ >]*(?:```+|~~~+|:::+)([^`~:\n]+)$", text, re.MULTILINE)
        directives = {name for name in opened if name.startswith("{")}
        assert {name for name in opened if name not in directives} <= LANGUAGES, page
        assert not any(re.search(r"code|sourcecode", name) for name in directives), page


def test_the_tests_that_are_named_are_there() -> None:
    named = {name for text in PAGES.values() for name in named_tests(text)}
    assert named - functions() == set()
