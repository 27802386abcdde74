"""Helpers for the tests of the how-to pages."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.support.cli import PROGRAM, Cli, open_command
from tests.support.helpers import LIMIT
from tests.support.programs import blocks


def cli_command(page: str) -> list[str]:
    """Return the call of trio-etcd-watch on a page, without its redirections."""
    lines = "".join(blocks(page, "console")).splitlines()
    (call,) = (line for line in lines if line.startswith("$ trio-etcd-watch "))
    _, _, *arguments = shlex.split(re.split(r"[|>]", call)[0])
    return [*PROGRAM, *arguments]


async def output_of(line: str) -> str:
    """Return what a shell command of a page prints."""
    with trio.fail_after(LIMIT):
        done = await trio.run_process(["bash", "-c", line], capture_stdout=True)
    return done.stdout.decode()


class Shell:
    """A shell with job control, as on a terminal. Made by `open_shell()`.

    Attributes:
        cli: the output of the shell and its jobs.
    """

    def __init__(self, cli: Cli) -> None:
        self.cli = cli

    async def type(self, line: str) -> None:
        """Type a line, without waiting for the command."""
        stdin = self.cli.process.stdin
        assert stdin is not None
        await stdin.send_all(line.encode() + b"\n")


@asynccontextmanager
async def open_shell(folder: Path, *programs: str, **env: str) -> AsyncGenerator[Shell]:
    """Run a shell for the length of the block; its jobs are interrupted at the end.

    Args:
        folder: the working directory.
        programs: programs whose folders come first on PATH, after that of this Python.
        env: further variables.
    """
    found = [str(Path(program).parent) for program in (sys.executable, *programs)]
    env |= {
        "PATH": os.pathsep.join([*found, os.environ["PATH"]]),
        "PYTHONUNBUFFERED": "1",
    }
    async with open_command(["bash", "-s"], env, folder, stdin=subprocess.PIPE) as cli:
        shell = Shell(cli)
        # Job control, as on a terminal: without it jobs ignore what `kill -INT` sends.
        await shell.type("set -m")
        try:
            yield shell
        finally:
            with trio.CancelScope(shield=True):
                await shell.type("kill -INT $(jobs -p); wait; exit")
                await cli.wait()
