"""Run clients and servers, each in a process of its own, in rounds."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import trio

from benchmarks.report import Comparison, Metric, show

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent

LIMIT: Final = 300.0
"""Seconds after which a client counts as stuck."""

Line: TypeAlias = Mapping[str, Any]
"""A line of JSON that a client has printed."""
Clients: TypeAlias = Mapping[str, Sequence[str]]
"""The command of each client, by its name."""

OURS: Final = "trio-etcd-watch"
OUR_EVENTS: Final = "trio-etcd-watch, events()"
GO: Final = "Go clientv3"
AETCD: Final = "aetcd"
GRPC: Final = "grpc.aio, bare"
PURERPC: Final = "purerpc, bare"
TRIO: Final = "trio, bare"
"""The names of the clients."""

SLOW: Final = (AETCD, GRPC, PURERPC)
"""The clients that get fewer events."""


def python(module: str, *args: str) -> list[str]:
    """Return the command that runs a program of this folder."""
    return [sys.executable, "-m", f"benchmarks.{module}", *args]


@contextmanager
def built_clients() -> Iterator[Clients]:
    """Provide the clients that can run here, and print which ones cannot."""
    clients = {
        OURS: python("client_ours"),
        OUR_EVENTS: python("client_ours", "--mode", "events"),
        AETCD: python("client_aetcd"),
        GRPC: python("client_grpc_aio"),
        TRIO: python("client_trio"),
    }
    if importlib.util.find_spec("purerpc"):
        clients[PURERPC] = python("client_purerpc")
    else:
        print("No row of purerpc, which is not installed.", file=sys.stderr)
    if not shutil.which("go"):
        print("No rows of Go, which is not installed.", file=sys.stderr)
        yield clients
        return
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder, "client"))
        subprocess.run(
            ["go", "build", "-o", program, "."],
            cwd=HERE / "go",
            env={**os.environ, "GOWORK": "off"},
            check=True,
        )
        yield {**clients, GO: [program]}


@asynccontextmanager
async def started(command: Sequence[str]) -> AsyncIterator[trio.Process]:
    """Run a program during the block, with pipes as its input and output."""
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with process.stdin, process.stdout:
        try:
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def read_line(process: trio.Process) -> str:
    """Wait for the next line of a program that prints one line at a time.

    Raises:
        RuntimeError: The program has ended.
    """
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        if not (chunk := await process.stdout.receive_some()):
            raise RuntimeError(f"{process.args!r} has ended")
        line += chunk
    return line.decode().strip()


async def run_client(command: Sequence[str], **options: str | int) -> Line:
    """Run a client until it ends, and return its report."""
    args = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    with trio.fail_after(LIMIT):
        done = await trio.run_process([*command, *args], capture_stdout=True, cwd=ROOT)
    report: Line = json.loads(done.stdout)
    return report


@asynccontextmanager
async def serving(command: Sequence[str]) -> AsyncIterator[tuple[trio.Process, str]]:
    """Run a server that prints its endpoint once it serves."""
    async with started(command) as process:
        yield process, await read_line(process)


@dataclass(frozen=True, slots=True)
class Bench:
    """The clients, and how long to run them.

    Attributes:
        clients: The clients that can run.
        rounds: How often each client runs in a scenario.
        scale: A factor for the number of events.
    """

    clients: Clients
    rounds: int
    scale: float

    async def compare(
        self,
        title: str,
        metrics: Sequence[Metric],
        run: Callable[[str, Sequence[str]], Awaitable[Mapping[str, float]]],
        names: Sequence[str],
    ) -> Comparison:
        """Run clients in rounds; `run` gets a name and a command, returns values."""
        comparison = Comparison(title, metrics, baseline=OURS)
        for _ in range(self.rounds):
            for name in names:
                if name in self.clients:
                    comparison.add(name, await run(name, self.clients[name]))
        print(show(comparison), flush=True)
        return comparison

    def events(self, name: str, ours: int, slow: int) -> int:
        """Return how many events a client gets; the slow ones get fewer."""
        count = slow if name in SLOW else ours
        return max(1000, int(count * self.scale) // 1000 * 1000)
