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
import base64
import http.client
import itertools
import json
import logging
import math
import os
import random
import sys
import traceback
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import trio

from tests.helpers import split
from tests.proxy import Proxy, open_proxy
from tests.robustness import (
    DELETE,
    NO_END,
    Event,
    History,
    KeyValue,
    Kind,
    Record,
    Request,
    Response,
    Session,
    Write,
    check_history,
    in_range,
    violations,
)
from trio_etcd_watch import (
    Channel,
    CompactedError,
    NoLeaderError,
    Watch,
    Watcher,
    WatchError,
    WatchResponse,
    open_watcher,
)
from trio_etcd_watch import Event as ClientEvent
from trio_etcd_watch import KeyValue as ClientKeyValue
from trio_etcd_watch.testing import (
    Delete,
    Etcd,
    EtcdRequestError,
    Put,
    open_cluster,
)

T = TypeVar("T")

Strike: TypeAlias = Callable[[Proxy, random.Random, float], Awaitable[None]]
Where: TypeAlias = tuple[dict[str, Any], tuple[bytes, bytes]]
"""What is given to watch(), and the range of etcd's API that it must become."""

LIMIT = 180.0
"""Seconds that anything may take once the faults are over; past it, it hangs."""

WRITE_LIMIT = 5.0
"""Seconds until a writer gives up on a server that is paused, or has no leader."""

SERVER_ARGS = (
    "--experimental-watch-progress-notify-interval=300ms",
    # A response is split above this and 512 KiB, so that most long histories are.
    "--max-request-bytes=131072",
)

KEYS = (*(f"/k/{i:02}".encode() for i in range(16)), b"\0", b"\xff\xff")

RANGES: tuple[Where, ...] = (
    ({"key": "/k/00"}, (b"/k/00", b"")),
    ({"key": "/k/", "prefix": True}, (b"/k/", b"/k0")),
    ({"key": b"/k/03", "range_end": "/k/12"}, (b"/k/03", b"/k/12")),
    ({"key": "/k/08", "from_key": True}, (b"/k/08", NO_END)),
    ({"key": "", "prefix": True}, (b"\0", NO_END)),
    ({"key": "/k/0", "prefix": True}, (b"/k/0", b"/k/1")),
    ({"key": b"/k/15"}, (b"/k/15", b"")),
    ({"key": b"\xff", "prefix": True}, (b"\xff", NO_END)),
    ({"key": "", "from_key": True}, (b"\0", NO_END)),
)

METADATA: tuple[dict[str, str] | None, ...] = (None, None, {"x-stream": "a"})

KEEPALIVE = ((1.0, 1.0), (1.0, 1.0), (0.4, 2.0))
"""Time and timeout of the watchers; a long run has one with the defaults, too."""

LONG = 60.0
"""From so many seconds on, a run is long."""

BEFORE = 1_100
"""Revisions before the first watch: etcd replays at most 1,000 of them at once."""

LONGEST_FAULT = 4.0
"""In seconds, of a run that is long enough for that."""

