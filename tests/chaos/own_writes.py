"""Reads own writes: another client puts, a mirror runs `sync()`, and both are compared.

    python -m tests.chaos.own_writes --rounds 10000 [--cluster] [--binary PATH]

The puts go to the JSON gateway of a random member. With `--cluster` the mirror follows
the lagging one of three members: what its peers send arrives late, and it is stopped
now and then. The report shows the time of `sync()` beside that of a plain linearizable
Range over the same transport, from the same member and after the same kind of put.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import quantiles

import trio

from tests.support.partition import open_partitions
from tests.support.ranges import Reader, open_reader
from trio_etcd_watch import Mirror, open_watcher
from trio_etcd_watch._arguments import key_range
from trio_etcd_watch._snapshot import Range, count_request
from trio_etcd_watch.testing import Delete, Etcd, Put, open_etcd

KEYS = tuple(f"own/{number}" for number in range(8))

LAG = 0.005
"""Seconds by which messages of peers to the lagging member are delayed."""

STOP = 0.2
"""Seconds for which it is stopped, once in this many rounds:"""
ROUNDS_PER_STOP = 500

OUTSIDE = "other"
"""A key that is not in the mirror, so that no event reports it."""


@dataclass(slots=True)
class Outcome:
    """Seconds of each `sync()` and Range, and what was wrong."""

    rounds: int = 0
    syncs: list[float] = field(default_factory=list)
    quiet_syncs: list[float] = field(default_factory=list)
    """After writes that no event reports."""
    ranges: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    resyncs: int = 0

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds, {len(self.failures)} failures, "
            f"{self.resyncs} resyncs; sync() {_figures(self.syncs)}, after what is "
            f"outside {_figures(self.quiet_syncs)}, Range {_figures(self.ranges)}"
        )


def _figures(seconds: Sequence[float]) -> str:
    if len(seconds) < 2:
        return "too few"
    hundredths = quantiles(seconds, n=100)
    middle, high = hundredths[49] * 1_000, hundredths[98] * 1_000
    return f"p50 {middle:.2f} ms p99 {high:.2f} ms ({len(seconds)})"


class Rounds:
    """Writes through `members`, and checks whether the mirror shows it."""

    def __init__(
        self, members: Sequence[Etcd], mirror: Mirror, reader: Reader, seed: int
    ) -> None:
        self.outcome = Outcome()
        self._members = members
        self._mirror = mirror
        self._reader = reader
        self._rng = random.Random(seed)
        self._request = count_request(Range(*key_range("own/", prefix=True)))

    async def run(self, rounds: int) -> None:
        for number in range(rounds):
            await self._round(number)
            self.outcome.rounds += 1
        self.outcome.resyncs = self._mirror.statistics().resyncs

    async def _round(self, number: int) -> None:
        key = self._rng.choice(KEYS)
        match self._rng.random():
            case dice if dice < 0.6:
                await self._write(Put(key, str(number)))
                await self._sync(self.outcome.syncs)
                self._expect(number, key, str(number).encode())
            case dice if dice < 0.7:
                await self._write(Delete(key), Put(OUTSIDE, ""))
                await self._sync(self.outcome.syncs)
                self._expect(number, key, None)
            case dice if dice < 0.8:
                revision = await self._write(Put(OUTSIDE, str(number)))
                await self._sync(self.outcome.quiet_syncs)
                if self._mirror.revision < revision:
                    self._fail(number, f"is at {self._mirror.revision}, not {revision}")
            case _:
                await self._write(Put(key, str(number)))
                began = trio.current_time()
                await self._reader.call(self._request)
                self.outcome.ranges.append(trio.current_time() - began)

    async def _write(self, *operations: Put | Delete) -> int:
        return await self._rng.choice(self._members).txn(*operations)

    async def _sync(self, seconds: list[float]) -> None:
        began = trio.current_time()
        await self._mirror.sync()
        seconds.append(trio.current_time() - began)

    def _expect(self, number: int, key: str, value: bytes | None) -> None:
        found = self._mirror.get(key)
        if (found and found.value) != value:
            self._fail(number, f"{key} is {found}, not {value!r}")

    def _fail(self, number: int, what: str) -> None:
        self.outcome.failures.append(f"round {number}: {what}")


@asynccontextmanager
async def _open(endpoint: str) -> AsyncGenerator[tuple[Mirror, Reader]]:
    async with (
        open_reader(endpoint) as reader,
        open_watcher(endpoint) as watcher,
        watcher.mirror("own/", prefix=True) as mirror,
    ):
        yield mirror, reader


async def run_single(rounds: int, binary: str | None, seed: int = 1) -> Outcome:
    """Test with one server."""
    async with (
        open_etcd(binary=binary) as etcd,
        _open(etcd.endpoint) as (mirror, reader),
    ):
        run = Rounds([etcd], mirror, reader, seed)
        await run.run(rounds)
        return run.outcome


async def run_cluster(rounds: int, binary: str | None, seed: int = 1) -> Outcome:
    """Test with three members, where the mirror follows the one that lags."""
    async with open_partitions(binary) as partitions:
        late = await _follower(partitions.members)
        partitions.delay(late, LAG)
        others = [member for member in partitions.members if member is not late]
        async with _open(late.endpoint) as (mirror, reader):
            # A writer at a stopped member would wait for it, which tests nothing.
            run = Rounds(others, mirror, reader, seed)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_now_and_then, late, run)
                await run.run(rounds)
                nursery.cancel_scope.cancel(reason="done")
            return run.outcome


async def _follower(members: Sequence[Etcd]) -> Etcd:
    for member in members:
        status = await member.request("/v3/maintenance/status")
        if status["leader"] != status["header"]["member_id"]:
            return member
    raise AssertionError("nobody follows")


async def _stop_now_and_then(member: Etcd, run: Rounds) -> None:
    stops = 0
    while True:
        await trio.sleep(0.01)
        if run.outcome.rounds > (stops + 0.5) * ROUNDS_PER_STOP:
            stops += 1
            await member.pause()
            await trio.sleep(STOP)
            await member.resume()


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos.own_writes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cluster", action="store_true", help="three members")
    parser.add_argument("--binary", help="the etcd to run")
    options = parser.parse_args()
    run = run_cluster if options.cluster else run_single
    outcome = trio.run(run, options.rounds, options.binary, options.seed)
    for failure in outcome.failures[:20]:
        sys.stdout.write(f"{failure}\n")
    sys.stdout.write(f"{outcome}\n")
    return bool(outcome.failures)


if __name__ == "__main__":
    sys.exit(main())
