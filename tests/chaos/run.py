"""Watches of every kind on real servers, while the network and the servers fail.

    python -m tests.chaos --seconds 600 --seed 7 [--cluster] [--storm] [--binary PATH]

Writers write straight to etcd; watches reach it through a proxy of each member. Then
the faults stop, every watch must catch up with the last write, and each response that
a watch got is held against the history that etcd gives out over its JSON gateway,
which none of our code has touched (`robustness` says how).

The seed sets who does what, but not how fast the machine is: the same seed gives the
same kinds of watches and faults, in another interleaving each time. Odd seeds compact,
except in a storm.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import random
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

import trio

from tests.chaos.faults import STRIKES
from tests.chaos.history import ANSWER_LIMIT, Truth
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
"""Seconds that anything may take once the faults are over; past it, it hangs."""

SERVER_ARGS = (
    "--watch-progress-notify-interval=300ms",
    # A response is split above this and 512 KiB, so that most long histories are.
    "--max-request-bytes=131072",
)

KEEPALIVE = ((1.0, 1.0), (1.0, 1.0), (0.4, 2.0))
"""Time and timeout of the watchers; a long run has one with the defaults, too."""

LONG = 60.0
"""From so many seconds on, a run is long."""

BEFORE = 1_100
"""Revisions before the first watch: etcd replays at most 1,000 of them at once."""

LONGEST_FAULT = 4.0
"""In seconds, of a run that is long enough for that."""

MISSING = ("resumable: ", "reliable: ")
"""The checks that find missing events."""

READERS = 24
CHURNERS = 6
WRITERS = 3


@dataclass(frozen=True, slots=True)
class Options:
    """What to run.

    Attributes:
        seconds: how long faults strike.
        storm: if not 0, so many watches that are parked and woken, instead of a few
            of every kind.
        parks: how often each of these is parked.
        compact: whether history is compacted now and then; None leaves it to the seed.
    """

    seed: int
    seconds: float
    cluster: bool = False
    binary: str | os.PathLike[str] | None = None
    storm: int = 0
    parks: int = 10
    compact: bool | None = None


@dataclass(slots=True)
class Report:
    """What came of it."""

    options: Options
    seconds: float = 0.0
    written: int = 0
    delivered: int = 0
    sessions: int = 0
    parked: int = 0
    compacted: int = 0
    reconnects: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    """What would be a violation, were the server not known for it: etcd #17529."""

    def __str__(self) -> str:
        options = self.options
        faults = ", ".join(f"{kind} {n}" for kind, n in sorted(self.faults.items()))
        return (
            f"seed {options.seed}, {'cluster' if options.cluster else 'one server'}: "
            f"{self.seconds:.0f} s, {self.written} events written, "
            f"{self.delivered} delivered in {self.sessions} sessions, "
            f"parked {self.parked} times, {self.compacted} ends by compaction, "
            f"{self.faults.total()} faults ({faults}), {self.reconnects} reconnects, "
            f"{len(self.violations)} violations, {len(self.silent)} of etcd #17529"
        )


