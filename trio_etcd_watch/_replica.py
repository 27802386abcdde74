"""Keeps a copy of a range at a revision: applies events to it, and proves it right.

Sans-IO. These are the rules, by their names in docs/explanation/guarantees.md:

equal, whole_transactions, replaced_in_one_step
    The mapping is the range at `Replica.revision`. A response is applied completely or,
    if one event does not continue its key, not at all (`Replica.apply`). A fresh
    snapshot replaces the mapping in one step (`Replica.replace`).
proof
    A proof finds losses that no chain of events shows: a lost put that no event of its
    key follows, a lost deletion, or both at once (`Replica.prove`).
check
    A check shows that the mapping holds everything that was committed before a
    linearizable read, even if no event or progress shows this (`Replica.settle`).
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
"""Bytes of a key that a log line or an error shows."""

NO_END = b"\0"
"""As the end of a range, it means no end (etcd's rpc.proto, RangeRequest)."""


class Diverged(Exception):
    """The mapping differs from what the server has, so the range must be read again.

    It is never raised to users. Its text is the reason in the log.
    """


@final
@dataclass(frozen=True, slots=True)
class Proof:
    """The state to compare with a keys-only read at `revision`.

    The read leaves out keys that were last put at `since` or before (min_mod_revision =
    since + 1): these are proved already, and the count of all keys covers them.
    """

    revision: int
    since: int
    count: int
    position: Position
    relists: int


@final
@dataclass(frozen=True, slots=True)
class Check:
    """The result of a linearizable read, at the mapping's revision or a later one.

    It must not be used once the range has been read again.
    """

    since: int
    """The revision of the mapping when the read was sent."""
    count: int
    """How many keys the range has."""
    header: ResponseHeader
    """The header of the answer."""
    newest: int | None = None
    """The greatest mod_revision above `since`, 0 if there is none (the read has
    min_mod_revision = since + 1 and is sorted); None if the read asked for a count."""

    @property
    def revision(self) -> int:
        """The revision of the store at the read."""
        return self.header.revision


def is_settled(check: Check, *, applied: int, count: int) -> bool:
    """Whether a mapping that is right at `applied` is also right at a check.

    If no key in the later state was put after `applied`, each of them is as it was at
    `applied`. So the later state is a part of the earlier one, and equal to it if both
    have the same number of keys.

    Args:
        check: the read.
        applied: the revision of the mapping.
        count: how many keys the mapping has.
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
        mapping: the keys of the range; only this class changes it.
        revision: the revision of the mapping. It falls only if history was lost
            (`replace`).
        proved: the last revision at which the mapping was proved right.
        moves: increases with each change of `mapping`, even if it was changed back.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.mapping: SortedDict[bytes, KeyValue] = SortedDict(data_of(snapshot))
        self.revision: int = snapshot.revision
        self.proved: int = snapshot.revision
        self.moves: int = 0
        self._relists = 0
        self._positions: WeakSet[Position] = WeakSet()
        # The position of the present state; None if no consumer has asked for it.
        self._present: Position | None = None

    # Changes

    def apply(self, events: Iterable[Event]) -> bool:
        """Apply the events of one response: all of them, or none.

        known_passed_over: events at or below `revision` are skipped. A check may have
        moved `revision` past events that do not change the mapping.

        Args:
            events: whole revisions, in order.

        Returns:
            Whether the mapping has changed.

        Raises:
            Diverged: an event does not continue its key, so another one was lost.
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
            # A key that was created and deleted is no change, but an iteration over the
            # mapping must stop.
            self.moves += 1
            brief = [key for key, old in olds.items() if old is None]
            for key in itertools.filterfalse(mapping.__contains__, brief):
                del olds[key]
        return self._note(olds, resynced=False)

    def _diverged(self, event: Event, old: KeyValue | None, olds: Olds) -> Diverged:
        """Restore the mapping to before the response, and return the error."""
        self.moves += 1
        for key, before in olds.items():
            if before is not None:
                self.mapping[key] = before
            else:
                self.mapping.pop(key, None)
        return Diverged(_broken_chain(event, old))

    def progressed(self, revision: int) -> None:
        """Note that all events up to this revision have been applied.

        falls_only_if_lost: `revision` never decreases here.
        """
        self.revision = max(self.revision, revision)

    def replace(self, snapshot: Snapshot) -> list[bytes]:
        """Replace the mapping with a fresh snapshot, in one step.

        Returns:
            The keys that differ, in no particular order.
        """
        mapping, fresh = self.mapping, data_of(snapshot)
        olds: dict[bytes, KeyValue | None] = {
            key: kv for key, kv in mapping.items() if fresh.get(key) != kv
        }
        olds.update((key, None) for key in fresh if key not in mapping)
        if olds:
            # This comes first: a MemoryError here must not leave half a change.
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

    # Proofs and checks

    def proof(self) -> Proof:
        """Return the present state for a proof, during which the mapping may change.

        proof_of_its_revision: `prove` compares this state, which is the mapping of its
        time without the changes since.
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
        """Compare a state with what the server has at the revision of the proof.

        This iterates over the whole mapping.

        Args:
            proof: the result of `proof()` before the read.
            rows: mod_revision and version, by key, of the keys that were put after
                `proof.since`.
            count: how many keys the range has.

        Returns:
            Whether the proof counts: it does not if the range was read again meanwhile.

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
        """Iterate over the keys at this position, in no particular order."""
        unseen = position.unseen
        for key, kv in self.mapping.items():
            if key not in unseen:
                yield kv
        for old in unseen.values():
            if old is not None:
                yield old

    def settle(self, check: Check) -> bool:
        """Move to the revision of the check, if the mapping is right there, too.

        Call it again after each response. If events up to that revision are still to
        come (of keys that were put and deleted), `apply` skips them.

        Returns:
            Whether the mapping holds everything up to the check.

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

    # Views

    def position(self) -> Position:
        """Return the present state as a position, kept as long as a caller holds it."""
        if self._present is None:
            self._present = Position()
            self._positions.add(self._present)
        return self._present

    def copy(self, header: ResponseHeader) -> Snapshot:
        """Return the present state as a snapshot with this header."""
        data = dict(self.mapping.items())
        return construct(Snapshot, header, self.revision, data, LIBRARY)

    def keys(self, first: bytes, end: bytes) -> Iterator[bytes]:
        """Iterate over the keys from `first` up to, not including, `end`, in order.

        Raises:
            RuntimeError: the mapping has changed meanwhile; a dict does the same.
        """
        moves = self.moves
        last = None if end == NO_END else end
        for key in self.mapping.irange(first, last, inclusive=(True, False)):
            yield key
            if self.moves != moves:
                raise RuntimeError("the mirror has changed during iteration")

    def count(self, first: bytes, end: bytes) -> int:
        """Return how many keys there are from `first` up to, not including, `end`."""
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
"""Return what a proof compares of a key."""


def _version(row: tuple[int, int] | None, absent: str = "absent") -> str:
    return f"version {row[1]} of revision {row[0]}" if row else absent


def shown(key: bytes) -> str:
    """Return a key for a log line: escaped, and cut."""
    return repr(key) if len(key) <= MAX_SHOWN else f"{key[:MAX_SHOWN]!r}..."
