"""Watches of every kind on real servers, while the network and the servers fail.

    python -m tests.chaos --seconds 600 --seed 7 [--cluster] [--storm] [--binary PATH]

Writers write straight to etcd; watches connect through a proxy of each member. Then the
faults stop, every watch must catch up with the last write, and each response that a
watch got is compared with the history from etcd's JSON gateway, which is read without
the package's code (see `robustness`).

The seed determines who does what, but not how fast the machine is: the same seed gives
the same kinds of watches and faults, in another interleaving each time. With odd seeds
the history is compacted, except in a storm.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

import trio

from tests.chaos.harm import WRITERS, Harm
from tests.chaos.history import ANSWER_LIMIT, Truth
from tests.chaos.leftovers import Leftovers
from tests.chaos.mirrors import Mirrors
from tests.chaos.report import Options, Report
from tests.chaos.users import Churner, Reader, Sleeper
from tests.chaos.writes import (
    KEYS,
    RANGES,
    as_write,
    breadth,
    draw_operations,
    transact,
)
from tests.support.helpers import split
from tests.support.proxy import Proxy, open_proxy
from tests.support.robustness import (
    History,
    Record,
    Write,
    check_history,
    is_silently_compacted,
    violations,
)
from trio_etcd_watch import (
    Channel,
    Watcher,
    open_watcher,
)
from trio_etcd_watch.testing import (
    Delete,
    Etcd,
    EtcdRequestError,
    Put,
    open_cluster,
)

LIMIT = 180.0
"""Seconds that anything may take after the faults; then it counts as hanging."""

SERVER_ARGS = (
    "--watch-progress-notify-interval=300ms",
    # Above this and 512 KiB a response is split, as most long histories then are.
    "--max-request-bytes=131072",
)

KEEPALIVE = ((1.0, 1.0), (1.0, 1.0), (0.4, 2.0))
"""Keepalive time and timeout of the watchers; a long run has one with the defaults,
too."""

LONG = 60.0
"""From this many seconds on, a run is long."""

BEFORE = 1_100
"""Revisions before the first watch: etcd replays at most 1,000 of them at once."""

MISSING = ("resumable: ", "reliable: ")
"""The checks that find missing events."""

READERS = 24
CHURNERS = 6


async def run(options: Options) -> Report:
    """Run and judge. A bug that shows as an exception is raised."""
    # The client draws the order of endpoints and the delays between attempts.
    random.seed(options.seed)
    size = 3 if options.cluster else 1
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(
            open_cluster(size, binary=options.binary, args=SERVER_ARGS)
        )
        proxies = [
            await stack.enter_async_context(open_proxy(*split(each.endpoint)))
            for each in cluster.members
        ]
        endpoints = [each.endpoint for each in proxies]
        watchers = [
            await stack.enter_async_context(
                open_watcher(
                    Channel(
                        *endpoints,
                        connect_timeout=2.0,
                        keepalive_time=time,
                        keepalive_timeout=timeout,
                    )
                )
            )
            for time, timeout in KEEPALIVE
        ]
        if options.seconds >= LONG:
            watchers.append(await stack.enter_async_context(open_watcher(endpoints)))
        chaos = Chaos(options, cluster.members, proxies, watchers)
        await chaos.run()
    return chaos.report


class Chaos:
    """One run: its writers, watches and faults, and the report."""

    def __init__(
        self,
        options: Options,
        members: Sequence[Etcd],
        proxies: Sequence[Proxy],
        watchers: Sequence[Watcher],
    ) -> None:
        self.options = options
        self.members = members
        self.proxies = proxies
        self.watchers = watchers
        self.report = Report(options)
        self.records: list[Record] = []
        self.finale = trio.Event()
        """Is set when every watch is to stay open and to be read without pauses."""
        self.truth = Truth()
        self.newest = 1
        """The newest acknowledged revision."""
        self.writing = True
        """False once the writers are to stop."""
        self.harm = Harm(self)
        self._writes: list[Write] = []
        self._readers = self._make_readers()
        self._mirrors = Mirrors(self)

    def rng(self, who: str) -> random.Random:
        """Return the randomness of one task, which does not depend on other tasks."""
        return random.Random(f"{self.options.seed} {who}")

    def violated(self, text: str) -> None:
        self.report.violations.append(text)

    async def run(self) -> None:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for i in range(WRITERS):
                nursery.start_soon(self._write_before, self.rng(f"before {i}"))
        async with trio.open_nursery() as nursery:
            for reader in self._readers:
                nursery.start_soon(reader.run)
            nursery.start_soon(self._mirrors.run)
            nursery.start_soon(self._request_progress)
            await self._strike()
            await self._write_last()
            history = await self._read_history()
            self.finale.set()
            await self._wait_caught_up(history)
            await self._mirrors.finish(history, LIMIT)
            await Leftovers(self, LIMIT).check(history)
            nursery.cancel_scope.cancel(reason="the run is over")
        self._judge(history)
        self._mirrors.judge(history)
        self.report.seconds = trio.current_time() - began

    # Phases

    async def _strike(self) -> None:
        """Write and cause faults as long as requested, and repair what is broken."""
        async with trio.open_nursery() as writing:
            for i in range(WRITERS):
                writing.start_soon(self._write, self.rng(f"writer {i}"))
            if self.compacts:
                writing.start_soon(self._compact, self.rng("compaction"))
            writing.start_soon(self._mirrors.write)
            async with trio.open_nursery() as harming:
                self.harm.start(harming)
                await self._wait_enough()
                self.harm.peace.set()
            self.harm.strike_last()
            self.writing = False

    async def _wait_enough(self) -> None:
        await trio.sleep(self.options.seconds)
        with trio.move_on_after(max(LIMIT, self.options.storm)):
            for reader in self._readers:
                await reader.done.wait()
            return
        awake = sum(not reader.done.is_set() for reader in self._readers)
        self.violated(f"storm: {awake} watches were parked too seldom")

    async def _write_last(self) -> None:
        """Write something for each watch, after the last fault."""
        with trio.fail_after(LIMIT):
            for operations in (
                [Put(key, b"last") for key in KEYS],
                [Delete(key) for key in KEYS],
                [Put(key, b"very last") for key in KEYS],
            ):
                while await self.attempt(self.members[0], operations) is None:
                    pass

    async def _read_history(self) -> History:
        with trio.fail_after(LIMIT):
            while True:
                with suppress(OSError):
                    await self.truth.read(self.members[0])
                    break
        for other in self.members[1:]:
            if await other.revision() != await self.members[0].revision():
                self.violated("history: the members have different revisions")
        return History(self.truth.changes, self.truth.compacted)

    async def _wait_caught_up(self, history: History) -> None:
        with trio.move_on_after(LIMIT):
            while True:
                if all(reader.has_caught_up(history) for reader in self._readers):
                    return
                await trio.sleep(0.05)
        for reader in self._readers:
            if not reader.has_caught_up(history):
                self.violated(f"liveness: {reader} has not caught up: it hangs")
        for watcher in self.watchers:
            self.violated(f"liveness: {watcher.statistics()}")

    def _judge(self, history: History) -> None:
        report = self.report
        report.violations += check_history(history, self._writes)
        for record in self.records:
            wrong = violations(record, history)
            if self.compacts_silently and is_silently_compacted(record, history):
                missing = [each for each in wrong if each.startswith(MISSING)]
                report.silent += missing
                wrong = [each for each in wrong if each not in missing]
            report.violations += wrong
            report.sessions += len(record.sessions)
            for session in record.sessions:
                report.delivered += sum(1 for _ in session.events())
                report.compacted += session.compacted > 0
        report.written = len(history.events)
        report.reconnects = sum(each.statistics().reconnects for each in self.watchers)

    # Writers

    async def _write_before(self, rng: random.Random) -> None:
        for number in range(BEFORE // WRITERS):
            await self.attempt(self.members[0], draw_operations(rng, number))

    async def _write(self, rng: random.Random) -> None:
        members = list(self.members)
        numbers = itertools.count()
        while self.writing:
            operations = draw_operations(rng, next(numbers))
            async with self.harm.may_write:
                revision = await self.attempt(members[0], operations)
            if revision is None:
                rng.shuffle(members)
                await trio.sleep(0.05)
            if rng.random() < 0.9:
                # In a storm each event goes to most of the watches.
                pace = 0.03 + self.options.storm / 5_000
                await trio.sleep(rng.expovariate(1 / pace))

    async def attempt(
        self, member: Etcd, operations: Sequence[Put | Delete]
    ) -> int | None:
        """Write in one transaction, and return its revision; None if no answer came."""
        revision = None
        with trio.move_on_after(ANSWER_LIMIT):
            with suppress(OSError, EtcdRequestError):
                revision = await transact(member, operations)
        self._writes.append(as_write(operations, revision))
        self.newest = max(self.newest, revision or 0)
        return revision

    @property
    def compacts(self) -> bool:
        if self.options.compact is not None:
            return self.options.compact
        # In a storm etcd #17529 would occur all the time, because stream queues are
        # full.
        return bool(self.options.seed % 2) and not self.options.storm

    async def _compact(self, rng: random.Random) -> None:
        """Compact, up to the newest revision or some way behind it."""
        mean = 1 + min(self.options.seconds, 100.0) / 20
        while not await self.harm.is_peace_within(rng.expovariate(1 / mean)):
            member = rng.choice(self.members)
            with suppress(OSError, EtcdRequestError):
                newest = await self.truth.read(member)
                revision = self.truth.last_without_delete(
                    newest - rng.choice([0, 10, 100, 1_000])
                )
                if revision > self.truth.compacted:
                    # Recorded first, because it may be done even if no answer comes.
                    self.truth.compacted = revision
                    with trio.move_on_after(ANSWER_LIMIT):
                        await member.compact(revision, physical=rng.random() < 0.5)
                        self.report.faults["compaction"] += 1

    @property
    def compacts_silently(self) -> bool:
        """Whether the servers may not tell a watch that it lost events: etcd #17529."""
        return all(
            (3, 4, 0) <= member.version < (3, 4, 31)
            or (3, 5, 0) <= member.version < (3, 5, 13)
            for member in self.members
        )

    # Watches

    def _make_readers(self) -> list[Reader]:
        if self.options.storm:
            # Ranges of many keys each, so that every write fills their buffers.
            wide = [where for where in RANGES if breadth(where) > 1]
            return [
                Sleeper(self, f"sleeper {i}", wide[i % len(wide)])
                for i in range(self.options.storm)
            ]
        watches = [
            Reader(self, f"watch {i}", RANGES[i % len(RANGES)]) for i in range(READERS)
        ]
        churn = [
            Churner(self, f"churn {i}", RANGES[i % len(RANGES)])
            for i in range(CHURNERS)
        ]
        return [*watches, *churn]

    async def _request_progress(self) -> None:
        rng = self.rng("progress")
        while not self.finale.is_set():
            await trio.sleep(rng.uniform(0.0, 2.0))
            await rng.choice(self.watchers).request_progress()