async def run(options: Options) -> Report:
    """Run it, and judge it. A bug that shows as an exception comes out."""
    # For the client's own: the order of endpoints, and the waits between tries.
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
    """One run: who writes, who watches, who does harm, and what came of it."""

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
        """Set when every watch is to stay, and to hurry."""
        self.truth = Truth()
        self.newest = 1
        """The newest revision that was acknowledged."""
        self._peace = trio.Event()
        """Set when no more harm is to be done."""
        self._writing = True
        self._may_write = trio.Semaphore(WRITERS)
        self._writes: list[Write] = []
        self._longest_fault = min(LONGEST_FAULT, options.seconds / 3)
        # A thousand watches that lag have much to fetch before the next fault.
        self._mercy = 1 + options.storm / 200
        self._readers = self._make_readers()

    def rng(self, who: str) -> random.Random:
        """Randomness of one task, which does not depend on what others draw."""
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
            nursery.start_soon(self._request_progress)
            await self._strike()
            await self._write_last()
            history = await self._read_history()
            self.finale.set()
            await self._wait_caught_up(history)
            await self._check_nothing_left_behind(history)
            nursery.cancel_scope.cancel(reason="the run is over")
        self._judge(history)
        self.report.seconds = trio.current_time() - began

    # Phases

    async def _strike(self) -> None:
        """Write, and do harm, for as long as asked; what is broken is mended."""
        async with trio.open_nursery() as writing:
            for i in range(WRITERS):
                writing.start_soon(self._write, self.rng(f"writer {i}"))
            if self._compacts:
                writing.start_soon(self._compact, self.rng("compaction"))
            async with trio.open_nursery() as harming:
                for proxy in self.proxies:
                    harming.start_soon(
                        self._harm_network, proxy, self.rng(f"network {proxy.endpoint}")
                    )
                harming.start_soon(self._harm_servers, self.rng("servers"))
                await self._wait_enough()
                self._peace.set()
            # The last fault is the one that nobody tells us of.
            for proxy in self.proxies:
                self.report.faults["blackhole"] += 1
                proxy.blackhole()
                proxy.heal()
            self._writing = False

    async def _wait_enough(self) -> None:
        await trio.sleep(self.options.seconds)
        with trio.move_on_after(max(LIMIT, self.options.storm)):
            for reader in self._readers:
                await reader.done.wait()
            return
        awake = sum(not reader.done.is_set() for reader in self._readers)
        self.violated(f"storm: {awake} watches were parked too seldom")

    async def _write_last(self) -> None:
        """Something for each watch, after the last fault."""
        with trio.fail_after(LIMIT):
            for operations in (
                [Put(key, b"last") for key in KEYS],
                [Delete(key) for key in KEYS],
                [Put(key, b"very last") for key in KEYS],
            ):
                while not await self._attempt(self.members[0], operations):
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

    async def _check_nothing_left_behind(self, history: History) -> None:
        """Whether the servers hold a watch that we have left, or parked."""
        # Half open on their side since the black hole.
        for proxy in self.proxies:
            proxy.reset_all()
        await self._wait_no_surplus("reconnected")
        rng = self.rng("left behind")
        async with trio.open_nursery() as parked:
            # One gets all of history at once, the other in pieces.
            for start in (history.revision - 2, max(history.compacted, 1)):
                parked.start_soon(self._stay_parked, rng.choice(self.watchers), start)
            async with trio.open_nursery() as leaving:
                for _ in range(20):
                    leaving.start_soon(self._open_and_leave, rng)
            await self._wait_no_surplus("parked and left")
            parked.cancel_scope.cancel(reason="checked")

    async def _wait_no_surplus(self, when: str) -> None:
        surplus = None
        with trio.move_on_after(LIMIT):
            while True:
                surplus = await self._surplus()
                # etcd's gauge counts a compacted watcher down twice if the end of its
                # stream comes while we cancel it (cancelWatcher, to 3.4.23 at least).
                if surplus == 0 or (surplus and surplus < 0 and self._compacts):
                    return
                await trio.sleep(0.05)
        self.violated(f"left behind: {when}, the servers hold {surplus} too many")

    async def _surplus(self) -> int | None:
        """How many watches more than ours there are; None while some are opening."""
        metrics = [await member.metrics() for member in self.members]
        held = sum(int(each["etcd_debugging_mvcc_watcher_total"]) for each in metrics)
        statistics = [watcher.statistics() for watcher in self.watchers]
        if any(each.creating + each.resuming for each in statistics):
            return None
        return held - sum(each.live for each in statistics)

    async def _stay_parked(self, watcher: Watcher, start: int) -> None:
        opening = watcher.watch(
            "", prefix=True, start_revision=start, max_buffered_events=1
        )
        async with opening:
            await trio.sleep_forever()

    async def _open_and_leave(self, rng: random.Random) -> None:
        for _ in range(20):
            with trio.move_on_after(rng.expovariate(100)):
                async with rng.choice(self.watchers).watch("", prefix=True):
                    await trio.sleep_forever()

    def _judge(self, history: History) -> None:
        report = self.report
        report.violations += check_history(history, self._writes)
        for record in self.records:
            wrong = violations(record, history)
            if self._compacts_silently and is_silently_compacted(record, history):
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
            await self._attempt(self.members[0], draw_operations(rng, number))

    async def _write(self, rng: random.Random) -> None:
        members = list(self.members)
        numbers = itertools.count()
        while self._writing:
            operations = draw_operations(rng, next(numbers))
            async with self._may_write:
                acknowledged = await self._attempt(members[0], operations)
            if not acknowledged:
                rng.shuffle(members)
                await trio.sleep(0.05)
            if rng.random() < 0.9:
                # Each event goes to most of the watches of a storm.
                pace = 0.03 + self.options.storm / 5_000
                await trio.sleep(rng.expovariate(1 / pace))

    async def _attempt(self, member: Etcd, operations: Sequence[Put | Delete]) -> bool:
        """Write in one transaction; whether that was acknowledged."""
        revision = None
        with trio.move_on_after(ANSWER_LIMIT):
            with suppress(OSError, EtcdRequestError):
                revision = await transact(member, operations)
        self._writes.append(as_write(operations, revision))
        self.newest = max(self.newest, revision or 0)
        return revision is not None

    @property
    def _compacts(self) -> bool:
        if self.options.compact is not None:
            return self.options.compact
        # A storm would meet etcd #17529 all the time: queues of streams are full then.
        return bool(self.options.seed % 2) and not self.options.storm

    async def _compact(self, rng: random.Random) -> None:
        """Compact, up to the newest revision or some way behind."""
        mean = 1 + min(self.options.seconds, 100.0) / 20
        while not await self._is_peace_within(rng.expovariate(1 / mean)):
            member = rng.choice(self.members)
            with suppress(OSError, EtcdRequestError):
                newest = await self.truth.read(member)
                revision = self.truth.last_without_delete(
                    newest - rng.choice([0, 10, 100, 1_000])
                )
                if revision > self.truth.compacted:
                    # Noted first: it may happen though we do not hear of it.
                    self.truth.compacted = revision
                    with trio.move_on_after(ANSWER_LIMIT):
                        await member.compact(revision, physical=rng.random() < 0.5)
                        self.report.faults["compaction"] += 1

    @property
    def _compacts_silently(self) -> bool:
        """Whether the servers may not tell a watch that it lost events: etcd #17529."""
        return all(
            (3, 4, 0) <= member.version < (3, 4, 31)
            or (3, 5, 0) <= member.version < (3, 5, 13)
            for member in self.members
        )

    # Harm

    async def _is_peace_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self._peace.wait()
        return self._peace.is_set()

    async def _harm_network(self, proxy: Proxy, rng: random.Random) -> None:
        while True:
            mean = min(0.7, self.options.seconds / 6) * len(self.proxies) * self._mercy
            if await self._is_peace_within(rng.expovariate(1 / mean)):
                return
            (strike,) = rng.choices(list(STRIKES), list(STRIKES.values()))
            self.report.faults[strike.__name__] += 1
            await strike(proxy, rng, rng.uniform(0.1, self._longest_fault))

    async def _harm_servers(self, rng: random.Random) -> None:
        """Kill and pause one member after the other, so that a quorum remains."""
        for member in itertools.cycle(self.members):
            pause = rng.uniform(0.2, 2 * self._longest_fault) * self._mercy
            if await self._is_peace_within(pause):
                return
            if rng.random() < 0.5:
                self.report.faults["kill -9"] += 1
                await self._kill(member)
                await trio.sleep(rng.uniform(0.0, 1.0))
                await member.start()
            else:
                self.report.faults["SIGSTOP"] += 1
                await member.pause()
                await trio.sleep(rng.uniform(0.1, self._longest_fault))
                await member.resume()
                await member.wait_serving()

    async def _kill(self, member: Etcd) -> None:
        # Killed, 3.5 before 3.5.5 can lose what it has acknowledged just before, and
        # use its revision again, which no watch can bear:
        # https://github.com/etcd-io/etcd/pull/13908 and pull/14424
        holds = WRITERS if (3, 5, 0) <= member.version < (3, 5, 5) else 0
        for _ in range(holds):
            await self._may_write.acquire()
        # The backend commits every tenth of a second.
        await trio.sleep(0.3 if holds else 0.0)
        await member.kill()
        for _ in range(holds):
            self._may_write.release()

    # Watches

    def _make_readers(self) -> list[Reader]:
        if self.options.storm:
            # Of many keys each, so that every write fills their buffers.
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


