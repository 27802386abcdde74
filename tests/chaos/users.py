"""The users of chaos's watches, who read, pause, close and open watches."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from tests.chaos.writes import Where
from tests.support.robustness import (
    Event,
    History,
    KeyValue,
    Kind,
    Record,
    Request,
    Response,
    Session,
)
from trio_etcd_watch import (
    CompactedError,
    NoLeaderError,
    Watch,
    WatchError,
    WatchResponse,
)
from trio_etcd_watch import Event as ClientEvent
from trio_etcd_watch import KeyValue as ClientKeyValue

if TYPE_CHECKING:
    from tests.chaos.run import Chaos

T = TypeVar("T")

METADATA: tuple[dict[str, str] | None, ...] = (None, None, {"x-stream": "a"})

LATE_BOOKMARKS = 0.5
"""How often a user looks at `next_revision` only after the watch was closed."""


class Reader:
    """A user of watches, who reads and pauses, and continues where one stopped."""

    def __init__(self, chaos: Chaos, name: str, where: Where) -> None:
        self.name = name
        self.done = trio.Event()
        """Is set when it has done everything that it is for."""
        self._chaos = chaos
        self._rng = chaos.rng(name)
        self._where, (key, range_end) = where
        self._request = Request(key, range_end, **self._choose_options())
        self._buffer = self._choose(10_000, 1_000, 100, 10, 3, 1)
        # How long it pauses after each item, at most, and how often and for how long it
        # is stuck.
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
        """Whether it has received everything that there is for it."""
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

    # What differs between kinds of readers

    def _be_done(self) -> None:
        self.done.set()

    def _life(self) -> float:
        """Return for how many seconds to keep a watch open."""
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
        """Return a start from now, from long ago, or from some time ahead."""
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
        """Cancel the scope after a while, unless the finale has begun."""

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
            # check_resumable() judges whether that is legal.
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
            Response(
                kind,
                events_,
                header,
                watch.next_revision,
                self._chaos.truth.compacted,
            )
        )
        self._check_bound(watch)

    def _check_bound(self, watch: Watch) -> None:
        """Check that a watch with more than it may hold was parked because of that."""
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
    """Opens watches and closes them at any moment, also before they are created."""

    def _life(self) -> float:
        return self._rng.expovariate(1 / self._choose(0.003, 0.03, 0.3))


class Sleeper(Reader):
    """Reads only after its watch has been parked for a while."""

    def __init__(self, chaos: Chaos, name: str, where: Where) -> None:
        self._parks = 0
        super().__init__(chaos, name, where)
        self._buffer = self._rng.randint(1, 5)

    def _be_done(self) -> None:
        """It is done once it was parked often enough."""

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


# The client's values as plain data


def _plain(event: ClientEvent) -> Event:
    prev_kv = event.prev_kv
    return Event(
        event.type.name,
        plain_kv(event.kv),
        None if prev_kv is None else plain_kv(prev_kv),
        event.is_create,
    )


def plain_kv(kv: ClientKeyValue) -> KeyValue:
    return KeyValue(
        kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease
    )


def _kind(response: WatchResponse) -> Kind:
    if response.created:
        return Kind.CREATED
    if response.is_progress_notify:
        # Not public, as users do not need it; here an answer must be told from a
        # notification.
        requested = response._raw.watch_id == -1
        return Kind.REQUESTED if requested else Kind.PROGRESS
    return Kind.EVENTS
