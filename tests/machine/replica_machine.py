"""The state machine that tests the replica, between a store and consumers.

`test_replica_machine.py` runs it on the replica as it is, and with a rule broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.machine.replica_mutations import REAL, Core
from tests.machine.store import Store, as_events, header_at
from trio_etcd_watch import KeyValue
from trio_etcd_watch._face import construct
from trio_etcd_watch._mapping import Snapshot
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._replica import Check, Proof
from trio_etcd_watch._views import Consumer

PREFIX = b"b"
INSIDE = [b"b0", b"b1", b"b10", b"b2"]
OUTSIDE = [b"a", b"c"]

# There are few values, so that a key is often put again with the value that it had.
keys = st.sampled_from(INSIDE + OUTSIDE)
values = st.sampled_from([b"x", b"y"])
transactions = st.dictionaries(keys, st.none() | values, min_size=1, max_size=6)


def some_of(keys: Sequence[bytes]) -> st.SearchStrategy[list[bytes]]:
    if not keys:
        return st.just([])
    return st.lists(st.sampled_from(keys), min_size=1, max_size=2, unique=True)


def indices(items: Sequence[object]) -> st.SearchStrategy[int]:
    return st.integers(0, len(items) - 1)


@dataclass(slots=True, eq=False)
class Look:
    """One consumer, and what its next update may contain."""

    consumer: Consumer
    seen: dict[bytes, KeyValue] | None
    """The mapping at its last update; None before its first, which has everything."""
    touched: set[bytes] = field(default_factory=set)
    """Keys that have changed since, but for those created and deleted since."""
    may_resync: bool = False
    """Whether a relist has changed the mapping, and `touched` was never empty since."""
    must_resync: bool = False
    """Whether, ever since such a relist, the mapping has differed from `seen`."""


class ReplicaMachine(RuleBasedStateMachine):
    """One replica of a range, its watch, proofs, checks and consumers."""

    core: ClassVar[Core] = REAL

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(PREFIX)
        self.checks: list[Check] = []
        # Each with the number of relists at its time.
        self.proofs: list[tuple[Proof, int]] = []
        self.relists = 0
        self.looks: list[Look] = []
        self.viewed: dict[bytes, KeyValue] | None = None
        # The revision of the newest dropped event that may still show; 0 for none.
        self.dropped = 0

    @initialize(changes=transactions)
    def enter(self, changes: dict[bytes, bytes | None]) -> None:
        self.store.commit(changes)
        snapshot = self.store.snapshot()
        self.replica = self.core.replica(snapshot)
        self.next_revision = snapshot.revision + 1

    # Events in the store

    @rule(key=keys, value=values)
    def put(self, key: bytes, value: bytes) -> None:
        self.store.commit({key: value})

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        self.store.commit({key: None})

    @rule(key=st.sampled_from(INSIDE))
    def delete_and_recreate(self, key: bytes) -> None:
        now = self.store.range(self.store.revision).get(key)
        if now is not None:
            self.store.commit({key: None})
            self.store.commit({key: now.value})

    @rule(key=st.sampled_from(INSIDE), value=values, check=st.booleans())
    def create_and_delete(self, key: bytes, value: bytes, check: bool) -> None:
        """The key is gone again, so a check may overtake its events."""
        if key not in self.store.range(self.store.revision):
            if check:
                self.catch_up()
            self.store.commit({key: value})
            self.store.commit({key: None})
            if check:
                self.start_check(counted=False, settle=True)
                self.receive_up_to(self.store.revision - 1)
                self.receive_all()

    @rule(key=keys, value=st.none() | values)
    def check_at_once(self, key: bytes, value: bytes | None) -> None:
        """Check before the event comes, or, for a key outside the range, without one."""
        self.catch_up()
        self.store.commit({key: value})
        self.start_check(counted=False, settle=True)
        self.receive_all()
        self.start_check(counted=False, settle=True)

    @rule(changes=transactions)
    def transaction(self, changes: dict[bytes, bytes | None]) -> None:
        self.store.commit(changes)

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        newest = self.store.revision
        self.store.compacted = data.draw(st.integers(self.store.compacted, newest))

    # Deliveries of the watch

    @property
    def behind(self) -> int:
        """How many revisions the watch has still to deliver."""
        return self.store.revision + 1 - self.next_revision

    def receive(self, raw: list[pb.Event], last: int) -> None:
        """Apply a response up to the revision `last`; events may have been dropped."""
        replica = self.replica
        before = dict(replica.mapping), replica.revision
        continues = self.continue_their_keys(raw)
        # chain
        assert continues or self.dropped
        try:
            changed = replica.apply(as_events(raw))
        except self.core.diverged:
            # whole_transactions
            assert not continues
            assert before == (dict(replica.mapping), replica.revision)
            self.relist()
            return
        assert continues
        # falls_only_if_lost
        assert replica.revision >= before[1]
        self.next_revision = last + 1
        assert changed == (before[0] != dict(replica.mapping))
        self.note_move(before[0])

    def receive_up_to(self, last: int) -> None:
        self.receive(self.store.events(self.next_revision, last), last)

    def receive_all(self) -> None:
        self.receive_up_to(self.store.revision)

    def catch_up(self) -> None:
        if self.next_revision < self.store.compacted:
            self.relist()
        else:
            self.receive_all()

    def continue_their_keys(self, raw: list[pb.Event]) -> bool:
        """Whether our key before each new event is the same as in the store."""
        now: dict[bytes, KeyValue | None] = dict(self.replica.mapping)
        for event in raw:
            key, revision = event.kv.key, event.kv.mod_revision
            if revision <= self.replica.revision:
                continue
            ours, truth = now.get(key), self.store.range(revision - 1).get(key)
            if ours is None or truth is None:
                if ours is not truth:
                    return False
            elif event.type == pb.Event.PUT and (
                (ours.version, ours.create_revision)
                != (truth.version, truth.create_revision)
            ):
                return False
            now[key] = self.store.range(revision).get(key)
        return True

    @precondition(lambda self: self.behind > 0)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """Deliver one response; the member may lag behind the store."""
        last = self.next_revision - 1 + data.draw(st.integers(1, self.behind))
        if self.next_revision < self.store.compacted:
            self.relist()
        else:
            self.receive_up_to(last)

    @rule(
        key=st.sampled_from(INSIDE),
        sent=st.lists(st.none() | values, max_size=2),
        lost=st.lists(st.none() | values, min_size=1, max_size=3),
        after=st.lists(st.none() | values, max_size=2),
    )
    def lose_some_of_a_key(
        self,
        key: bytes,
        sent: list[bytes | None],
        lost: list[bytes | None],
        after: list[bytes | None],
    ) -> None:
        """Lose events from the middle of its history or, if none come after, the end."""
        self.catch_up()
        ends = []
        for values in (sent, lost, after):
            for value in values:
                self.store.commit({key: value})
            ends.append(self.store.revision)
        first, last, newest = ends
        if last > first:
            self.dropped = last
        raw = self.store.events(self.next_revision, first)
        self.receive(raw + self.store.events(last + 1, newest), newest)
        self.prove_now()

    @precondition(lambda self: self.behind > 0)
    @rule(data=st.data())
    def deliver_dropping(self, data: st.DataObject) -> None:
        """Deliver like a server that skips events of a lagging watch (etcd #17529).

        It drops up to three successive events of one or two keys, puts or deletions.
        """
        raw = self.store.events(self.next_revision, self.store.revision)
        able = sorted({event.kv.key for event in raw})
        for key in data.draw(some_of(able)):
            own = [event for event in raw if event.kv.key == key]
            first = data.draw(indices(own))
            lost = own[first : first + data.draw(st.integers(1, 3))]
            raw = [event for event in raw if event not in lost]
            self.dropped = max(self.dropped, lost[-1].kv.mod_revision)
        self.receive(raw, self.store.revision)
        if data.draw(st.booleans()):
            self.prove_now()

    def prove_now(self) -> None:
        self.replica.progressed(self.store.revision)
        if self.proofs:
            # An older proof need not detect the loss; the next one must.
            self.finish(*self.proofs.pop())
        self.finish(self.replica.proof(), self.relists)

    @precondition(lambda self: self.behind == 0)
    @rule()
    def progress(self) -> None:
        self.replica.progressed(self.store.revision)

    @rule()
    def stale_progress(self) -> None:
        """An older notification never moves the revision back."""
        self.replica.progressed(self.next_revision - 1)

    @rule(proof=st.booleans())
    def lose_stream(self, proof: bool) -> None:
        """Resume from what was received; if that has been compacted, relist."""
        if self.next_revision < self.store.compacted:
            self.relist()
        elif proof:
            self.finish(self.replica.proof(), self.relists)

    @rule()
    def relist(self) -> None:
        fresh = self.store.snapshot()
        before = dict(self.replica.mapping)
        # replaced_in_one_step
        assert set(self.replica.replace(fresh)) == {
            key
            for key in before.keys() | fresh.keys()
            if before.get(key) != fresh.get(key)
        }
        assert self.replica.revision == self.replica.proved == fresh.revision
        self.next_revision = fresh.revision + 1
        self.dropped = 0
        self.relists += 1
        self.checks.clear()
        if before != dict(fresh):
            for look in self.looks:
                look.may_resync = look.must_resync = True
        self.note_move(before)

    @rule(key=st.sampled_from(INSIDE), value=values, other=keys)
    def come_by_relist_and_go(self, key: bytes, value: bytes, other: bytes) -> None:
        """A slow consumer sees neither the key nor that there was a relist."""
        if key not in self.store.range(self.store.revision):
            self.relist()
            self.consume(initial=False)
            self.store.commit({key: value})
            self.relist()
            self.store.commit({key: None})
            self.receive_all()
            self.store.commit({other: value})
            self.receive_all()
            self.look(self.looks[-1])

    @rule(data=st.data())
    def lose_and_repeat_history(self, data: st.DataObject) -> None:
        """For a slow consumer nothing has changed."""
        self.relist()
        self.store.forget(data.draw(st.integers(1, self.store.revision)))
        self.relist()
        self.store.repeat()
        self.receive_all()

    @rule(data=st.data(), writes=st.lists(transactions, max_size=3))
    def lose_history(
        self, data: st.DataObject, writes: list[dict[bytes, bytes | None]]
    ) -> None:
        self.store.forget(data.draw(st.integers(1, self.store.revision)))
        for changes in writes:
            self.store.commit(changes)
        since = self.replica.revision
        newer = self.store.rows(self.store.revision, since)
        newest = max((mod for mod, _ in newer.values()), default=0)
        count = len(self.store.range(self.store.revision))
        check = self.core.check(since, count, header_at(self.store.revision), newest)
        if self.store.revision < since:
            try:
                self.replica.settle(check)
            except self.core.diverged:
                pass
            else:
                raise AssertionError("a store that is behind is not noticed")
        self.relist()

    # Proofs and checks

    @rule()
    def start_proof(self) -> None:
        self.proofs.append((self.replica.proof(), self.relists))

    @precondition(lambda self: self.proofs)
    @rule(data=st.data())
    def finish_proof(self, data: st.DataObject) -> None:
        self.finish(*self.proofs.pop(data.draw(indices(self.proofs))))

    @rule(key=st.sampled_from(INSIDE), value=st.none() | values)
    def prove_across_a_change(self, key: bytes, value: bytes | None) -> None:
        self.catch_up()
        proof, relists = self.replica.proof(), self.relists
        self.store.commit({key: value})
        self.receive_all()
        self.finish(proof, relists)

    def finish(self, proof: Proof, relists: int) -> None:
        """Finish a proof from the store, unless its revision cannot be read there."""
        if not self.store.compacted <= proof.revision <= self.store.revision:
            return
        is_of_now = relists == self.relists
        truth = self.store.range(proof.revision)
        rows = self.store.rows(proof.revision, proof.since)
        try:
            counts = self.replica.prove(proof, rows, len(truth))
        except self.core.diverged:
            # proof
            assert is_of_now
            assert self.dropped
            self.relist()
            return
        # proof_of_its_revision
        assert counts == is_of_now
        if counts:
            assert {kv.key: kv for kv in self.replica._at(proof.position)} == truth
            assert self.replica.proved >= proof.revision
            if self.dropped <= proof.revision:
                # The dropped events have no effect any more.
                self.dropped = 0

    @rule(counted=st.booleans(), settle=st.booleans())
    def start_check(self, counted: bool, settle: bool) -> None:
        """Begin a check from a linearizable read, which has the newest revision."""
        newest: int | None = None
        if not counted:
            rows = self.store.rows(self.store.revision, self.replica.revision)
            newest = max((mod for mod, _ in rows.values()), default=0)
        self.checks.append(
            self.core.check(
                since=self.replica.revision,
                header=header_at(self.store.revision),
                count=len(self.store.range(self.store.revision)),
                newest=newest,
            )
        )
        if settle:
            self.settle()

    @rule()
    def settle(self) -> None:
        for check in self.checks:
            settled = self.replica.settle(check)
            # check
            assert settled == (self.replica.revision >= check.revision)
            if not settled and not self.dropped:
                # It waits only for events, or for the read of the newest revision.
                complete = self.next_revision > check.revision
                assert check.newest is None or not complete
        self.checks = [c for c in self.checks if c.revision > self.replica.revision]

    # Consumers

    @rule(initial=st.booleans())
    def consume(self, initial: bool) -> None:
        consumer = self.core.consumer(self.replica, initial=initial)
        seen = None if initial else dict(self.replica.mapping)
        self.looks.append(Look(consumer, seen))

    @precondition(lambda self: self.looks)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        self.look(self.looks[data.draw(indices(self.looks))])

    def look(self, look: Look) -> None:
        now = dict(self.replica.mapping)
        update = look.consumer.take()
        if update is None:
            assert look.seen == now
        else:
            state = dict(look.seen or {})
            assert update.revision == self.replica.revision
            # first_is_everything
            assert update.changes or look.seen is None
            changed = [change.key for change in update.changes]
            assert changed == sorted(set(changed))
            for change in update.changes:
                # state_to_state
                assert change.old != change.new
                assert state.pop(change.key, None) == change.old
                if change.new is not None:
                    state[change.key] = change.new
            assert state == now
            if look.seen is None:
                # goes_on
                assert not update.resynced
            else:
                assert look.must_resync <= update.resynced <= look.may_resync
        look.seen = now
        look.touched = set()
        look.may_resync = look.must_resync = False

    @precondition(lambda self: self.looks)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        del self.looks[data.draw(indices(self.looks))]

    def note_move(self, before: dict[bytes, KeyValue]) -> None:
        now = dict(self.replica.mapping)
        keys = before.keys() | now.keys()
        moved = {key for key in keys if before.get(key) != now.get(key)}
        for look in self.looks:
            if look.seen is not None:
                look.touched = (look.touched | moved) & (look.seen.keys() | now.keys())
            if not look.touched:
                look.may_resync = False
            if look.seen == now or not look.touched:
                look.must_resync = False

    # Invariants

    @invariant()
    def the_mapping_is_the_range(self) -> None:
        if hasattr(self, "replica") and not self.dropped:
            # equal, known_passed_over
            assert dict(self.replica.mapping) == self.store.range(self.replica.revision)

    @invariant()
    def views_agree(self) -> None:
        if not hasattr(self, "replica") or self.viewed == dict(self.replica.mapping):
            return
        self.viewed = mapping = dict(self.replica.mapping)
        assert list(self.replica.mapping) == sorted(mapping)
        copy = self.replica.copy(self.store.snapshot().header)
        assert list(copy.items()) == sorted(mapping.items())
        assert isinstance(copy, Snapshot)
        assert copy.revision == self.replica.revision
        for prefix in (b"b1", b"c", b"\xff", b""):
            view = construct(self.core.view, lambda: self.replica, prefix)
            expected = {
                key: kv for key, kv in mapping.items() if key.startswith(prefix)
            }
            # live_views
            assert list(view) == sorted(expected)
            assert len(view) == len(expected)
            assert dict(view) == expected
            assert [key for key in INSIDE if key in view] == sorted(expected)

    @invariant()
    def the_revision_holds_what_has_come(self) -> None:
        if hasattr(self, "replica"):
            events = self.store.events(1, self.next_revision - 1)
            newest = max((event.kv.mod_revision for event in events), default=0)
            assert self.dropped or self.replica.revision >= newest
            assert self.replica.revision <= self.store.revision

    @invariant()
    def memory_is_bounded_by_keys(self) -> None:
        # memory_for_keys
        if not hasattr(self, "replica"):
            return
        positions = list(self.replica._positions)
        for position in positions:
            assert all(
                old is not None or key in self.replica.mapping
                for key, old in position.unseen.items()
            )
        held = {look.consumer._position for look in self.looks}
        held |= {proof.position for proof, _ in self.proofs}
        assert set(positions) <= held | {self.replica._present}
