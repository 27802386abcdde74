"""The rules of the session, each broken by one line, for `test_mutations.py`.

A mutation replaces one whole line of a module, which must occur there exactly once. The
mutated source runs as a module of a package that exists in memory only. A module that
can be mutated is always loaded again there, with or without a mutation; the modules
that it imports are shared with the real package.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol

import trio_etcd_watch
from trio_etcd_watch import _requests, _session, _subscription, _tokens
from trio_etcd_watch._requests import WatchSpec


class MakeSpec(Protocol):
    """The part of `watch_spec()` that the machine uses."""

    def __call__(
        self,
        key: bytes,
        *,
        prefix: bool = ...,
        range_end: bytes | None = ...,
        from_key: bool = ...,
        start_revision: int = ...,
        prev_kv: bool = ...,
        no_put: bool = ...,
        no_delete: bool = ...,
        progress_notify: bool = ...,
        max_buffered_events: int = ...,
    ) -> WatchSpec: ...


@dataclass(frozen=True, slots=True)
class Core:
    """The names that the machine uses, from the real package or from a mutant."""

    session: type[_session.Session]
    state: type[_subscription.State]
    tokens: type[_tokens.StreamTokens]
    watch_spec: MakeSpec


REAL = Core(
    _session.Session,
    _subscription.State,
    _tokens.StreamTokens,
    _requests.watch_spec,
)


@dataclass(frozen=True, slots=True)
class Mutation:
    """One line of one module and what replaces it; the indentation stays.

    Attributes:
        rule: what it breaks: a name of docs/explanation/guarantees.md and, after a
            colon, which part of the rule.
        indent: the indentation in spaces, which distinguishes equal lines.
    """

    rule: str
    module: str
    indent: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.old} -> {self.new}"

    def apply(self, source: str) -> str:
        """Return the source with the line changed.

        Raises:
            ValueError: the line occurs not at all, or more than once.
        """
        lines = source.split("\n")
        indent = " " * self.indent
        count = lines.count(indent + self.old)
        if count != 1:
            raise ValueError(f"{self.module} has {count} times {self.old!r}")
        lines[lines.index(indent + self.old)] = indent + self.new
        return "\n".join(lines)


def source_of(module: str) -> str:
    """Return the source of one module of the package."""
    (folder,) = trio_etcd_watch.__path__
    return Path(folder, f"{module}.py").read_text(encoding="utf-8")


SHARED = (
    "_arguments",
    "_backoff",
    "_batches",
    "_errors",
    "_face",
    "_fragments",
    "_grpc",
    "_grpc.messages",
    "_grpc.status",
    "_pb",
    "_pure",
    "_responses",
    "_verdicts",
    "_twins",
)
"""Modules of the real package that the mutable ones import unchanged."""

MUTABLE = (
    "_cursor",
    "_requests",
    "_tokens",
    "_subscription",
    "_creations",
    "_roster",
    "_lifecycle",
    "_session",
)
"""Modules that are loaded again, in an order in which they can be imported."""

PACKAGE = "trio_etcd_watch_mutant"


@contextmanager
def mutated_modules(
    mutation: Mutation | None, *, shared: Sequence[str], mutable: Sequence[str]
) -> Iterator[list[ModuleType]]:
    """Yield the mutable modules with this mutation, or, for None, unchanged."""
    modules = {PACKAGE: ModuleType(PACKAGE)}
    # Without a folder, no module of the package is found on the disk.
    modules[PACKAGE].__path__ = []
    for name in shared:
        modules[f"{PACKAGE}.{name}"] = import_module(
            f"{trio_etcd_watch.__name__}.{name}"
        )
    sys.modules |= modules
    try:
        for name in mutable:
            source = source_of(name)
            if mutation is not None and mutation.module == name:
                source = mutation.apply(source)
            module = ModuleType(f"{PACKAGE}.{name}")
            module.__package__ = PACKAGE
            # Registered before it runs, because dataclasses look their module up.
            modules[module.__name__] = sys.modules[module.__name__] = module
            exec(compile(source, f"<mutated {name}.py>", "exec"), module.__dict__)
        yield [modules[f"{PACKAGE}.{name}"] for name in mutable]
    finally:
        for full_name in modules:
            del sys.modules[full_name]


@contextmanager
def mutated(mutation: Mutation | None) -> Iterator[Core]:
    """Yield the core with this mutation, or, for None, loaded likewise but unchanged."""
    with mutated_modules(mutation, shared=SHARED, mutable=MUTABLE) as modules:
        by_name = dict(zip(MUTABLE, modules, strict=True))
        yield Core(
            by_name["_session"].Session,
            by_name["_subscription"].State,
            by_name["_tokens"].StreamTokens,
            by_name["_requests"].watch_spec,
        )


MUTATIONS = (
    Mutation(
        "exact_start",
        "_cursor",
        12,
        "self._advance(header_revision)",
        "self._advance(header_revision - 1)",
    ),
    Mutation("exact_start", "_cursor", 8, "if self.next_revision == 0:", "if False:"),
    Mutation(
        "creation_moves_nothing",
        "_cursor",
        8,
        "if self.next_revision == 0:",
        "if True:",
    ),
    Mutation(
        "events_move",
        "_session",
        8,
        "cursor.delivered(last)",
        "cursor.delivered(response.revision)",
    ),
    Mutation(
        "events_move",
        "_session",
        8,
        "cursor.delivered(last)",
        "cursor.delivered(first)",
    ),
    Mutation(
        "events_move",
        "_cursor",
        8,
        "self._advance(last_mod_revision)",
        "self._advance(last_mod_revision - 1)",
    ),
    Mutation(
        "own_progress_moves",
        "_cursor",
        8,
        "self._advance(header_revision)",
        "self._advance(header_revision - 1)",
    ),
    Mutation(
        "answers_move_nothing",
        "_session",
        12,
        "for subscription in self._live.values()",
        "for subscription in self._live.values()"
        " if not subscription.cursor.progressed(response.revision)",
    ),
    Mutation(
        "answers_not_overtaking: an answer reaches all other watches",
        "_session",
        12,
        "for subscription in self._live.values()",
        "for subscription in list(self._live.values())[:1]",
    ),
    Mutation(
        "never_backwards",
        "_cursor",
        8,
        "self.next_revision = max(self.next_revision, revision + 1)",
        "self.next_revision = revision + 1",
    ),
    Mutation(
        "never_backwards",
        "_cursor",
        8,
        "return mod_revision >= self.next_revision",
        "return True",
    ),
    Mutation(
        "never_backwards",
        "_cursor",
        8,
        "return mod_revision >= self.next_revision",
        "return mod_revision > self.next_revision",
    ),
    Mutation(
        "whole_revisions",
        "_session",
        8,
        "if response.fragment or subscription.live.fragments.count:",
        "if False:",
    ),
    Mutation(
        "stream_state_dies: fragments",
        "_subscription",
        4,
        "fragments: Fragments = field(default_factory=Fragments)",
        "fragments: Fragments = field(default_factory=lambda shared=Fragments(): shared)",
    ),
    Mutation(
        "resumed_at_once",
        "_roster",
        16,
        "subscription.cursor.next_revision,",
        "subscription.spec.start_revision,",
    ),
    Mutation(
        "resumed_at_once",
        "_roster",
        12,
        "if subscription.state in (State.LIVE, State.CREATING):",
        "if subscription.state is State.LIVE:",
    ),
    Mutation(
        "replies_matched",
        "_lifecycle",
        8,
        "if subscription.state is not State.CREATING:",
        "if False:",
    ),
    Mutation(
        "replies_matched: an abandoned creation is canceled",
        "_lifecycle",
        12,
        "self._cancel(watch_id)",
        "pass",
    ),
    Mutation(
        "replies_matched",
        "_creations",
        8,
        "subscription = self._queue.popleft()",
        "subscription = self._queue.pop()",
    ),
    Mutation(
        "replies_matched",
        "_roster",
        8,
        "subscription.phase = Ended()",
        "subscription.phase = Ended();"
        " subscription in self._creations._queue and self._creations._queue.remove(subscription)",
    ),
    Mutation(
        "stream_state_dies: creations", "_creations", 8, "self._queue.clear()", "pass"
    ),
    Mutation("stream_state_dies: ids", "_roster", 8, "self._live.clear()", "pass"),
    Mutation(
        "progress_always",
        "_requests",
        4,
        "create.progress_notify = True",
        "create.progress_notify = spec.progress_notify",
    ),
    Mutation(
        "own_progress_moves: whether the user sees progress or not",
        "_session",
        8,
        "subscription.cursor.progressed(response.revision)",
        "pass",
    ),
    Mutation(
        "progress_always",
        "_session",
        8,
        "shown = subscription.spec.progress_notify",
        "shown = True",
    ),
    Mutation(
        "unread_survives",
        "_roster",
        16,
        "subscription.phase = Resuming()",
        "subscription.phase = Resuming(); subscription.unread = 0",
    ),
    Mutation(
        "resumable",
        "_session",
        8,
        "return [Delivery(subscription, item, cursor.next_revision, count, size, newest)]",
        "return [Delivery(subscription, item, response.revision + 1, count, size, newest)]",
    ),
    Mutation("parked_at_bound", "_session", 8, "if subscription.is_full:", "if False:"),
    Mutation(
        "parked_at_bound: late events are dropped",
        "_roster",
        8,
        "del self._live[watch_id]",
        "pass",
    ),
    Mutation(
        "woken_at_half: a parked watch goes on",
        "_roster",
        8,
        "if subscription.state is State.PARKED and subscription.is_drained:",
        "if False:",
    ),
    Mutation(
        "woken_at_half: not before",
        "_subscription",
        12,
        "self.unread * 2 <= self.spec.max_buffered_events",
        "self.unread <= self.spec.max_buffered_events",
    ),
    Mutation(
        "woken_at_half: also after a reconnect",
        "_roster",
        12,
        "if subscription.state in (State.LIVE, State.CREATING):",
        "if subscription.state is not State.ENDED:",
    ),
    Mutation(
        "parked_at_bound: also for a batch",
        "_session",
        12,
        "and subscription.unread + len(merged.events) <= spec.max_buffered_events",
        "and True",
    ),
    Mutation(
        "live_ids_only: one cancel for each id",
        "_roster",
        12,
        "self._canceled.add(watch_id)",
        "pass",
    ),
    Mutation(
        "stream_state_dies: cancels", "_roster", 8, "self._canceled.clear()", "pass"
    ),
    Mutation(
        "compacted_id_freed",
        "_lifecycle",
        8,
        "self.end(subscription)",
        "self._end(subscription)",
    ),
    Mutation(
        "same_cluster",
        "_lifecycle",
        8,
        "if known and response.cluster_id and response.cluster_id != known:",
        "if False:",
    ),
    Mutation(
        "silenced_recreated",
        "_lifecycle",
        8,
        "if subscription := self._live.get(watch_id):",
        "if False:",
    ),
    Mutation(
        "previous_value_retried",
        "_session",
        12,
        "if all(event.prev_kv is None for event in changes):",
        "if False:",
    ),
    Mutation(
        "previous_value_retried: also in a batch",
        "_session",
        12,
        "not subscription.live.prev_kv_tries",
        "True",
    ),
    Mutation(
        "previous_value_retried: on each stream",
        "_roster",
        12,
        "prev_kv_tries = MAX_PREV_KV_TRIES if subscription.spec.prev_kv else 0",
        "prev_kv_tries = 0 if subscription.confirmed else MAX_PREV_KV_TRIES",
    ),
    Mutation(
        "stream_state_dies: requests", "_roster", 8, "self._requests.clear()", "pass"
    ),
    Mutation(
        "previous_value_retried: more than once",
        "_session",
        16,
        "self._repeat(subscription, live.prev_kv_tries - 1)",
        "self._repeat(subscription, 0)",
    ),
    Mutation(
        "answers_not_overtaking",
        "_session",
        12,
        "if subscription.live.created_revision < revision",
        "if True",
    ),
    Mutation(
        "answers_not_overtaking: watches past its revision get it",
        "_session",
        12,
        "or subscription.cursor.next_revision > revision",
        "or False",
    ),
    Mutation(
        "fragments_on_demand",
        "_roster",
        16,
        "fragment=subscription.splits,",
        "fragment=True,",
    ),
    Mutation(
        "fragments_on_demand: once a response was too large",
        "_session",
        8,
        "subscription.splits = True",
        "pass",
    ),
    Mutation(
        "refused_tokens_bounded",
        "_tokens",
        12,
        "if watch.refused <= MAX_REFUSED_TOKENS:",
        "if True:",
    ),
    Mutation(
        "own_token_trouble",
        "_roster",
        8,
        "del self._subscriptions[subscription]",
        "pass",
    ),
    Mutation(
        "lost_history_found: a member that is behind proves nothing",
        "_lifecycle",
        8,
        "if response.revision < reported and reported > self._proved and not made_up:",
        "if False:",
    ),
    Mutation(
        "lost_history_found",
        "_lifecycle",
        12,
        "if reported > self._proved:",
        "if False:",
    ),
    Mutation(
        "lag_is_no_loss",
        "_lifecycle",
        12,
        "if reported > self._proved:",
        "if True:",
    ),
    Mutation(
        "stream_state_dies: proofs",
        "_roster",
        8,
        "self._unproved.clear()",
        "pass",
    ),
    Mutation(
        "lost_history_found: revisions received without events count",
        "_cursor",
        8,
        "self.reported = max(self.reported, revision)",
        "pass",
    ),
    Mutation(
        "reported_by_the_cluster_only",
        "_cursor",
        8,
        "self.reported: int = 0",
        "self.reported: int = start_revision",
    ),
)
