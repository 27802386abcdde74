"""The rules of the replica, each broken by one line, as in `mutations`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.machine.mutations import Mutation, mutated_modules
from trio_etcd_watch import _replica, _views

SHARED = ("_arguments", "_face", "_mapping", "_pb", "_requests", "_responses")

MUTABLE = ("_changes", "_twins", "_chain", "_replica", "_views")


@dataclass(frozen=True, slots=True)
class Core:
    """The names that the machine uses, from the real package or from a mutant."""

    replica: type[_replica.Replica]
    consumer: type[_views.Consumer]
    check: type[_replica.Check]
    view: type[_views.PrefixView]
    diverged: type[_replica.Diverged]


REAL = Core(
    _replica.Replica,
    _views.Consumer,
    _replica.Check,
    _views.PrefixView,
    _replica.Diverged,
)


@contextmanager
def mutated(mutation: Mutation | None) -> Iterator[Core]:
    """Yield the core with this mutation, or, for None, loaded likewise but unchanged."""
    # The package in memory has no module in C, so the decoder in Python is used.
    with mutated_modules(mutation, shared=SHARED, mutable=MUTABLE) as modules:
        *_, replica, views = modules
        yield Core(
            replica.Replica,
            views.Consumer,
            replica.Check,
            views.PrefixView,
            replica.Diverged,
        )


MUTATIONS = (
    # A response is applied whole, without the events that are already known.
    Mutation(
        "known_passed_over: known events are passed over",
        "_chain",
        8,
        "if at <= known:",
        "if False:",
    ),
    Mutation(
        "known_passed_over: known events are passed over",
        "_chain",
        8,
        "if at <= known:",
        "if at < known:",
    ),
    Mutation(
        "whole_transactions: events move the revision",
        "_replica",
        8,
        "self.revision = revision",
        "pass",
    ),
    Mutation(
        "whole_transactions: events move the mapping",
        "_replica",
        16,
        "del mapping[kv.key]",
        "pass",
    ),
    Mutation(
        "whole_transactions: events move the mapping",
        "_chain",
        8,
        "set_(mapping, key, kv)",
        "pass",
    ),
    Mutation(
        "whole_transactions: events move the mapping",
        "_replica",
        16,
        "mapping[kv.key] = kv",
        "pass",
    ),
    Mutation(
        "whole_transactions: a response that breaks the chain leaves no trace",
        "_replica",
        16,
        "self.mapping[key] = before",
        "pass",
    ),
    Mutation(
        "whole_transactions: a response that breaks the chain leaves no trace",
        "_replica",
        16,
        "self.mapping.pop(key, None)",
        "pass",
    ),
    Mutation(
        "state_to_state: the old value is that before the response",
        "_chain",
        8,
        "if key not in olds:",
        "if True:",
    ),
    Mutation(
        "state_to_state: the old value is that before the response",
        "_replica",
        12,
        "olds.setdefault(kv.key, old)",
        "olds[kv.key] = old",
    ),
    Mutation(
        "state_to_state: the old value is reported",
        "_replica",
        12,
        "olds.setdefault(kv.key, old)",
        "pass",
    ),
    Mutation(
        "whole_transactions: events move the revision, also if one creates or deletes a key",
        "_replica",
        12,
        "revision = last or revision",
        "revision = last",
    ),
    Mutation(
        "whole_transactions: events move the revision, also if one creates or deletes a key",
        "_replica",
        12,
        "revision = kv.mod_revision",
        "pass",
    ),
    Mutation(
        "whole_transactions: events move the revision, also if all are puts",
        "_chain",
        8,
        "revision = at",
        "pass",
    ),
    Mutation(
        "falls_only_if_lost: the revision never falls by progress",
        "_replica",
        8,
        "self.revision = max(self.revision, revision)",
        "self.revision = revision",
    ),
    Mutation(
        "state_to_state: a key created and deleted is no change",
        "_replica",
        8,
        "if gone:",
        "if False:",
    ),
    # The chain of the versions of each key.
    Mutation(
        "chain",
        "_replica",
        12,
        "if not begins_or_ends(event, old):",
        "if False:",
    ),
    Mutation(
        "chain: of a deletion",
        "_chain",
        4,
        "return event.type is EventType.PUT and created",
        "return event.type is EventType.DELETE or created",
    ),
    Mutation(
        "chain: of a creation",
        "_chain",
        4,
        "created = kv.version == 1 and kv.create_revision == kv.mod_revision",
        "created = True",
    ),
    Mutation(
        "chain: of a later version",
        "_chain",
        12,
        "or kv.version != old.version + 1",
        "or False",
    ),
    Mutation(
        "chain: of a later version",
        "_chain",
        12,
        "or kv.version != old.version + 1",
        "or kv.version <= old.version",
    ),
    Mutation(
        "chain: of a later version",
        "_chain",
        12,
        "or kv.create_revision != old.create_revision",
        "or False",
    ),
    # A new snapshot replaces the mapping.
    Mutation(
        "falls_only_if_lost: the revision may fall",
        "_replica",
        8,
        "self.revision = snapshot.revision",
        "self.progressed(snapshot.revision)",
    ),
    Mutation(
        "proof_of_its_revision: a snapshot proves",
        "_replica",
        8,
        "self.proved = snapshot.revision",
        "pass",
    ),
    Mutation(
        "proof_of_its_revision: older proofs do not count",
        "_replica",
        8,
        "self._relists += 1",
        "pass",
    ),
    Mutation(
        "replaced_in_one_step: reports what is new",
        "_replica",
        8,
        "olds.update((key, None) for key in fresh if key not in mapping)",
        "pass",
    ),
    Mutation(
        "replaced_in_one_step: the mapping is the snapshot",
        "_replica",
        12,
        "self.mapping = SortedDict(fresh)",
        "self.mapping = SortedDict({**fresh, **mapping})",
    ),
    Mutation(
        "goes_on: the update says so",
        "_replica",
        8,
        "self._note(olds, resynced=True)",
        "self._note(olds, resynced=False)",
    ),
    # Proofs.
    Mutation(
        "proof_of_its_revision: not from before a relist",
        "_replica",
        8,
        "if proof.relists != self._relists:",
        "if False:",
    ),
    Mutation(
        "proof: of what is new",
        "_replica",
        12,
        "if kv.mod_revision > proof.since",
        "if kv.mod_revision >= proof.since",
    ),
    Mutation(
        "proof: compares",
        "_replica",
        8,
        "if ours != rows:",
        "if False:",
    ),
    Mutation(
        "proof: compares revisions",
        "_replica",
        8,
        "if ours != rows:",
        "if ours.keys() != rows.keys():",
    ),
    Mutation(
        "proof: counts",
        "_replica",
        8,
        "if count != proof.count:",
        "if False:",
    ),
    Mutation(
        "proof: lasts",
        "_replica",
        8,
        "self.proved = max(self.proved, proof.revision)",
        "pass",
    ),
    Mutation(
        "proof_of_its_revision: of its own revision",
        "_replica",
        8,
        "self.proved = max(self.proved, proof.revision)",
        "self.proved = self.revision",
    ),
    Mutation(
        "proof_of_its_revision: races with events",
        "_replica",
        12,
        "if key not in unseen:",
        "if True:",
    ),
    Mutation(
        "proof_of_its_revision: races with events",
        "_replica",
        8,
        "for old in unseen.values():",
        "for old in ():",
    ),
    # Checks.
    Mutation(
        "check: by revision",
        "_replica",
        4,
        "if applied >= check.revision:",
        "if applied > check.revision:",
    ),
    Mutation(
        "check: by count",
        "_replica",
        4,
        "return check.newest <= applied and count == check.count",
        "return check.newest <= applied",
    ),
    Mutation(
        "check: by newest",
        "_replica",
        4,
        "return check.newest <= applied and count == check.count",
        "return count == check.count",
    ),
    Mutation(
        "check: settles",
        "_replica",
        4,
        "return check.newest <= applied and count == check.count",
        "return False",
    ),
    Mutation(
        "check: moves the revision",
        "_replica",
        12,
        "self.progressed(check.revision)",
        "pass",
    ),
    Mutation(
        "lost_history_found: lost history",
        "_replica",
        8,
        "if check.revision < check.since:",
        "if False:",
    ),
    # Views.
    Mutation(
        "live_views: up to the end",
        "_replica",
        8,
        "for key in self.mapping.irange(first, last, inclusive=(True, False)):",
        "for key in self.mapping.irange(first, last, inclusive=(True, True)):",
    ),
    Mutation(
        "live_views: up to the end",
        "_replica",
        8,
        "stop = len(mapping) if end == NO_END else mapping.bisect_left(end)",
        "stop = len(mapping) if end == NO_END else mapping.bisect_right(end)",
    ),
    Mutation(
        "live_views: up to the end",
        "_views",
        8,
        "within = self._first <= key and (key < self._end or self._end == NO_END)",
        "within = self._first <= key",
    ),
    Mutation(
        "live_views: from the prefix on",
        "_views",
        8,
        "within = self._first <= key and (key < self._end or self._end == NO_END)",
        "within = key < self._end or self._end == NO_END",
    ),
    # Consumers.
    Mutation(
        "first_is_everything: everything first",
        "_views",
        8,
        "self._position = None if initial else replica.position()",
        "self._position = replica.position()",
    ),
    Mutation(
        "state_to_state: nothing twice",
        "_views",
        8,
        "self._position = replica.position()",
        "self._position = self._position or replica.position()",
    ),
    Mutation(
        "state_to_state: no empty update",
        "_views",
        8,
        "if not changes:",
        "if False:",
    ),
    Mutation(
        "state_to_state: what changed",
        "_replica",
        8,
        "return self._note(olds, resynced=False)",
        "return self._note({}, resynced=False)",
    ),
    Mutation(
        "state_to_state: what was before",
        "_chain",
        12,
        "olds[key] = old",
        "olds[key] = None",
    ),
    Mutation(
        "state_to_state: each has its state",
        "_replica",
        8,
        "self._present = None",
        "pass",
    ),
    Mutation(
        "state_to_state: what it saw",
        "_changes",
        12,
        "if key not in unseen:",
        "if True:",
    ),
    Mutation(
        "memory_for_keys: memory for keys",
        "_changes",
        12,
        "elif unseen[key] is None and key not in mapping:",
        "elif False:",
    ),
    Mutation(
        "state_to_state: seen keys are not forgotten",
        "_changes",
        12,
        "elif unseen[key] is None and key not in mapping:",
        "elif key not in mapping:",
    ),
    Mutation(
        "goes_on: resynced is kept",
        "_changes",
        8,
        "self.resynced = bool(unseen) and (self.resynced or resynced)",
        "self.resynced = bool(unseen) and resynced",
    ),
    Mutation(
        "goes_on: resynced is forgotten",
        "_changes",
        8,
        "self.resynced = bool(unseen) and (self.resynced or resynced)",
        "self.resynced = self.resynced or resynced",
    ),
    Mutation(
        "state_to_state: net differences",
        "_changes",
        12,
        "if (new := mapping.get(key)) != old",
        "if (new := mapping.get(key)) is not old",
    ),
    Mutation(
        "state_to_state: in key order",
        "_changes",
        12,
        "for key, old in sorted(self.unseen.items())",
        "for key, old in self.unseen.items()",
    ),
)
