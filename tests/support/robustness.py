"""The nine checks of a watch from etcd's own robustness suite, on plain data.

Nothing here depends on the client under test, or does I/O. A `Record` is what one user
got from one watch, which was opened again each time where the last session stopped. A
`History` is what really happened. Each check yields violations in a record, as text.

The guarantees are those of https://etcd.io/docs/v3.6/learning/api_guarantees/, and
the names those of etcd's `tests/robustness/validate`. etcd compares watches with each
other; these checks compare with a history that was read without the client under test,
so they are stricter: `resumable` also requires that a bookmark skips no event, and
`reliable` that nothing is missing up to it.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice, pairwise
from typing import NamedTuple

PUT = "PUT"
DELETE = "DELETE"

NO_END = b"\0"
"""As a range_end: every key from `key` on."""

SHOWN = 3
"""How many violations per check and record are reported; more add nothing."""


class KeyValue(NamedTuple):
    """A key at one revision; for a DELETE only key and mod_revision are set."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0

    def __repr__(self) -> str:
        # A value may have some kB, and its beginning identifies the write.
        return (
            f"<{self.key!r} = {self.value[:8]!r} ({len(self.value)} bytes), version "
            f"{self.version}, revisions {self.create_revision}-{self.mod_revision}>"
        )


class Event(NamedTuple):
    """One change; prev_kv and is_create are true in a `History`, or as received."""

    type: str
    kv: KeyValue
    prev_kv: KeyValue | None
    is_create: bool

    @property
    def revision(self) -> int:
        return self.kv.mod_revision

    def __str__(self) -> str:
        return f"{self.type} of {self.kv.key!r} at {self.revision}"


def in_range(key: bytes, start: bytes, end: bytes) -> bool:
    """Whether a key is in etcd's range from start to end; without an end, is start."""
    if not end:
        return key == start
    return key >= start and (end == NO_END or key < end)


@dataclass(frozen=True, slots=True)
class Request:
    """What a watch requests, in the terms of etcd."""

    key: bytes
    range_end: bytes = b""
    no_put: bool = False
    no_delete: bool = False
    prev_kv: bool = False
    progress_notify: bool = False
    created_notify: bool = False

    def matches(self, event: Event) -> bool:
        left_out = self.no_put if event.type == PUT else self.no_delete
        return not left_out and in_range(event.kv.key, self.key, self.range_end)


class Kind(enum.Enum):
    """The kinds of what a user gets."""

    EVENTS = "events"
    ONE_EVENT = "one event"
    """From `Watch.events()`, which does not show the limits of responses."""
    PROGRESS = "progress"
    REQUESTED = "requested progress"
    """The answer to `request_progress()`: etcd before 3.4.25 and 3.5.8 sends it before
    events that it covers, so it guarantees nothing."""
    CREATED = "created"


class Response(NamedTuple):
    """What the user got at once."""

    kind: Kind
    events: tuple[Event, ...]
    header_revision: int
    bookmark: int
    """`Watch.next_revision` right afterwards."""
    compacted: int = 0
    """The highest revision that a compaction had been requested for by then."""


@dataclass(slots=True)
class Session:
    """One watch, from its creation until the user closed it or it failed.

    Attributes:
        start: the first revision that it covers.
        bookmark: its `next_revision` at the end, which is where to continue.
        compacted: the revision of its `CompactedError`, if it failed with one.
    """

    start: int
    responses: list[Response] = field(default_factory=list)
    bookmark: int = 0
    compacted: int = 0

    @property
    def next_start(self) -> int:
        return self.compacted or self.bookmark

    def events(self) -> Iterator[Event]:
        return (event for each in self.responses for event in each.events)


@dataclass(slots=True)
class Record:
    """What one user got, in sessions that each begin where the last one ended."""

    name: str
    request: Request
    sessions: list[Session] = field(default_factory=list)

    def responses(self) -> Iterator[tuple[Session, Response]]:
        return (
            (session, each) for session in self.sessions for each in session.responses
        )

    def processed(self) -> Iterator[Event]:
        """Return the events that the user has processed.

        A user of `events()` who stops within a revision gets that revision again, and
        therefore must not have processed a part of it.
        """
        for session, following in pairwise([*self.sessions, None]):
            assert session is not None
            for event in session.events():
                if following is None or event.revision < following.start:
                    yield event


