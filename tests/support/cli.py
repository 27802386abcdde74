"""Runs the command-line program, to its end or for the length of a block."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.support.helpers import LIMIT

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "trio_etcd_watch"]


def environment(**more: str) -> dict[str, str]:
    """Return the environment without etcdctl's variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ETCDCTL_")}
    return kept | {"PYTHONPATH": str(ROOT)} | more


async def run_cli(
    *arguments: str | bytes, **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the program to its end."""
    with trio.fail_after(LIMIT):
        return await trio.run_process(
            [*PROGRAM, *arguments],
            env=environment(**env),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


def objects(output: bytes) -> list[Any]:
    """Parse lines of JSON."""
    return [json.loads(line) for line in output.splitlines()]


class Cli:
    """The running program. Made by `open_cli()`."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = b""
        """All output that has been read so far."""

    async def lines(self, count: int) -> list[bytes]:
        """Return all whole lines of output so far, once there are at least `count`."""
        assert self.process.stdout is not None
        with trio.fail_after(LIMIT):
            while self.output.count(b"\n") < count:
                some = await self.process.stdout.receive_some()
                assert some, f"it has ended: {self.output!r}"
                self.output += some
        return self.output.split(b"\n")[:-1]

    async def objects(self, count: int) -> list[Any]:
        """Return the same lines, parsed as JSON."""
        return [json.loads(line) for line in await self.lines(count)]

    async def until_error(self, text: bytes) -> None:
        """Wait until the program has printed this on stderr."""
        assert self.process.stderr is not None
        said = b""
        with trio.fail_after(LIMIT):
            while text not in said:
                some = await self.process.stderr.receive_some()
                assert some, f"it has ended: {said!r}"
                said += some

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, read the remaining output, and return the exit status."""
        self.process.send_signal(number)
        return await self.wait()

    async def wait(self) -> int:
        """Read the remaining output, and return the exit status."""
        assert self.process.stdout is not None
        with trio.fail_after(LIMIT):
            while some := await self.process.stdout.receive_some():
                self.output += some
            return await self.process.wait()

    async def errors(self) -> bytes:
        """Return what is left to read of stderr; call `wait()` first."""
        assert self.process.stderr is not None
        return b"".join([part async for part in self.process.stderr])


@asynccontextmanager
async def open_command(
    command: Sequence[str | bytes],
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: int | None = None,
) -> AsyncGenerator[Cli]:
    """Run any program for the length of the block."""
    process = await trio.lowlevel.open_process(
        command,
        cwd=cwd,
        env=environment(**env),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield Cli(process)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                await stream.aclose()


@asynccontextmanager
async def open_cli(*arguments: str | bytes, **env: str) -> AsyncGenerator[Cli]:
    """Run the command-line program for the length of the block."""
    async with open_command([*PROGRAM, *arguments], env) as cli:
        yield cli
