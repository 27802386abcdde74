"""What several tests of the how-to pages need."""

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
    """The call of trio-etcd-watch that a page shows, without what its output goes to."""
    lines = "".join(blocks(page, "console")).splitlines()
    (call,) = (line for line in lines if line.startswith("$ trio-etcd-watch "))
    _, _, *arguments = shlex.split(re.split(r"[|>]", call)[0])
    return [*PROGRAM, *arguments]


async def output_of(line: str) -> str:
    """What one line prints that a page has for a shell."""
    with trio.fail_after(LIMIT):
        done = await trio.run_process(["bash", "-c", line], capture_stdout=True)
    return done.stdout.decode()


class Shell:
    """A shell with jobs, as on a terminal. Made by `open_shell()`.

    Attributes:
        cli: what it and its jobs print.
    """

    def __init__(self, cli: Cli) -> None:
        self.cli = cli

    async def type(self, line: str) -> None:
        """Type a line; what it does is not waited for."""
        stdin = self.cli.process.stdin
        assert stdin is not None
        await stdin.send_all(line.encode() + b"\n")


@asynccontextmanager
async def open_shell(folder: Path, *programs: str, **env: str) -> AsyncGenerator[Shell]:
    """Have a shell while the block lasts; its jobs are interrupted at the end.

    Args:
        folder: where it is.
        programs: paths of what is found first, beside the Python of this run.
        env: further variables.
    """
    found = [str(Path(program).parent) for program in (sys.executable, *programs)]
    env |= {
        "PATH": os.pathsep.join([*found, os.environ["PATH"]]),
        "PYTHONUNBUFFERED": "1",
    }
    async with open_command(["bash", "-s"], env, folder, stdin=subprocess.PIPE) as cli:
        shell = Shell(cli)
        # As on a terminal: otherwise its jobs ignore what `kill -INT` sends.
        await shell.type("set -m")
        try:
            yield shell
        finally:
            with trio.CancelScope(shield=True):
                await shell.type("kill -INT $(jobs -p); wait; exit")
                await cli.wait()