class History:
    """What really happened, from the first revision on.

    Args:
        changes: all changes in order; prev_kv and is_create are computed here.
        compacted: the highest revision that a compaction was requested for.
    """

    def __init__(self, changes: Iterable[Event], compacted: int = 0) -> None:
        self.compacted = compacted
        self.events: list[Event] = []
        self.wrong: list[str] = []
        self._matching: dict[Request, tuple[list[Event], list[int]]] = {}
        self._by_place: dict[tuple[int, bytes], Event] = {}
        state: dict[bytes, KeyValue] = {}
        for change in changes:
            true = _change(state, change.type, change.kv)
            if true.kv != change.kv:
                self.wrong.append(f"history: {change} should be {true.kv}")
            self.events.append(true)
            self._by_place[true.revision, true.kv.key] = true

    @property
    def revision(self) -> int:
        """The newest revision; that of an empty etcd is 1."""
        return self.events[-1].revision if self.events else 1

    def matching(self, request: Request, start: int = 0) -> Sequence[Event]:
        """Return the events that a watch from this revision must get."""
        events, revisions = self._index(request)
        return events[bisect_left(revisions, start) :]

    def at(self, request: Request, revision: int) -> list[Event]:
        """Return the matching events of one revision."""
        events, revisions = self._index(request)
        return events[
            bisect_left(revisions, revision) : bisect_left(revisions, revision + 1)
        ]

    def true(self, event: Event) -> Event | None:
        """Return the change that this event reports; None if there was none."""
        return self._by_place.get((event.revision, event.kv.key))

    def _index(self, request: Request) -> tuple[list[Event], list[int]]:
        if request not in self._matching:
            events = [event for event in self.events if request.matches(event)]
            self._matching[request] = events, [event.revision for event in events]
        return self._matching[request]


def _change(state: dict[bytes, KeyValue], type_: str, kv: KeyValue) -> Event:
    """Apply a change, and return the event that etcd should send for it."""
    previous = state.get(kv.key)
    if type_ == DELETE:
        state.pop(kv.key, None)
        new = KeyValue(kv.key, b"", 0, kv.mod_revision, 0)
        return Event(DELETE, new, previous, is_create=False)
    created, version = kv.mod_revision, 1
    if previous is not None:
        created, version = previous.create_revision, previous.version + 1
    new = KeyValue(kv.key, kv.value, created, kv.mod_revision, version)
    state[kv.key] = new
    return Event(PUT, new, previous, is_create=previous is None)


@dataclass(frozen=True, slots=True)
class Write:
    """One attempt to write, in one transaction.

    Attributes:
        puts: the keys and values.
        deletes: the ranges of keys.
        revision: the acknowledged revision; None without an acknowledgement, when the
            write may or may not have been applied; 0 if it was and deleted nothing.
    """

    puts: Mapping[bytes, bytes]
    deletes: tuple[tuple[bytes, bytes], ...] = ()
    revision: int | None = None


def check_history(history: History, writes: Iterable[Write]) -> Iterator[str]:
    """The history consists of exactly the changes that the writers made."""
    yield from islice(history.wrong, SHOWN)
    acknowledged: dict[int, Write] = {}
    unknown: list[Write] = []
    for write in writes:
        if write.revision is None:
            unknown.append(write)
        elif write.revision and (
            acknowledged.setdefault(write.revision, write) is not write
        ):
            yield f"history: two writes were acknowledged at {write.revision}"
    state: dict[bytes, KeyValue] = {}
    revision = 1
    for revision, group in groupby(history.events, lambda event: event.revision):
        events = list(group)
        candidates = unknown
        if revision in acknowledged:
            candidates = [acknowledged.pop(revision)]
        for write in candidates:
            if _made(write, events, state):
                candidates.remove(write)
                break
        else:
            made = ", ".join(map(str, events))
            yield f"history: no write, or not the acknowledged one, made {made}"
        for event in events:
            _change(state, event.type, event.kv)
    for lost in sorted(acknowledged):
        yield f"history: the server lost the write acknowledged at {lost}"
    revisions = list(dict.fromkeys(event.revision for event in history.events))
    if revisions != list(range(2, revision + 1)):
        yield f"history: revisions are missing below {revision}"


