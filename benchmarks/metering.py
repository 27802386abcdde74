"""Arguments, the work on events and the report, which all Python clients share.

The work is the same for all: key, value and mod_revision of each event are read and
added up. `scenarios.py` checks the sum, so that no client can skip part of the work.
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
"""The prefix that every watch watches."""
PREFIX_END = b"/config0"


class KeyValueLike(Protocol):
    """The fields that are read of an event, as properties or attributes."""

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
        """The key and value after the event."""


@dataclass(frozen=True, slots=True)
class Job:
    """The task of a client.

    Attributes:
        task: `replay`: count events; `latency`: also record their age, for which the
            value has to be the time of writing in nanoseconds; `resume`: open
            watches, then wait for an event on each; `memory`: open watches.
        mode: How this library iterates: `responses`, or `events` for
            `Watch.events()`.
        endpoint: The server, as `host:port`.
        watches: How many watches to open.
        events: How many events to wait for, in total over all watches.
        start_revision: Where watches start; 0 is from now.
    """

    task: str
    mode: str
    endpoint: str
    watches: int
    events: int
    start_revision: int

    @property
    def host(self) -> str:
        """The host of the endpoint."""
        return self.endpoint.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The port of the endpoint."""
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
        """Count the events of one response; return whether all have arrived."""
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
        """Count events one by one; return after the last."""
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

    This is the resident size, or with PYTHONTRACEMALLOC=1 the size of Python's objects.
    """
    gc.collect()
    if tracemalloc.is_tracing():
        return tracemalloc.get_traced_memory()[0]
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
