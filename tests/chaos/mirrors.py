"""Mirrors under chaos, which are compared with Range reads and the history.

Some stay open, others are closed and opened again. Each has consumers that are fast,
slow or asleep, and is read, waited for and verified at random moments, all through the
faulty proxies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from tests.chaos.history import read_range
from tests.chaos.looks import Fold, Look, differs, unlike_history
from tests.chaos.users import plain_kv
from tests.chaos.writes import KEYS, RANGES, Where
from tests.support.followers import resyncs_noted
from tests.support.robustness import History, KeyValue, in_range
from trio_etcd_watch import KeyValue as ClientKeyValue
from trio_etcd_watch import Mirror
from trio_etcd_watch._follower import Follower
from trio_etcd_watch.testing import EtcdRequestError, Put

if TYPE_CHECKING:
    from tests.chaos.run import Chaos

MIRRORED = (RANGES[4], RANGES[1], RANGES[0], RANGES[2])
"""The whole range, a prefix, a single key, and some keys."""

PAUSES = (0.0, 0.0, 0.3, math.inf)
"""The longest time that consumers of each mirror spend on an update; inf: very long."""

RANGE_ODDS = 0.3
"""How often a look is also compared with a Range read."""

REASONS = {
    "compacted": "compaction",
    "the watch did not deliver": "silent watch",
    "the raft term fell": "member behind",
}
"""The reasons in the log for reading a range again, in short; all others are a loss.