def _made(
    write: Write, events: Sequence[Event], state: Mapping[bytes, KeyValue]
) -> bool:
    puts = {event.kv.key: event.kv.value for event in events if event.type == PUT}
    deleted = {event.kv.key for event in events if event.type == DELETE}
    return puts == write.puts and deleted == {
        key for key in state if any(in_range(key, *each) for each in write.deletes)
    }


# The checks


def check_filter(record: Record, history: History) -> Iterator[str]:
    """A user gets only what was requested."""
    request = record.request
    for _, response in record.responses():
        for event in response.events:
            if not request.matches(event):
                yield f"{event} was not asked for"
        match response.kind:
            case Kind.EVENTS | Kind.ONE_EVENT if not response.events:
                yield "a response without events"
            case Kind.PROGRESS if not request.progress_notify:
                yield "progress was not asked for"
            case Kind.CREATED if not request.created_notify:
                yield "the creation response was not asked for"


def check_ordered(record: Record, history: History) -> Iterator[str]:
    """Revisions never fall."""
    for before, event in pairwise(record.processed()):
        if event.revision < before.revision:
            yield f"{event} after {before}"


def check_unique(record: Record, history: History) -> Iterator[str]:
    """No event is delivered twice."""
    seen: set[tuple[int, bytes]] = set()
    for event in record.processed():
        place = event.revision, event.kv.key
        if place in seen:
            yield f"{event} came twice"
        seen.add(place)


def check_atomic(record: Record, history: History) -> Iterator[str]:
    """All events of one revision are in one response."""
    for session in record.sessions:
        last, begun_singly = 0, False
        for response in session.responses:
            if not response.events:
                continue
            torn = response.events[0].revision == last
            if response.kind is Kind.EVENTS:
                if torn and not begun_singly:
                    yield f"revision {last} came in two responses"
                # If events() delivered part of a revision, its rest comes as a
                # response.
                whole = (e for e in response.events if e.revision != last or not torn)
                for revision, group in groupby(whole, lambda event: event.revision):
                    count = len(history.at(record.request, revision))
                    if len(list(group)) < count:
                        yield f"not all {count} events of revision {revision}"
            last = response.events[-1].revision
            begun_singly = response.kind is Kind.ONE_EVENT or (torn and begun_singly)


def check_bookmarkable(record: Record, history: History) -> Iterator[str]:
    """No event below a progress notification or a bookmark follows it."""
    floor, why = 0, ""
    for session, response in record.responses():
        for event in response.events:
            if event.revision < floor:
                yield f"{event} after {why}"
        if response.kind is Kind.PROGRESS and response.header_revision >= floor:
            floor = response.header_revision + 1
            why = f"a progress notification at {response.header_revision}"
        if response.bookmark < floor:
            yield f"bookmark {response.bookmark} after {why}"
        elif response.bookmark > floor:
            floor, why = response.bookmark, f"bookmark {response.bookmark}"
        if response is session.responses[-1] and session.bookmark < floor:
            yield f"bookmark {session.bookmark} at the end, after {why}"


