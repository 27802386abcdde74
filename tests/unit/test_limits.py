"""How large a file and a function may be; private members are used in one file only.

Ruff counts the branches of functions in Python (C901 and PLR0912, in pyproject.toml).
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FILE = 400
FUNCTION = 40
BRANCHES = 12

# These are above a limit, with their sizes, which may only shrink. A shortened one gets
# its new size; one within the limit is removed. None is added.

LONG_FILES = {
    # Tests of one subject each, and a machine with its model.
    "tests/io/test_connection.py": 402,
    "tests/io/test_connector.py": 555,
    "tests/machine/model.py": 540,
    "tests/machine/proof_scenarios.py": 506,
    "tests/machine/replica_machine.py": 523,
    "tests/machine/session_machine.py": 897,
    "tests/support/robustness.py": 493,
    "tests/unit/test_channel.py": 515,
    "tests/unit/test_frames.py": 545,
    "tests/unit/test_robustness.py": 513,
    "tests/unit/test_session.py": 707,
}
"""Files of more than 400 lines."""

TABLES = {
    "tests/machine/follower_hunks.py",
    "tests/machine/mutations.py",
    "tests/machine/replica_mutations.py",
}
"""Files without a limit: they are lists, which grow by a row with each rule."""

LONG_FUNCTIONS = {
    "tests/etcd/test_docs_howto_services.py:test_metrics": 43,
    "tests/etcd/test_following.py:test_all_members_are_replaced": 50,
    "tests/etcd/test_mirror_cancelled.py:test_waits_are_cancelled_at_each_checkpoint": 41,
    "tests/etcd/test_partition.py:one_cut": 44,
    "tests/etcd/test_reconnect.py:test_watches_come_and_go_while_connections_drop": 46,
    "tests/io/test_closing.py:test_closing_while_a_connection_is_on_its_way": 43,
    "tests/io/test_follower.py:test_history_that_is_compacted_while_it_is_read_ends_no_mirror": 53,
    "tests/io/test_fuzz.py:play": 62,
    "tests/io/test_fuzz.py:watch_through": 48,
    "tests/io/test_outages.py:test_a_stream_whose_watches_are_all_parked_works": 49,
    "tests/io/test_outages.py:test_an_hour_of": 53,
    "tests/machine/model.py:Stream._create": 43,
    "tests/machine/session_machine.py:SessionMachine._deliver": 67,
    "tests/support/replacing.py:Replacing.add": 44,
    "tests/support/stuck.py:main": 57,
    "tests/unit/test_frames.py:responses": 43,
    "tests/unit/test_frames.py:test_windows_get_back_what_was_consumed": 42,
}
"""Functions of more than 40 lines: tests of one sequence, and programs of tests."""


def sources(*suffixes: str) -> list[str]:
    """Return the files of the tree with these suffixes, without generated ones."""
    folders = ("benchmarks", "docs", "examples", "tests", "trio_etcd_watch")
    found = [ROOT / "hatch_build.py"]
    found += [file for folder in folders for file in (ROOT / folder).rglob("*")]
    paths = [file for file in found if file.suffix in suffixes]
    names = [file.relative_to(ROOT).as_posix() for file in paths]
    return sorted(name for name in names if "/_pb/" not in name)


def functions(tree: ast.AST, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield the functions of a module, and the lines of each without its docstring."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from functions(node, name)
            continue
        dotted = f"{name}.{node.name}".lstrip(".")
        yield from functions(node, dotted)
        if isinstance(node, ast.ClassDef):
            continue
        assert node.end_lineno is not None
        lines = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node) is not None:
            docstring = node.body[0]
            assert docstring.end_lineno is not None
            lines -= docstring.end_lineno - docstring.lineno + 1
        yield dotted, lines


def functions_in_c(source: str) -> Iterator[tuple[str, str]]:
    """Yield the functions of a file in C with their text; a `{` of each begins a line."""
    for found in re.finditer(
        r"^(\w+)\([^;{]*\)\n\{\n.*?^\}\n", source, re.MULTILINE | re.DOTALL
    ):
        yield found[1], found[0]


def branches_in_c(function: str) -> int:
    """Return the number of branches. A switch is a table, and counts once."""
    code = re.sub(r'/\*.*?\*/|"[^"\n]*"', "", function, flags=re.DOTALL)
    return len(re.findall(r"\b(?:if|else|for|while|switch)\b", code))


def above(sizes: dict[str, int], limit: int) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if size > limit}


def check(sizes: dict[str, int], limit: int, excused: dict[str, int]) -> None:
    long = above(sizes, limit)
    assert above(excused, limit) == excused
    assert {
        name: size for name, size in long.items() if size > excused.get(name, 0)
    } == {}
    assert excused.keys() - long.keys() == set(), "short enough by now: remove it"


def test_files_are_short() -> None:
    names = set(sources(".py", ".c", ".h"))
    assert names >= TABLES
    sizes = {
        name: len((ROOT / name).read_text().splitlines()) for name in names - TABLES
    }
    check(sizes, FILE, LONG_FILES)


def test_functions_are_short() -> None:
    sizes = {
        f"{file}:{name}": lines
        for file in sources(".py")
        for name, lines in functions(ast.parse((ROOT / file).read_text()))
    }
    check(sizes, FUNCTION, LONG_FUNCTIONS)


def test_functions_in_c_are_short_and_branch_little() -> None:
    found = {
        f"{file}:{name}": text
        for file in sources(".c", ".h")
        for name, text in functions_in_c((ROOT / file).read_text())
    }
    # Each function ends like this, so none was overlooked.
    ends = sum((ROOT / name).read_text().count("\n}\n") for name in sources(".c", ".h"))
    assert len(found) == ends > 40
    check({name: text.count("\n") for name, text in found.items()}, FUNCTION, {})
    check({name: branches_in_c(text) for name, text in found.items()}, BRANCHES, {})


def test_ruff_counts_branches_and_sees_private_members() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert {"C901", "PLR0912", "SLF"} <= set(lint["select"])
    assert (
        lint["mccabe"]["max-complexity"] == lint["pylint"]["max-branches"] == BRANCHES
    )


OF_NAMED_TUPLES = {"_make", "_replace", "_fields"}
"""Members that are public in spite of their names. Our classes without a public
constructor have a `_make`, too, which `testing` needs to make values."""


def private_members(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Return the names that a file defines, and the private ones that it uses."""
    given: set[str] = set()
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            given.add(node.name)
        elif isinstance(node, ast.Name):
            given.add(node.id)
        elif isinstance(node, ast.Attribute):
            mine = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            (given if mine else used).add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            given.add(node.value)  # it may be in __slots__
    private = {name for name in used if re.match(r"_(?!_)", name)}
    return given, private - OF_NAMED_TUPLES


PACKAGE = [name for name in sources(".py") if name.startswith("trio_etcd_watch/")]


@pytest.mark.parametrize("name", PACKAGE)
def test_what_is_private_is_touched_in_its_own_file_only(name: str) -> None:
    given, used = private_members(ast.parse((ROOT / name).read_text()))
    assert used - given == set()