`sync()` gives up a watch that is silent for a second. The servers of these tests send
progress to a working watch every 0.3 s, so that without it the connection is dead or
the server is stuck.
"""


class Mirrors:
    """All mirrors of one run, their writer, and what they showed."""

    def __init__(self, chaos: Chaos) -> None:
        self.looks: list[Look] = []
        self._chaos = chaos
        self._report = chaos.report.mirrors
        # Few in a storm, which is enough work for the machine.
        ranges = MIRRORED[:3] if chaos.options.storm else MIRRORED + MIRRORED[:2]
        self._users = [
            MirrorUser(self, chaos, f"mirror {i}", where, stays=i < len(MIRRORED))
            for i, where in enumerate(ranges)
        ]

    async def run(self) -> None:
        with resyncs_noted(self._note_resync):
            async with trio.open_nursery() as nursery:
                for user in self._users:
                    nursery.start_soon(user.run, nursery)

    async def write(self) -> None:
        """Put, and wait for a mirror to show that, as long as the run writes."""
        chaos, rng = self._chaos, self._chaos.rng("writer for mirrors")
        for number in itertools.count():
            await trio.sleep(rng.expovariate(1 / 0.1))
            if not chaos.writing:
                return
            user = rng.choice(self._users)
            put = Put(rng.choice(user.keys), f"for a mirror {number}")
            async with chaos.harm.may_write:
                revision = await chaos.attempt(rng.choice(chaos.members), [put])
            if revision is not None:
                user.expect(revision)

    def differed(self, text: str) -> None:
        """Record that a mirror was wrong, whether or not the server is to blame."""
        if self._chaos.compacts and self._chaos.compacts_silently:
            self._report.silent.append(text)
        else:
            self._chaos.violated(f"mirror: {text}")

    def _note_resync(self, follower: Follower, why: str) -> None:
        reason = next((REASONS[key] for key in REASONS if key in why), "loss")
        self._report.resyncs[reason] += 1
        keys = follower._keys
        who = f"the mirror of {keys} before it was read again"
        if reason == "loss":
            self.differed(f"{who}: {why}")
        elif reason == "member behind" and len(self._chaos.members) == 1:
            self._chaos.violated(f"{who}: {why}")
        if replica := follower._replica:
            # A mirror that was late, or asked for compacted revisions, was right until
            # now.
            range_ = (keys.key, keys.range_end)
            rows = self.rows(replica.mapping)
            self.looks.append(Look(who, range_, replica.revision, rows))

    def rows(self, mapping: Mapping[bytes, ClientKeyValue]) -> tuple[KeyValue, ...]:
        share = self._chaos.truth.share
        return tuple(share(plain_kv(kv)) for kv in mapping.values())

    async def finish(self, history: History, limit: float) -> None:
        """Check that each mirror catches up, by events alone if servers lose none."""

        async def finish(user: MirrorUser) -> None:
            with trio.move_on_after(limit) as scope:
                await user.finish(history)
            if scope.cancelled_caught:
                self._chaos.violated(f"liveness: {user} has not caught up: it hangs")

        async with trio.open_nursery() as nursery:
            for user in self._users:
                nursery.start_soon(finish, user)

    def judge(self, history: History) -> None:
        self._report.by_history = len(self.looks)
        for text in unlike_history(self.looks, history):
            self.differed(text)


class MirrorUser:
    """A user of a mirror, who closes it and opens it again unless `stays` is set."""

    def __init__(
        self, mirrors: Mirrors, chaos: Chaos, name: str, where: Where, *, stays: bool
    ) -> None:
        self._mirrors = mirrors
        self._chaos = chaos
        self._report = chaos.report.mirrors
        self._rng = chaos.rng(name)
        self._name = name
        self._where, self._range = where
        self._stays = stays
        self.keys = [key for key in KEYS if in_range(key, *self._range)]
        self._mirror: Mirror | None = None
        self._outliving: trio.Nursery | None = None
        self._revision = 0
        self._waiting = 0
        self._folds: list[Fold[ClientKeyValue]] = []

    def __str__(self) -> str:
        mirror = self._mirror
        return (
            f"{self._name} ({self._where}, {self._waiting} waiting, updated to "
            f"{[fold.revision for fold in self._folds]}): "
            f"{mirror and mirror.statistics()}"
        )

    async def run(self, outliving: trio.Nursery) -> None:
        """Open and close mirrors; tasks in the nursery may wait for one until later."""
        self._outliving = outliving
        while True:
            life = math.inf
            if not (self._stays or self._chaos.finale.is_set()):
                life = self._rng.expovariate(6 / self._chaos.options.seconds)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._leave_after, life, scope)
                    await self._live()

    async def _leave_after(self, life: float, scope: trio.CancelScope) -> None:
        await trio.sleep(life)
        if not self._chaos.finale.is_set():
            scope.cancel(reason="the user leaves")

    async def _live(self) -> None:
        watcher = self._rng.choice(self._chaos.watchers)
        async with watcher.mirror(**self._where) as mirror:
            self._report.opened += 1
            self._revision = 0
            self._folds = []
            try:
                async with trio.open_nursery() as nursery:
                    self._mirror = mirror
                    for pause in PAUSES:
                        nursery.start_soon(self._consume, mirror, pause)
                    nursery.start_soon(self._look_on, mirror)
                    nursery.start_soon(self._prove, mirror)
            finally:
                self._mirror = None

    # What a mirror shows

    def _violated(self, text: str) -> None:
        self._chaos.violated(f"mirror: {self._name}: {text}")

    def _look(self, mirror: Mirror, when: str) -> Look:
        rows = self._mirrors.rows(mirror)
        look = Look(f"{self._name}, {when}", self._range, mirror.revision, rows)
        if look.revision < self._revision:
            self._violated(f"fell from {self._revision} to {look.revision}")
        self._revision = look.revision
        view = mirror.prefix("/k/0")
        shown = [row for row in rows if row.key.startswith(b"/k/0")]
        if self._mirrors.rows(view) != tuple(shown) or len(view) != len(shown):
            self._violated(f"the prefix view shows {list(view)}")
        copy = mirror.copy()
        if (copy.revision, self._mirrors.rows(copy)) != (look.revision, rows):
            self._violated(f"the copy is of {copy.revision}: {list(copy)}")
        self._mirrors.looks.append(look)
        return look

    async def _compare(self, look: Look) -> str | None:
        """Return how a look differs from a Range; None if its revision is compacted."""
        member = self._rng.choice(self._chaos.members)
        try:
            rows = await read_range(member, self._range, look.revision)
        except EtcdRequestError as exc:
            if "compacted" in exc.message:
                self._report.compacted += 1
            else:
                self._report.unanswered += 1
            return None
        except OSError:
            self._report.unanswered += 1
            return None
        self._report.by_range += 1
        return differs(look, {row.key: row for row in rows})

    async def _look_on(self, mirror: Mirror) -> None:
        while True:
            await self._rest(self._rng.expovariate(1 / 0.2))
            look = self._look(mirror, "at a random moment")
            if self._chaos.finale.is_set():
                return
            if self._rng.random() > RANGE_ODDS:
                continue
            if difference := await self._compare(look):
                self._mirrors.differed(f"{look.who}, by Range: {difference}")

    async def _rest(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._chaos.finale.wait()

    # What a mirror is asked for

    def expect(self, revision: int) -> None:
        """Check that the mirror, if it is open, shows what was put at this revision."""
        if self._mirror is not None and self._outliving is not None:
            self._outliving.start_soon(self._await_put, self._mirror, revision)

    async def _await_put(self, mirror: Mirror, revision: int) -> None:
        self._waiting += 1
        patience = self._rng.choice([0.01, *[math.inf] * 9])
        with trio.move_on_after(patience), suppress(trio.ClosedResourceError):
            if self._rng.random() < 0.2:
                await mirror.wait_for(lambda _: mirror.revision >= revision)
                self._report.waits += 1
            else:
                await mirror.sync()
                self._report.syncs += 1
            if mirror.revision < revision:
                self._violated(f"is at {mirror.revision} after a put at {revision}")
            self._look(mirror, f"which was to show a put at {revision}")
        self._waiting -= 1

    async def _prove(self, mirror: Mirror) -> None:
        while not self._chaos.finale.is_set():
            await self._rest(self._rng.expovariate(1 / 5))
            if not await mirror.verify():
                # It was read again, and the reason is recorded there.
                self._look(mirror, "which was proved wrong")
            self._report.proofs += 1

    async def _consume(self, mirror: Mirror, pause: float) -> None:
        """Follow the changes, and start over now and then."""
        asleep = min(self._chaos.options.seconds / 4, 20.0)
        longest = asleep if pause == math.inf else pause
        while True:
            initial = self._rng.random() < 0.5
            fold = Fold[ClientKeyValue](initial=initial)
            if not initial:
                fold.state = dict(mirror)
            changes = mirror.changes(initial=initial)
            self._folds.append(fold)
            for _ in range(self._rng.choice([3, 100, 1_000])):
                update = await anext(changes)
                for wrong in fold.take(update.revision, update.changes):
                    self._violated(f"a consumer: {wrong}")
                if (fold.revision, fold.state) != (mirror.revision, dict(mirror)):
                    self._violated(f"a consumer is not at {mirror.revision}")
                self._report.updates += 1
                await self._rest(self._rng.uniform(0.0, longest))
            self._folds.remove(fold)

    # The end

    async def finish(self, history: History) -> None:
        """Wait until mirror and consumers reach the end of the history, and compare."""
        mirror = await self._present()
        if self._chaos.compacts_silently:
            # The server may have lost the last events.
            await mirror.sync()
        while not self._has_caught_up(mirror, history):  # noqa: ASYNC110  # no one event says so
            await trio.sleep(0.05)
        await self._compare_last(mirror, self._mirrors.differed, "when it caught up")
        await mirror.sync()
        self._report.syncs += 1
        if mirror.revision < history.revision:
            self._violated(f"is at {mirror.revision} after the last sync()")
        if not await mirror.verify():
            self._mirrors.differed(f"{self._name}: was proved wrong in the end")
        self._report.proofs += 1
        await self._compare_last(mirror, self._violated, "in the end")

    async def _present(self) -> Mirror:
        while self._mirror is None:  # noqa: ASYNC110  # it is entered by another task
            await trio.sleep(0.05)
        return self._mirror

    def _has_caught_up(self, mirror: Mirror, history: History) -> bool:
        if mirror.revision < history.revision or self._waiting:
            return False
        present = dict(mirror)
        return all(fold.state == present for fold in self._folds)

    async def _compare_last(
        self, mirror: Mirror, blame: Callable[[str], None], when: str
    ) -> None:
        difference = None
        while difference is None:
            difference = await self._compare(look := self._look(mirror, when))
        if difference:
            blame(f"{look.who}, by Range: {difference}")