LATE_BOOKMARKS = 0.5
"""How often a user looks at `next_revision` only when the watch has been left."""

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

    def __str__(self) -> str:
        options = self.options
        faults = ", ".join(f"{kind} {n}" for kind, n in sorted(self.faults.items()))
        return (
            f"seed {options.seed}, {'cluster' if options.cluster else 'one server'}: "
            f"{self.seconds:.0f} s, {self.written} events written, "
            f"{self.delivered} delivered in {self.sessions} sessions, "
            f"parked {self.parked} times, {self.compacted} ends by compaction, "
            f"{self.faults.total()} faults ({faults}), {self.reconnects} reconnects, "
            f"{len(self.violations)} violations"
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
                if surplus == 0:
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
            report.violations += violations(record, history)
            report.sessions += len(record.sessions)
            for session in record.sessions:
                report.delivered += sum(1 for _ in session.events())
                report.compacted += session.compacted > 0
        report.written = len(history.events)
        report.reconnects = sum(each.statistics().reconnects for each in self.watchers)

    # Writers

    async def _write_before(self, rng: random.Random) -> None:
        for number in range(BEFORE // WRITERS):
            await self._attempt(self.members[0], _operations(rng, number))

    async def _write(self, rng: random.Random) -> None:
        members = list(self.members)
        numbers = itertools.count()
        while self._writing:
            operations = _operations(rng, next(numbers))
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
        with trio.move_on_after(WRITE_LIMIT):
            with suppress(OSError, EtcdRequestError):
                revision = await _transact(member, operations)
        puts = [each for each in operations if isinstance(each, Put)]
        deletes = [each for each in operations if isinstance(each, Delete)]
        write = Write(
            {_bytes(each.key): _bytes(each.value) for each in puts},
            tuple(_range(each) for each in deletes),
            revision,
        )
        self._writes.append(write)
        self.newest = max(self.newest, revision or 0)
        return revision is not None

    @property
    def _compacts(self) -> bool:
        if self.options.compact is not None:
            return self.options.compact
        # Where the queue of a stream is full, as in a storm, etcd before 3.4.31 and
        # 3.5.13 forgets to say that a watch is compacted, and leaves out the events:
        # https://github.com/etcd-io/etcd/pull/17555
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
                    with trio.move_on_after(WRITE_LIMIT):
                        await member.compact(revision, physical=rng.random() < 0.5)
                        self.report.faults["compaction"] += 1

    # Harm

    async def _is_peace_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self._peace.wait()
        return self._peace.is_set()

    async def _harm_network(self, proxy: Proxy, rng: random.Random) -> None:
        faults: list[tuple[int, Strike]] = [
            (3, _close),
            (3, _reset),
            (4, _cut),
            (2, _blackhole),
            (2, _refuse),
            (3, _delay),
        ]
        weights, strikes = zip(*faults, strict=True)
        while True:
            mean = min(0.7, self.options.seconds / 6) * len(self.proxies) * self._mercy
            if await self._is_peace_within(rng.expovariate(1 / mean)):
                return
            (strike,) = rng.choices(strikes, weights)
            self.report.faults[strike.__name__[1:]] += 1
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
            wide = [where for where in RANGES if _breadth(where) > 1]
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


class Reader:
    """A user of watches: reads, dawdles, leaves, comes back where it stopped."""

    def __init__(self, chaos: Chaos, name: str, where: Where) -> None:
        self.name = name
        self.done = trio.Event()
        """Set when it has been through all that it is for."""
        self._chaos = chaos
        self._rng = chaos.rng(name)
        self._where, (key, range_end) = where
        self._request = Request(key, range_end, **self._choose_options())
        self._buffer = self._choose(10_000, 1_000, 100, 10, 3, 1)
        # How long it sits on what it got, at most, and how often for how long it is
        # stuck altogether.
        self._dawdle = self._choose(0.0, 0.0, 0.001, 0.02)
        self._stuck_odds = self._choose(0.0, 0.002, 0.02, 0.05)
        self._stuck = min(chaos.options.seconds / 4, 20.0)
        self._watch: Watch | None = None
        self._session = Session(0)

    def __str__(self) -> str:
        statistics = self._watch and self._watch.statistics()
        return (
            f"{self.name} ({self._request}, from {self._session.start}, bookmark "
            f"{self._watch and self._watch.next_revision}): {statistics}"
        )

    def has_caught_up(self, history: History) -> bool:
        """Whether it has handed over all that there is for it."""
        if self._watch is None:
            return False
        rest = history.matching(self._request, self._watch.next_revision)
        return not rest

    async def run(self) -> None:
        self._be_done()
        while True:
            record = Record(f"{self.name} {self._request}", self._request)
            self._chaos.records.append(record)
            start = self._choose_start()
            for _ in range(self._rng.randint(1, 5)):
                with trio.CancelScope() as scope:
                    async with self._leaving(scope):
                        await self._read_session(record, start)
                start = record.sessions[-1].next_start if record.sessions else start

    # What kinds of readers differ in

    def _be_done(self) -> None:
        self.done.set()

    def _life(self) -> float:
        """How many seconds to stay with a watch."""
        return self._rng.expovariate(6 / self._chaos.options.seconds)

    def _choose_options(self) -> dict[str, bool]:
        filtered = self._choose("put", "delete", "", "", "")
        return {
            "no_put": filtered == "put",
            "no_delete": filtered == "delete",
            "prev_kv": self._rng.random() < 0.4,
            "progress_notify": self._rng.random() < 0.4,
            "created_notify": self._rng.random() < 0.2,
        }

    async def _read(self, watch: Watch) -> None:
        """Read until cancelled, or until the watch fails."""
        while True:
            take = self._choose(self._take_response, self._take_event)
            for _ in range(self._choose(1, 3, 100)):
                await take(watch)
                await self._rest(self._rng.uniform(0.0, self._dawdle))
                if self._rng.random() < self._stuck_odds:
                    await self._rest(self._rng.uniform(0.0, self._stuck))
                    self._note_parked(watch)

    # Steps

    def _choose(self, *values: T) -> T:
        return self._rng.choice(values)

    def _choose_start(self) -> int:
        """From now, from long ago, or from some time to come."""
        if self._rng.random() < 0.5:
            return 0
        newest = self._chaos.newest
        oldest = max(self._chaos.truth.compacted, 1)
        return self._choose(
            oldest,
            self._rng.randint(oldest, max(newest, oldest)),
            newest + 1,
            newest + self._rng.randint(1, 100),
        )

    @asynccontextmanager
    async def _leaving(self, scope: trio.CancelScope) -> AsyncGenerator[None]:
        """Cancel the scope after a while, unless the finale has come."""

        async def leave() -> None:
            await trio.sleep(self._life())
            if not self._chaos.finale.is_set():
                scope.cancel(reason="the user leaves")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            yield
            nursery.cancel_scope.cancel(reason="the watch ended")

    async def _read_session(self, record: Record, start: int) -> None:
        request = self._request
        opening = self._choose(*self._chaos.watchers).watch(
            **self._where,
            start_revision=start,
            prev_kv=request.prev_kv,
            no_put=request.no_put,
            no_delete=request.no_delete,
            progress_notify=request.progress_notify,
            created_notify=request.created_notify,
            require_leader=self._rng.random() < 0.1,
            metadata=self._choose(*METADATA),
            max_buffered_events=self._buffer,
        )
        watch: Watch | None = None
        reads_bookmark_late = self._rng.random() < LATE_BOOKMARKS
        try:
            async with opening as watch:
                session = self._session = Session(
                    start or watch.created.header.revision + 1
                )
                record.sessions.append(session)
                self._watch = watch
                try:
                    await self._read(watch)
                finally:
                    session.bookmark = watch.next_revision
        except (CompactedError, NoLeaderError) as exc:
            self._note_failure(record, start, watch, exc)
        except WatchError as exc:
            self._chaos.violated(f"error: {record.name}: {exc!r}")
            await trio.sleep(0.1)
        finally:
            self._watch = None
            if watch is not None and reads_bookmark_late:
                self._session.bookmark = watch.next_revision

    def _note_failure(
        self, record: Record, start: int, watch: Watch | None, error: WatchError
    ) -> None:
        compacted = 0
        if isinstance(error, CompactedError):
            # Whether that is legal, check_resumable() says.
            compacted = error.compact_revision
        if watch is None:
            if compacted:
                session = Session(start, bookmark=start, compacted=compacted)
                record.sessions.append(session)
            return
        self._session.compacted = compacted
        received = watch.statistics().events_received
        handed = sum(1 for _ in self._session.events())
        if received != handed:
            self._chaos.violated(
                f"error: {record.name}: {error!r} before {received - handed} events"
            )

    async def _take_response(self, watch: Watch) -> None:
        response = await anext(watch)
        self._note(watch, _kind(response), response.events, response.header.revision)

    async def _take_event(self, watch: Watch) -> None:
        event = await anext(watch.events())
        self._note(watch, Kind.ONE_EVENT, [event], 0)

    def _note(
        self, watch: Watch, kind: Kind, events: Sequence[ClientEvent], header: int
    ) -> None:
        events_ = tuple(self._chaos.truth.shared(_plain(event)) for event in events)
        self._session.responses.append(
            Response(kind, events_, header, watch.next_revision)
        )
        self._check_bound(watch)

    def _check_bound(self, watch: Watch) -> None:
        """A watch that holds more than it may must have been parked by that."""
        statistics = watch.statistics()
        if statistics.unread_events > self._buffer and (
            statistics.state not in {"parked", "ended"}
        ):
            self._chaos.violated(f"bound: {self} with a buffer of {self._buffer}")

    def _note_parked(self, watch: Watch) -> bool:
        parked = watch.statistics().state == "parked"
        self._chaos.report.parked += parked
        return parked

    async def _rest(self, seconds: float) -> None:
        if seconds:
            with trio.move_on_after(seconds):
                await self._chaos.finale.wait()


class Churner(Reader):
    """Opens watches, and leaves them at any moment, also before they are there."""

    def _life(self) -> float:
        return self._rng.expovariate(1 / self._choose(0.003, 0.03, 0.3))


class Sleeper(Reader):
    """Reads only when its watch has been parked for a while."""

    def __init__(self, chaos: Chaos, name: str, where: Where) -> None:
        self._parks = 0
        super().__init__(chaos, name, where)
        self._buffer = self._rng.randint(1, 5)

    def _be_done(self) -> None:
        """Not before it was parked often enough."""

    def _life(self) -> float:
        return math.inf

    def _choose_start(self) -> int:
        return 0

    async def _read(self, watch: Watch) -> None:
        while self._parks < self._chaos.options.parks:
            while not self._note_parked(watch):
                await trio.sleep(self._rng.uniform(0.05, 0.5))
                if self._chaos.finale.is_set() or (watch.statistics().state == "ended"):
                    break
            self._parks += 1
            await self._rest(self._rng.uniform(0.0, 0.5))
            while watch.statistics().unread_events:
                await self._take_response(watch)
        self.done.set()
        while True:
            await self._take_response(watch)


class Truth:
    """The history as etcd gives it out over its JSON gateway, without our code."""

    def __init__(self) -> None:
        self.changes: list[Event] = []
        self.compacted = 0
        """The highest revision that a compaction was requested for."""
        self._shared: dict[object, Any] = {}
        self._lock = trio.Lock()

    async def read(self, member: Etcd) -> int:
        """Read on up to the newest revision, and return that.

        Raises:
            OSError: the member went away, or was silent; what came is kept.
        """
        async with self._lock:
            with trio.move_on_after(WRITE_LIMIT) as scope:
                newest = await member.revision()
            if scope.cancelled_caught:
                raise TimeoutError
            known = self.changes[-1].revision if self.changes else 1
            if known < newest:
                # Not abandoned when cancelled, lest two threads write at once.
                await trio.to_thread.run_sync(
                    self._read, member.endpoint, known + 1, newest
                )
            return newest

    def last_without_delete(self, revision: int) -> int:
        """The last revision up to this one that deletes nothing; 0 if there is none.

        Compacting at a DELETE loses that, and the newest revision even after a crash:
        https://github.com/etcd-io/etcd/pull/18274, fixed in 3.4.34 and 3.5.16.
        """
        deletes = {each.revision for each in self.changes if each.type == DELETE}
        return next((r for r in range(revision, 1, -1) if r not in deletes), 0)

    def shared(self, event: Event) -> Event:
        """Return the one instance of what many watches hold."""
        kv, prev_kv = (
            self._share(event.kv),
            event.prev_kv and self._share(event.prev_kv),
        )
        return self._share(event._replace(kv=kv, prev_kv=prev_kv))

    def _share(self, value: T) -> T:
        shared: T = self._shared.setdefault(value, value)
        return shared

    def _read(self, endpoint: str, start: int, stop: int) -> None:
        for events in _history(endpoint, start, stop):
            self.changes += map(self.shared, events)


def _history(endpoint: str, start: int, stop: int) -> Iterator[list[Event]]:
    """Ask the gateway for all changes from one revision to another."""
    connection = http.client.HTTPConnection(endpoint, timeout=WRITE_LIMIT)
    try:
        every_key = {"key": "AA==", "range_end": "AA==", "start_revision": start}
        body = json.dumps({"create_request": every_key})
        connection.request("POST", "/v3/watch", body)
        reply = connection.getresponse()
        revision = start - 1
        while revision < stop:
            line = reply.readline()
            if not line:
                raise ConnectionError("the server ended the history")
            result = json.loads(line)["result"]
            if result.get("canceled"):
                raise RuntimeError(f"the gateway gives no history: {result}")
            events = [_from_json(event) for event in result.get("events", ())]
            if events:
                revision = events[-1].revision
                yield events
    except http.client.HTTPException as exc:
        raise ConnectionError(f"the history broke off: {exc!r}") from exc
    finally:
        connection.close()


def _from_json(event: dict[str, Any]) -> Event:
    kv = event["kv"]
    return Event(
        event.get("type", "PUT"),
        KeyValue(
            base64.b64decode(kv["key"]),
            base64.b64decode(kv.get("value", "")),
            int(kv.get("create_revision", 0)),
            int(kv["mod_revision"]),
            int(kv.get("version", 0)),
            int(kv.get("lease", 0)),
        ),
        prev_kv=None,
        is_create=False,
    )


# What a client's values are as plain data


def _plain(event: ClientEvent) -> Event:
    prev_kv = event.prev_kv
    return Event(
        event.type.name,
        _plain_kv(event.kv),
        None if prev_kv is None else _plain_kv(prev_kv),
        event.is_create,
    )


def _plain_kv(kv: ClientKeyValue) -> KeyValue:
    return KeyValue(
        kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease
    )


def _kind(response: WatchResponse) -> Kind:
    if response.created:
        return Kind.CREATED
    if response.is_progress_notify:
        # Not public, as it is of no use: both old servers and ours must be told apart.
        requested = response._parts[-1].watch_id == -1
        return Kind.REQUESTED if requested else Kind.PROGRESS
    return Kind.EVENTS


def _breadth(where: Where) -> int:
    return sum(in_range(key, *where[1]) for key in KEYS)


# What writers write


def _operations(rng: random.Random, number: int) -> list[Put | Delete]:
    def put(key: bytes) -> Put:
        size = rng.choice([0, 8, 64, 64, 512, 4_096])
        return Put(key, (b"%d " % number + rng.randbytes(size))[:size])

    kind = rng.random()
    if kind < 0.60:
        return [put(rng.choice(KEYS))]
    if kind < 0.75:
        return [Delete(rng.choice(KEYS))]
    if kind < 0.80:
        return [Delete(rng.choice(["/k/0", "/k/1", "/k/15"]), prefix=True)]
    keys = rng.sample(KEYS, rng.choice([2, 3, 6, len(KEYS)]))
    return [put(key) if rng.random() < 0.8 else Delete(key) for key in keys]


async def _transact(member: Etcd, operations: Sequence[Put | Delete]) -> int:
    """Return the revision of it; 0 if it changed nothing."""
    match operations:
        case [Put() as put]:
            return await member.put(put.key, put.value)
        case [Delete() as delete]:
            reply = await member.request("/v3/kv/deleterange", delete.to_json())
            changes = "deleted" in reply
        case _:
            success = [{each.field: each.to_json()} for each in operations]
            reply = await member.request("/v3/kv/txn", {"success": success})
            changes = any(
                "response_put" in each
                or "deleted" in each.get("response_delete_range", {})
                for each in reply["responses"]
            )
    return int(reply["header"]["revision"]) if changes else 0


def _range(delete: Delete) -> tuple[bytes, bytes]:
    key = _bytes(delete.key)
    # Prefixes of writers end in an ordinary byte.
    return key, key[:-1] + bytes([key[-1] + 1]) if delete.prefix else b""


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


# Faults of the network, each for so many seconds


async def _close(proxy: Proxy, rng: random.Random, seconds: float) -> None:
    proxy.close_all()
    await trio.lowlevel.checkpoint()


async def _reset(proxy: Proxy, rng: random.Random, seconds: float) -> None:
    proxy.reset_all()
    await trio.lowlevel.checkpoint()


async def _cut(proxy: Proxy, rng: random.Random, seconds: float) -> None:
    # From within the first frame to behind the first fragment of a long history.
    proxy.cut_after(int(10 ** rng.uniform(0, 6.3)), fin=rng.random() < 0.5)
    proxy.reset_all()
    await trio.sleep(seconds)
    proxy.cut_after(None)


async def _blackhole(proxy: Proxy, rng: random.Random, seconds: float) -> None:
    proxy.blackhole()
    await trio.sleep(seconds)
    proxy.heal()


async def _refuse(proxy: Proxy, rng: random.Random, seconds: float) -> None:
    proxy.refuse()
    proxy.reset_all()
    await trio.sleep(seconds / 2)
    proxy.accept()


async def _delay(proxy: Proxy, rng: random.Random, seconds: float) -> None:
    proxy.delay(rng.uniform(0.01, 0.5))
    await trio.sleep(seconds)
    proxy.delay(0.0)


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
    for violation in report.violations[:100]:
        sys.stdout.write(f"{violation}\n")
    sys.stdout.write(f"{report}\n")
    return bool(report.violations)


if __name__ == "__main__":
    sys.exit(main())