def _parse(arguments: Sequence[str] | None = None) -> tuple[Options, bool]:
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--cluster", action="store_true", help="three members")
    parser.add_argument("--binary", help="the etcd to run")
    parser.add_argument(
        "--storm",
        type=int,
        nargs="?",
        const=1_000,
        default=0,
        metavar="WATCHES",
        help="watches that are parked and woken, ten times each",
    )
    parser.add_argument("--parks", type=int, default=10)
    parser.add_argument(
        "--compact",
        action=argparse.BooleanOptionalAction,
        help="default: odd seeds, no storms",
    )
    parser.add_argument("--verbose", action="store_true", help="the client's log")
    options = vars(parser.parse_args(arguments))
    verbose = options.pop("verbose")
    return Options(**options), verbose


def main() -> int:
    options, verbose = _parse()
    logging.basicConfig(format="%(asctime)s %(message)s")
    logger = logging.getLogger("trio_etcd_watch")
    logger.setLevel(logging.DEBUG if verbose else logging.ERROR)
    try:
        report = trio.run(run, options)
    except Exception:
        traceback.print_exc()
        sys.stdout.write(f"seed {options.seed}: crashed\n")
        return 1
    for silent in report.silent[:10]:
        sys.stdout.write(f"etcd #17529: {silent}\n")
    for violation in report.violations[:100]:
        sys.stdout.write(f"{violation}\n")
    sys.stdout.write(f"{report}\n")
    return bool(report.violations)


if __name__ == "__main__":
    sys.exit(main())
