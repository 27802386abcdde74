"""The run that is judged: writers, watches, and faults of the cluster.

Each task records in a `ClientReport` what it did and got, and judges nothing.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.chaos.faults import STRIKES
from tests.chaos.history import ANSWER_LIMIT
from tests.chaos.reports import (
    ClientReport,
    Recorder,
    bookmark,
    watch_operation,
    watch_response,
)
from tests.support.proxy import Proxy
from trio_etcd_watch import CompactedError, Watch, Watcher
from trio_etcd_watch.testing import Delete, Etcd, EtcdRequestError, Put

KEYS = tuple(f"/k/{number:02}" for number in range(10))

WATCHED = (
    ("/k/", True),
    ("/k/0", True),
    ("/k/00", False),
    ("/k/05", False),
    ("", True),
)
"""Keys, and whether they are prefixes; the validator knows no other ranges."""

WRITERS = 3
READERS = 12
LONGEST_FAULT = 4.0
LIMIT = 120.0
"""Seconds in which a watch must catch up once the faults are over."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run.

    Attributes:
        size: how many members there are.
        quiet: cause no faults, and do nothing that an old server handles wrongly.
    """

    seed: int = 7
    seconds: float = 60.0
    binary: str | None = None
    size: int = 3
    quiet: bool = False


@dataclass(slots=True)
class Outcome:
    """What a run did, and what only this program knows: which watches caught up."""

    revision: int = 1
    events: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    hanging: list[str] = field(default_factory=list)


class Trial:
    """The writers, watches and faults of a run; `clients` is what they recorded."""

    def __init__(self, options: Options, members: Sequence[Etcd]) -> None:
        self.outcome = Outcome()
        self.clients: list[ClientReport] = []
        self._options = options
        self._members = members
        self._began = time.monotonic_ns() - 1
        self._stream_ids = itertools.count(1)
        self._values = itertools.count()
        self._compacted = 0
        self._peace = trio.Event()
        self._longest_fault = min(LONGEST_FAULT, options.seconds / 3)

    async def run(self, proxies: Sequence[Proxy], watchers: Sequence[Watcher]) -> None:
        first = self._recorder()
        # This read proves to the validator that the report covers the cluster's whole
        # life.
        await first.read(self._members[0], KEYS[0])
        async with trio.open_nursery() as watching:
            readers = [
                Reader(self, self._rng(f"reader {number}"), watchers)
                for number in range(READERS)
            ]
            for reader in readers:
                watching.start_soon(reader.run)
            if not self._options.quiet:
                watching.start_soon(self._request_progress, watchers)
            async with trio.open_nursery() as working:
                for number in range(WRITERS):
                    working.start_soon(self._write, self._rng(f"writer {number}"))
                if not self._options.quiet:
                    working.start_soon(self._compact, self._rng("compaction"))
                    self._start_harm(working, proxies)
                await trio.sleep(self._options.seconds)
                self._peace.set()
            await self._finish(first, readers)
            watching.cancel_scope.cancel(reason="the run is over")

    @property
    def is_quiet(self) -> bool:
        return self._options.quiet

    @property
    def compacted(self) -> int:
        """The highest revision that a compaction was requested for."""
        return self._compacted

    def _rng(self, who: str) -> random.Random:
        return random.Random(f"{self._options.seed} {who}")

    def _recorder(self) -> Recorder:
        report = ClientReport()
        self.clients.append(report)
        return Recorder(report, self._stream_ids, self._began)

    async def _finish(self, recorder: Recorder, readers: Sequence[Reader]) -> None:
        """Write every key once more, and wait until each watch has seen that."""
        last = 0
        with trio.fail_after(LIMIT):
            while not last:
                puts = [self._put(key) for key in KEYS]
                last = await recorder.write(self._members[0], puts)
        self.outcome.revision = last
        for reader in readers:
            reader.stay()
        with trio.move_on_after(LIMIT):
            while any(each.next_revision <= last for each in readers):  # noqa: ASYNC110  # a bookmark sets no Event
                await trio.sleep(0.05)
        for reader in readers:
            if reader.next_revision <= last:
                self.outcome.hanging.append(
                    f"{reader} is at {reader.next_revision}, not past {last}"
                )

    # Writers

    def _put(self, key: str, size: int = 0) -> Put:
        return Put(key, f"{next(self._values)} ".ljust(size, "."))

    def _draw(self, rng: random.Random) -> list[Put | Delete]:
        """Draw a write with a unique put, which shows in the log if it was done."""
        keys = rng.sample(KEYS, rng.choice([1, 1, 2, 3, 6, len(KEYS)]))
        size = rng.choice([0, 0, 0, 64, 2_048])
        rest = [
            self._put(key) if rng.random() < 0.5 else Delete(key) for key in keys[1:]
        ]
        return [self._put(keys[0], size), *rest]

    async def _write(self, rng: random.Random) -> None:
        recorder = self._recorder()
        members = list(self._members)
        while not self._peace.is_set():
            match rng.random():
                case dice if dice < 0.8:
                    revision = await recorder.write(members[0], self._draw(rng))
                    self.outcome.revision = max(self.outcome.revision, revision)
                    if not revision:
                        rng.shuffle(members)
                case dice if dice < 0.9:
                    await recorder.read(members[0], rng.choice(KEYS))
                case _:
                    newest = self.outcome.revision
                    revision = rng.randint(max(self._compacted, newest - 50), newest)
                    await recorder.read(members[0], KEYS[0], KEYS[-1], revision)
            await self._is_peace_within(rng.expovariate(1 / 0.05))

    async def _compact(self, rng: random.Random) -> None:
        recorder = self._recorder()
        mean = self._options.seconds / 8
        while not await self._is_peace_within(rng.expovariate(1 / mean)):
            revision = self.outcome.revision - rng.choice([0, 10, 100, 1_000])
            if revision > self._compacted:
                # Recorded first, because it may be done even if no answer comes.
                self._compacted = revision
                await recorder.compact(rng.choice(self._members), revision)
                self.outcome.faults["compaction"] += 1

    # Harm

    async def _is_peace_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self._peace.wait()
        return self._peace.is_set()

    def _start_harm(self, nursery: trio.Nursery, proxies: Sequence[Proxy]) -> None:
        for number, proxy in enumerate(proxies):
            rng = self._rng(f"network {number}")
            nursery.start_soon(self._harm_network, proxy, rng)
        nursery.start_soon(self._harm_servers, self._rng("servers"))
        nursery.start_soon(self._move_leaders, self._rng("leaders"))

    async def _harm_network(self, proxy: Proxy, rng: random.Random) -> None:
        while not await self._is_peace_within(rng.expovariate(1 / 2.0)):
            (strike,) = rng.choices(list(STRIKES), list(STRIKES.values()))
            self.outcome.faults[strike.__name__] += 1
            await strike(proxy, rng, rng.uniform(0.1, self._longest_fault))

    async def _harm_servers(self, rng: random.Random) -> None:
        """Kill and pause one member after the other, so that a quorum remains."""
        for member in itertools.cycle(self._members):
            if await self._is_peace_within(rng.uniform(0.2, 2 * self._longest_fault)):
                return
            if rng.random() < 0.5:
                self.outcome.faults["kill -9"] += 1
                await member.kill()
                await trio.sleep(rng.uniform(0.0, 1.0))
                await member.start()
            else:
                self.outcome.faults["SIGSTOP"] += 1
                await member.pause()
                await trio.sleep(rng.uniform(0.1, self._longest_fault))
                await member.resume()
                await member.wait_serving()

    async def _move_leaders(self, rng: random.Random) -> None:
        while not await self._is_peace_within(rng.expovariate(1 / 5.0)):
            # The member that is asked, or the leader, may be down.
            with suppress(OSError, EtcdRequestError), trio.move_on_after(ANSWER_LIMIT):
                self.outcome.faults["leader moved"] += await self._move_leader(rng)

    async def _move_leader(self, rng: random.Random) -> bool:
        ids = {}
        leader = None
        for member in self._members:
            status = await member.request("/v3/maintenance/status")
            ids[member] = status["header"]["member_id"]
            leader = status.get("leader", leader)
        (old,) = (each for each in ids if ids[each] == leader)
        target = rng.choice([each for each in ids if each is not old])
        path = "/v3/maintenance/transfer-leadership"
        await old.request(path, {"targetID": ids[target]})
        return True

    async def _request_progress(self, watchers: Sequence[Watcher]) -> None:
        rng = self._rng("progress")
        while True:
            await trio.sleep(rng.uniform(0.0, 0.5))
            await rng.choice(watchers).request_progress()


class Reader:
    """A user of watches, who closes each and opens the next where that one stopped."""

    def __init__(
        self, trial: Trial, rng: random.Random, watchers: Sequence[Watcher]
    ) -> None:
        self._trial = trial
        self._rng = rng
        self._watchers = watchers
        self._key, self._prefix = rng.choice(WATCHED)
        self._prev_kv = rng.random() < 0.5
        self._progress_notify = rng.random() < 0.5
        self._report = ClientReport()
        trial.clients.append(self._report)
        self._watch: Watch | None = None
        self._life = trio.CancelScope()
        self._stays = False
        self._asks = not trial.is_quiet

    def __str__(self) -> str:
        return (
            f"the watch of {self._key!r} ({self._watch and self._watch.statistics()})"
        )

    @property
    def next_revision(self) -> int:
        return 0 if self._watch is None else self._watch.next_revision

    def stay(self) -> None:
        """Stay with the present watch, and read without pauses."""
        self._stays = True
        self._life.deadline = math.inf

    async def run(self) -> None:
        start = 0
        while True:
            start = await self._read_session(start)
            if self._rng.random() < 0.3:
                start = self._choose_start()

    def _choose_start(self) -> int:
        """Return a start from now, from long ago, or from some time ahead."""
        newest = self._trial.outcome.revision
        oldest = max(self._trial.compacted, 1)
        return self._rng.choice(
            [0, oldest, self._rng.randint(oldest, max(newest, oldest)), newest + 1]
        )

    async def _read_session(self, start: int) -> int:
        """Watch for a while, and return where to continue."""
        operation = watch_operation(
            self._key,
            start,
            prefix=self._prefix,
            prev_kv=self._prev_kv,
            progress_notify=self._progress_notify,
        )
        responses: list[dict[str, Any]] = operation["Responses"]
        self._report.watches.append(operation)
        watcher = self._rng.choice(self._watchers)
        if self._asks and self._rng.random() < 0.5:
            # The answer may come between the creation and older events.
            await watcher.request_progress()
        opening = watcher.watch(
            self._key,
            prefix=self._prefix,
            start_revision=start,
            max_buffered_events=self._rng.choice([10_000, 100, 3]),
            prev_kv=self._prev_kv,
            progress_notify=self._progress_notify,
        )
        lifetime = math.inf if self._stays else self._rng.expovariate(1 / 8.0)
        watch = None
        try:
            with trio.move_on_after(lifetime) as self._life:
                async with opening as watch:
                    self._watch = watch
                    await self._read(watch, responses)
        except CompactedError as exc:
            return exc.compact_revision
        finally:
            self._watch = None
            if watch is not None:
                self._note_bookmark(responses, watch.next_revision)
        return start if watch is None else watch.next_revision

    def _note_bookmark(
        self, responses: list[dict[str, Any]], next_revision: int
    ) -> None:
        # It may be below an answer to request_progress(), which covers more.
        covered = (each["Revision"] for each in responses if each["IsProgressNotify"])
        if next_revision > max(covered, default=0):
            responses.append(bookmark(next_revision))

    async def _read(self, watch: Watch, responses: list[dict[str, Any]]) -> None:
        dawdle = self._rng.choice([0.0, 0.0, 0.02])
        async for response in watch:
            responses.append(watch_response(response))
            self._trial.outcome.events += len(response.events)
            if not self._stays:
                await trio.sleep(self._rng.uniform(0.0, dawdle))