def check_resumable(record: Record, history: History) -> Iterator[str]:
    """A bookmark is where to continue: it skips nothing, and repeats nothing."""
    for before, session in pairwise(record.sessions):
        if session.start != before.next_start:
            yield f"continued at {session.start} instead of {before.next_start}"
    for session in record.sessions:
        expected = history.matching(record.request, session.start)
        first = next(session.events(), None)
        if first and expected and first.revision != expected[0].revision:
            yield f"from {session.start} on, the first event is {first}"
        if session.compacted and not (
            session.bookmark < session.compacted <= history.compacted
        ):
            yield f"compacted at {session.compacted}, though at {session.bookmark}"
        handed: set[tuple[int, bytes]] = set()
        position, last = 0, 0
        marks = [(each.events, each.bookmark) for each in session.responses]
        for events, bookmark in [*marks, ((), session.bookmark)]:
            handed.update((event.revision, event.kv.key) for event in events)
            last = max([last, *(event.revision for event in events)])
            while position < len(expected):
                awaited = expected[position]
                if (awaited.revision, awaited.kv.key) not in handed:
                    break
                position += 1
            awaited_revision = (
                expected[position].revision if position < len(expected) else None
            )
            if bookmark < session.start:
                yield f"bookmark {bookmark}, though it starts at {session.start}"
            if awaited_revision is not None and awaited_revision < bookmark:
                yield f"bookmark {bookmark} passes over {expected[position]}"
            # Within a revision, events() has to repeat that revision.
            if bookmark <= last and not bookmark == last == awaited_revision:
                yield f"bookmark {bookmark} repeats revision {last}"


def check_is_create(record: Record, history: History) -> Iterator[str]:
    """is_create is true for the put that creates a key, and false otherwise."""
    for _, response in record.responses():
        for event in response.events:
            true = history.true(event)
            if true and event.is_create != true.is_create:
                yield f"{event} has is_create={event.is_create}"


def check_reliable(record: Record, history: History) -> Iterator[str]:
    """Nothing is missing, changed or invented, up to the bookmark."""
    for session in record.sessions:
        expected = history.matching(record.request, session.start)
        handed = list(session.events())
        for event, true in zip(handed, expected, strict=False):
            if (event.type, event.kv) != (true.type, true.kv):
                yield f"{event} ({event.kv}) instead of {true} ({true.kv})"
                break
        else:
            if len(handed) > len(expected):
                yield f"{handed[len(expected)]} never happened, or was not asked for"
            for missing in expected[len(handed) :][:1]:
                if missing.revision < session.bookmark:
                    yield f"{missing} is missing at the end"


def check_prev_kv(record: Record, history: History) -> Iterator[str]:
    """prev_kv is the previous value of the key, if it was requested."""
    for _, response in record.responses():
        for event in response.events:
            true = history.true(event)
            if true is None:
                continue
            right = [true.prev_kv if record.request.prev_kv else None]
            # The server no longer has it; it is not known since when.
            if event.revision <= history.compacted:
                right.append(None)
            if event.prev_kv not in right:
                yield f"{event} has prev_kv={event.prev_kv} instead of {right[0]}"


CHECKS: Mapping[str, Callable[[Record, History], Iterator[str]]] = {
    "filter": check_filter,
    "ordered": check_ordered,
    "unique": check_unique,
    "atomic": check_atomic,
    "bookmarkable": check_bookmarkable,
    "resumable": check_resumable,
    "is_create": check_is_create,
    "reliable": check_reliable,
    "prev_kv": check_prev_kv,
}


def is_silently_compacted(record: Record, history: History) -> bool:
    """Whether each gap in the events begins with compacted events, if there is any gap.

    A server may then have skipped them silently, together with later events, as etcd
    before 3.4.31 and 3.5.13 does: https://github.com/etcd-io/etcd/issues/17529
    """
    gaps = [gap for each in record.sessions for gap in _gaps(record, history, each)]
    return bool(gaps) and all(first.revision < by for first, by in gaps)


def _gaps(
    record: Record, history: History, session: Session
) -> Iterator[tuple[Event, int]]:
    """Yield for each gap its first event, and the compaction known by then."""
    handed = {(event.revision, event.kv.key) for event in session.events()}
    responses = iter(session.responses)
    response = next(responses, None)
    in_gap = False
    for event in history.matching(record.request, session.start):
        while response and response.bookmark <= event.revision:
            response = next(responses, None)
        if response is None:
            return
        is_missing = (event.revision, event.kv.key) not in handed
        if is_missing and not in_gap:
            yield event, response.compacted
        in_gap = is_missing


def violations(record: Record, history: History) -> list[str]:
    """Return what all checks find, each with the names of the check and the record."""
    return [
        f"{name}: {record.name}: {text}"
        for name, check in CHECKS.items()
        for text in islice(check(record, history), SHOWN)
    ]
