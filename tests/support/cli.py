"""The program on the command line: run to its end, or as long as a test needs it."""

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
    """The environment without what etcdctl's variables say there."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ETCDCTL_")}
    return kept | {"PYTHONPATH": str(ROOT)} | more


async def run_cli(
    *arguments: str | bytes, **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end."""
    with trio.fail_after(LIMIT):
        return await trio.run_process(
            [*PROGRAM, *arguments],
            env=environment(**env),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


def objects(output: bytes) -> list[Any]:
    """Lines of JSON."""
    return [json.loads(line) for line in output.splitlines()]


class Cli:
    """The program, while it runs. Made by `open_cli()`."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = b""
        """All that has been read of it."""

    async def lines(self, count: int) -> list[bytes]:
        """All whole lines so far, which are so many at least."""
        assert self.process.stdout is not None
        with trio.fail_after(LIMIT):
            while self.output.count(b"\n") < count:
                some = await self.process.stdout.receive_some()
                assert some, f"it has ended: {self.output!r}"
                self.output += some
        return self.output.split(b"\n")[:-1]

    async def objects(self, count: int) -> list[Any]:
        """The same, of JSON."""
        return [json.loads(line) for line in await self.lines(count)]

    async def until_error(self, text: bytes) -> None:
        """Wait until it has said this on stderr."""
        assert self.process.stderr is not None
        said = b""
        with trio.fail_after(LIMIT):
            while text not in said:
                some = await self.process.stderr.receive_some()
                assert some, f"it has ended: {said!r}"
                said += some

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal, and return how it ended; what it still said is read."""
        self.process.send_signal(number)
        return await self.wait()

    async def wait(self) -> int:
        """Return how it ended; what it still said is read."""
        assert self.process.stdout is not None
        with trio.fail_after(LIMIT):
            while some := await self.process.stdout.receive_some():
                self.output += some
            return await self.process.wait()

    async def errors(self) -> bytes:
        """What it said on stderr; wait for its end first."""
        assert self.process.stderr is not None
        return b"".join([part async for part in self.process.stderr])


@asynccontextmanager
async def open_command(
    command: Sequence[str | bytes],
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: int | None = None,
) -> AsyncGenerator[Cli]:
    """Run any program while the block lasts."""
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
    """Run it while the block lasts."""
    async with open_command([*PROGRAM, *arguments], env) as cli:
        yield cli
