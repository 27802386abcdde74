"""A range at a revision: what moves it, and what proves it.

Sans-IO. The rules go by the names under which docs/explanation/guarantees.md has them:

equal, whole_transactions, replaced_in_one_step
    The mapping is the range at `Replica.revision`. A response moves it whole or, if one
    event does not continue its key, not at all (`Replica.apply`); a fresh snapshot
    replaces it in one step (`Replica.replace`).
proof
    Finds what no chain of events shows: a lost put that nothing follows, a lost
    deletion, both at once (`Replica.prove`).
check
    Says when the mapping holds all that was committed before a linearizable read,
    though no event or progress tells (`Replica.settle`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import final
from weakref import WeakSet

from sortedcontainers import SortedDict

from ._chain import begins_or_ends, put_again_fast
from ._changes import Olds, Position
from ._face import LIBRARY, construct
from ._mapping import Snapshot, data_of
from ._responses import Event, EventType, KeyValue, ResponseHeader

MAX_SHOWN = 100
"""Bytes of a key that a message shows."""

NO_END = b"\0"
"""As the end of a range: there is none (etcd's rpc.proto, RangeRequest)."""


class Diverged(Exception):
    """The mapping is not what the server has, so the range must be read anew.

    Never leaves the package: its text is the reason in the log.
    """


@final
@dataclass(frozen=True, slots=True)
class Proof:
    """What is to be compared with a keys-only read at `revision`.

    The read leaves out what was last put at `since` or before (min_mod_revision =
    since + 1): that was proved already, and the count of all keys covers it.
    """

    revision: int
    since: int
    count: int
    position: Position
    relists: int


@final
@dataclass(frozen=True, slots=True)
class Check:
    """What one linearizable read tells of the range, now or later than the mapping.

    Of no use once the mapping has been read anew.
    """

    since: int
    """The revision of the mapping when the read was sent."""
    count: int
    """Of all keys in the range."""
    header: ResponseHeader
    """Of the answer."""
    newest: int | None = None
    """The greatest mod_revision above `since`, 0 if there is none (the read has
    min_mod_revision = since + 1 and is sorted); None if the read asked for a count."""

    @property
    def revision(self) -> int:
        """Of the store."""
        return self.header.revision


def is_settled(check: Check, *, applied: int, count: int) -> bool:
    """Whether a mapping that is right at `applied`, with `count` keys, is so at the check.

    If nothing there was put later than `applied`, every key there is as it was then. So
    the later state is part of the earlier one, and all of it if as many keys are there.
    """
    if applied >= check.revision:
        return True
    if check.newest is None or applied < check.since:
        return False
    return check.newest <= applied and count == check.count


@final
class Replica:
    """A range at a revision.

    Attributes:
        mapping: the range, exactly; to be changed here only.
        revision: falls only where the history was lost (`replace`).
        proved: the last revision at which it is known to have been right.
        moves: rises whenever `mapping` was changed, also if it was changed back.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.mapping: SortedDict[bytes, KeyValue] = SortedDict(data_of(snapshot))
        self.revision: int = snapshot.revision
        self.proved: int = snapshot.revision
        self.moves: int = 0
        self._relists = 0
        self._positions: WeakSet[Position] = WeakSet()
        # The one at the present state, for as long as it lasts.
        self._present: Position | None = None

    # What moves it

    def apply(self, events: Iterable[Event]) -> bool:
        """Move over the events of one response: all of them, or none.

        known_passed_over: those at or below `revision` are; a check may have shown that
        they leave no trace.

        Args:
            events: whole revisions, in order.

        Returns:
            Whether the mapping has changed.

        Raises:
            Diverged: one does not continue its key, so another must have been lost.
        """
        mapping, known, revision = self.mapping, self.revision, self.revision
        olds: dict[bytes, KeyValue | None] = {}
        gone = False
        rest = iter(events)
        while True:
            event, last = put_again_fast(mapping, rest, known, olds, EventType.PUT)
            revision = last or revision
            if event is None:
                break
            kv = event.kv
            old = mapping.get(kv.key)
            if not begins_or_ends(event, old):
                raise self._diverged(event, old, olds)
            if old is None:
                mapping[kv.key] = kv
            else:
                del mapping[kv.key]
                gone = True
            olds.setdefault(kv.key, old)
            revision = kv.mod_revision
        self.revision = revision
        if gone:
            # What came and went is no change, but has moved what lies about it.
            self.moves += 1
            brief = [key for key, old in olds.items() if old is None]
            for key in itertools.filterfalse(mapping.__contains__, brief):
                del olds[key]
        return self._note(olds, resynced=False)

    def _diverged(self, event: Event, old: KeyValue | None, olds: Olds) -> Diverged:
        """Go back to before the response, and say why."""
        self.moves += 1
        for key, before in olds.items():
            if before is not None:
                self.mapping[key] = before
            else:
                self.mapping.pop(key, None)
        return Diverged(_broken_chain(event, old))

    def progressed(self, revision: int) -> None:
        """Note that every event up to this revision has been applied.

        falls_only_if_lost: it never falls here.
        """
        self.revision = max(self.revision, revision)

    def replace(self, snapshot: Snapshot) -> list[bytes]:
        """Take over a fresh snapshot in one step.

        Returns:
            The keys that differ, in no order.
        """
        mapping, fresh = self.mapping, data_of(snapshot)
        olds: dict[bytes, KeyValue | None] = {
            key: kv for key, kv in mapping.items() if fresh.get(key) != kv
        }
        olds.update((key, None) for key in fresh if key not in mapping)
        if olds:
            # First, as memory may run out.
            self.mapping = SortedDict(fresh)
        self.revision = snapshot.revision
        self.proved = snapshot.revision
        self._relists += 1
        self._note(olds, resynced=True)
        return list(olds)

    def _note(self, olds: Olds, *, resynced: bool) -> bool:
        if not olds:
            return False
        self.moves += 1
        self._present = None
        if self._positions:
            for position in self._positions:
                position.note(olds, self.mapping, resynced=resynced)
        return True

    # What shows it to be right

    def proof(self) -> Proof:
        """Return what is to be proved of the present state; it may move meanwhile.

        proof_of_its_revision: `prove` looks at what is here now, but for what has changed
        since.
        """
        return Proof(
            revision=self.revision,
            since=self.proved,
            count=len(self.mapping),
            position=self.position(),
            relists=self._relists,
        )

    def prove(
        self, proof: Proof, rows: Mapping[bytes, tuple[int, int]], count: int
    ) -> bool:
        """Compare with what the server has at the revision of the proof.

        A walk over the whole mapping.

        Args:
            proof: as given before the read.
            rows: mod_revision and version by key, of keys put after `proof.since`.
            count: of all keys.

        Returns:
            Whether it counts: the mapping has not been read anew in the meantime.

        Raises:
            Diverged: the two differ.
        """
        if proof.relists != self._relists:
            return False
        ours = {
            kv.key: row_of(kv)
            for kv in self._at(proof.position)
            if kv.mod_revision > proof.since
        }
        if ours != rows:
            key = min(key for key, _ in ours.items() ^ rows.items())
            own = proof.position.unseen.get(key, self.mapping.get(key))
            theirs = _version(rows.get(key), f"not put after revision {proof.since}")
            raise Diverged(
                f"at revision {proof.revision}, {shown(key)} is {theirs} on the "
                f"server, and {_version(own and row_of(own))} here"
            )
        if count != proof.count:
            raise Diverged(
                f"at revision {proof.revision} there are {count} keys on the server, "
                f"and {proof.count} here"
            )
        self.proved = max(self.proved, proof.revision)
        return True

    def _at(self, position: Position) -> Iterator[KeyValue]:
        """Give what was there at this position, in no order."""
        unseen = position.unseen
        for key, kv in self.mapping.items():
            if key not in unseen:
                yield kv
        for old in unseen.values():
            if old is not None:
                yield old

    def settle(self, check: Check) -> bool:
        """Move to the revision of the check, if the mapping is right there too.

        Ask again after each response. Where the events between are still to come (of
        keys that were put and deleted), `apply` passes over them.

        Raises:
            Diverged: the store was behind the mapping: lost_history_found.
        """
        if check.revision < check.since:
            raise Diverged(
                f"the store is at revision {check.revision}, and was at {check.since}"
            )
        settled = is_settled(check, applied=self.revision, count=len(self.mapping))
        if settled:
            self.progressed(check.revision)
        return settled

    # What others hold of it

    def position(self) -> Position:
        """Return the present state as a place to come back to; dropped, it is gone."""
        if self._present is None:
            self._present = Position()
            self._positions.add(self._present)
        return self._present

    def copy(self, header: ResponseHeader) -> Snapshot:
        """Return the present state as a value."""
        data = dict(self.mapping.items())
        return construct(Snapshot, header, self.revision, data, LIBRARY)

    def keys(self, first: bytes, end: bytes) -> Iterator[bytes]:
        """Give the keys from `first` up to `end`, in order.

        Raises:
            RuntimeError: the mapping has changed meanwhile, as a dict does.
        """
        moves = self.moves
        last = None if end == NO_END else end
        for key in self.mapping.irange(first, last, inclusive=(True, False)):
            yield key
            if self.moves != moves:
                raise RuntimeError("the mirror has changed during iteration")

    def count(self, first: bytes, end: bytes) -> int:
        """Return how many keys there are from `first` up to `end`."""
        mapping = self.mapping
        stop = len(mapping) if end == NO_END else mapping.bisect_left(end)
        return stop - mapping.bisect_left(first)


def _broken_chain(event: Event, old: KeyValue | None) -> str:
    kv, after = event.kv, _version(old and row_of(old))
    return (
        f"an event of {shown(kv.key)} before revision {kv.mod_revision} was lost: "
        f"{event.type.name} of version {kv.version} follows {after}"
    )


row_of: Callable[[KeyValue], tuple[int, int]] = attrgetter("mod_revision", "version")
"""Gives what a proof compares."""


def _version(row: tuple[int, int] | None, absent: str = "absent") -> str:
    return f"version {row[1]} of revision {row[0]}" if row else absent


def shown(key: bytes) -> str:
    """Return a key as it may stand in a log: escaped, and cut."""
    return repr(key) if len(key) <= MAX_SHOWN else f"{key[:MAX_SHOWN]!r}..."
