"""What every Python client shares: its arguments, the work on events, its report.

The work is the same for all: key, value and mod_revision of each event are read and
added up. `run.py` compares the sum with the right one, so nobody skips any of it.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
import tracemalloc
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from typing import Protocol

PREFIX = b"/config/"
"""What every watch watches."""
PREFIX_END = b"/config0"


class KeyValueLike(Protocol):
    """What is read of an event; a property or an attribute, as the client has it."""

    @property
    def key(self) -> bytes:
        """The key."""

    @property
    def value(self) -> bytes:
        """The value."""

    @property
    def mod_revision(self) -> int:
        """The revision of the event."""


class EventLike(Protocol):
    """An event of any client."""

    @property
    def kv(self) -> KeyValueLike:
        """What it changed."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a client is asked to do.

    Attributes:
        task: `replay`: count events; `latency`: also take their age, of which the
            value has to be the time of writing in nanoseconds; `resume`: open
            watches, then wait for an event on each; `memory`: open watches.
        mode: of this library: `responses`, or `events` for `Watch.events()`.
        endpoint: `host:port`.
        watches: how many to open.
        events: how many to wait for, over all watches.
        start_revision: 0 is from now.
    """

    task: str
    mode: str
    endpoint: str
    watches: int
    events: int
    start_revision: int

    @property
    def host(self) -> str:
        """Of the endpoint."""
        return self.endpoint.rpartition(":")[0]

    @property
    def port(self) -> int:
        """Of the endpoint."""
        return int(self.endpoint.rpartition(":")[2])


def read_job(*tasks: str) -> Job:
    """Read the arguments of a program that can do these tasks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=tasks, default=tasks[0])
    parser.add_argument("--mode", choices=["responses", "events"], default="responses")
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--watches", type=int, default=1)
    parser.add_argument("--events", type=int, default=0)
    parser.add_argument("--start-revision", type=int, default=0)
    return Job(**vars(parser.parse_args()))


class Meter:
    """Counts events, and the time from the first to the last of them."""

    def __init__(self, job: Job) -> None:
        """Expect the events of this job."""
        self._expected = job.events
        self._events = 0
        self._responses = 0
        self._checksum = 0
        self._ages: list[int] | None = [] if job.task == "latency" else None
        self._began = 0.0
        self._cpu_began = 0.0

    def add(self, events: Sequence[EventLike]) -> bool:
        """Take the events of one response; return whether the last is among them."""
        if not self._events:
            self._begin()
        if self._ages is not None:
            now = time.time_ns()
            self._ages += [now - int(event.kv.value) for event in events]
        total = 0
        for event in events:
            kv = event.kv
            total += len(kv.key) + len(kv.value) + kv.mod_revision
        self._checksum += total
        self._responses += 1
        self._events += len(events)
        return self._events >= self._expected

    async def add_each(self, events: AsyncIterable[EventLike]) -> None:
        """Take events one by one; return after the last."""
        ages = self._ages
        async for event in events:
            if not self._events:
                self._begin()
            if ages is not None:
                ages.append(time.time_ns() - int(event.kv.value))
            kv = event.kv
            self._checksum += len(kv.key) + len(kv.value) + kv.mod_revision
            self._events += 1
            if self._events == self._expected:
                break

    def _begin(self) -> None:
        self._began = time.perf_counter()
        self._cpu_began = time.process_time()

    def report(self) -> None:
        """Stop the clocks, and print the results."""
        cpu = time.process_time() - self._cpu_began
        wall = time.perf_counter() - self._began
        report(
            events=self._events,
            responses=self._responses,
            checksum=self._checksum,
            wall=wall,
            cpu=cpu,
            maxrss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            latencies=[age / 1e9 for age in self._ages or ()],
        )


def report(**results: float | list[float]) -> None:
    """Print results as one line of JSON."""
    print(json.dumps(results), flush=True)


def memory() -> int:
    """Return the bytes that this process uses.

    The resident size, or with PYTHONTRACEMALLOC=1 what Python's objects take.
    """
    gc.collect()
    if tracemalloc.is_tracing():
        return tracemalloc.get_traced_memory()[0]
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
