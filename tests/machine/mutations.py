"""The rules of the session, each broken by one line, for `test_mutations.py`.

A mutation replaces one whole line of a module, which must stand there exactly once. The
mutated source runs as a module of a package that exists in memory only. What can be
mutated always runs anew there, with or without a mutation; the modules that it imports
are shared with the real package.
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
from trio_etcd_watch import _requests, _session, _subscription
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
    """What the machine calls, of the real package or of a mutant."""

    session: type[_session.Session]
    state: type[_subscription.State]
    watch_spec: MakeSpec


REAL = Core(_session.Session, _subscription.State, _requests.watch_spec)


@dataclass(frozen=True, slots=True)
class Mutation:
    """One line of one module, changed; the indentation stays.

    Attributes:
        rule: what it breaks: a resume rule of the design, or a word.
        indent: of the line, in spaces; tells apart lines that are alike.
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
            ValueError: the line is not there, or there more than once.
        """
        lines = source.split("\n")
        indent = " " * self.indent
        count = lines.count(indent + self.old)
        if count != 1:
            raise ValueError(f"{self.module} has {count} times {self.old!r}")
        lines[lines.index(indent + self.old)] = indent + self.new
        return "\n".join(lines)


def source_of(module: str) -> str:
    """The source of one module of the package."""
    (folder,) = trio_etcd_watch.__path__
    return Path(folder, f"{module}.py").read_text(encoding="utf-8")


SHARED = (
    "_errors",
    "_fragments",
    "_grpc",
    "_grpc.status",
    "_pb",
    "_pure",
    "_responses",
    "_runs",
    "_verdicts",
    "_twins",
)
"""Modules that those below import, as they are in the real package."""

MUTABLE = (
    "_cursor",
    "_requests",
    "_subscription",
    "_creations",
    "_roster",
    "_session",
)
"""Modules that run anew, in an order in which they can be imported."""

PACKAGE = "trio_etcd_watch_mutant"


@contextmanager
def mutated_modules(
    mutation: Mutation | None, *, shared: Sequence[str], mutable: Sequence[str]
) -> Iterator[list[ModuleType]]:
    """Give the mutable modules with this mutation; with None, the same unchanged."""
    modules = {PACKAGE: ModuleType(PACKAGE)}
    # A package without a folder: nothing is found by chance.
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
            # Before it runs: dataclasses look their module up.
            modules[module.__name__] = sys.modules[module.__name__] = module
            exec(compile(source, f"<mutated {name}.py>", "exec"), module.__dict__)
        yield [modules[f"{PACKAGE}.{name}"] for name in mutable]
    finally:
        for full_name in modules:
            del sys.modules[full_name]


@contextmanager
def mutated(mutation: Mutation | None) -> Iterator[Core]:
    """Give the core with this mutation; with None, the same one unchanged."""
    with mutated_modules(mutation, shared=SHARED, mutable=MUTABLE) as modules:
        by_name = dict(zip(MUTABLE, modules, strict=True))
        yield Core(
            by_name["_session"].Session,
            by_name["_subscription"].State,
            by_name["_requests"].watch_spec,
        )


MUTATIONS = (
    # 1: a watch from now covers exactly what is above its creation's header.
    Mutation(
        "rule 1",
        "_cursor",
        12,
        "self._advance(header_revision)",
        "self._advance(header_revision - 1)",
    ),
    Mutation("rule 1", "_cursor", 8, "if self.next_revision == 0:", "if False:"),
    # 2: creation does not move a start that was asked for.
    Mutation("rule 2", "_cursor", 8, "if self.next_revision == 0:", "if True:"),
    # 3: events move it past the last of them, whatever their header says.
    Mutation(
        "rule 3",
        "_session",
        8,
        "cursor.delivered(last)",
        "cursor.delivered(response.revision)",
    ),
    Mutation(
        "rule 3",
        "_session",
        8,
        "cursor.delivered(last)",
        "cursor.delivered(first)",
    ),
    Mutation(
        "rule 3",
        "_cursor",
        8,
        "self._advance(last_mod_revision)",
        "self._advance(last_mod_revision - 1)",
    ),
    # 4: progress of this id moves it past its header; the answer to a request does not.
    Mutation(
        "rule 4",
        "_cursor",
        8,
        "self._advance(header_revision)",
        "self._advance(header_revision - 1)",
    ),
    Mutation(
        "rule 4",
        "_session",
        12,
        "for subscription in self._live.values()",
        "for subscription in self._live.values()"
        " if not subscription.cursor.progressed(response.revision)",
    ),
    Mutation(
        "rule 4",
        "_session",
        12,
        "for subscription in self._live.values()",
        "for subscription in list(self._live.values())[:1]",
    ),
    # 5: it never falls, and events below it are dropped.
    Mutation(
        "rule 5",
        "_cursor",
        8,
        "self.next_revision = max(self.next_revision, revision + 1)",
        "self.next_revision = revision + 1",
    ),
    Mutation(
        "rule 5",
        "_cursor",
        8,
        "return mod_revision >= self.next_revision",
        "return True",
    ),
    Mutation(
        "rule 5",
        "_cursor",
        8,
        "return mod_revision >= self.next_revision",
        "return mod_revision > self.next_revision",
    ),
    # 6: only whole responses count; fragments are asked for, and die with the stream.
    Mutation(
        "rule 6",
        "_session",
        8,
        "if response.fragment or subscription.fragments.count:",
        "if False:",
    ),
    Mutation("rule 6", "_roster", 12, "subscription.fragments.clear()", "pass"),
    # 7: every live watch is created anew from next; replies are met in order.
    Mutation(
        "rule 7",
        "_roster",
        16,
        "subscription.cursor.next_revision,",
        "subscription.spec.start_revision,",
    ),
    Mutation(
        "rule 7",
        "_roster",
        12,
        "if subscription.state in (State.LIVE, State.CREATING):",
        "if subscription.state is State.LIVE:",
    ),
    Mutation(
        "rule 7",
        "_session",
        8,
        "if subscription.state is not State.CREATING:",
        "if False:",
    ),
    Mutation(
        "rule 7",
        "_creations",
        8,
        "subscription = self._queue.popleft()",
        "subscription = self._queue.pop()",
    ),
    Mutation(
        "rule 7",
        "_roster",
        8,
        "subscription.state = State.ENDED",
        "subscription.state = State.ENDED;"
        " subscription in self._creations._queue and self._creations._queue.remove(subscription)",
    ),
    Mutation("rule 7", "_creations", 8, "self._queue.clear()", "pass"),
    Mutation("rule 7", "_roster", 8, "self._live.clear()", "pass"),
    # 8: progress is always asked for, counts always, and is shown if wanted.
    Mutation(
        "rule 8",
        "_requests",
        4,
        "create.progress_notify = True",
        "create.progress_notify = spec.progress_notify",
    ),
    Mutation(
        "rule 8",
        "_session",
        8,
        "subscription.cursor.progressed(response.revision)",
        "pass",
    ),
    Mutation(
        "rule 8",
        "_session",
        8,
        "shown = subscription.spec.progress_notify",
        "shown = True",
    ),
    # 9: what is unread survives a reconnect, and has bookmarks of its own.
    Mutation(
        "rule 9",
        "_roster",
        16,
        "subscription.state = State.RESUMING",
        "subscription.state = State.RESUMING; subscription.unread = 0",
    ),
    Mutation(
        "rule 9",
        "_session",
        8,
        "return [Delivery(subscription, item, cursor.next_revision, count, size)]",
        "return [Delivery(subscription, item, response.revision + 1, count, size)]",
    ),
    # Parking (section 6 of the design).
    Mutation(
        "parking: a bound", "_session", 8, "if subscription.is_full:", "if False:"
    ),
    Mutation(
        "parking: late events are dropped",
        "_roster",
        8,
        "del self._live[subscription.watch_id]",
        "pass",
    ),
    Mutation(
        "parking: goes on when drained",
        "_roster",
        8,
        "if subscription.state is State.PARKED and subscription.is_drained:",
        "if False:",
    ),
    Mutation(
        "parking: goes on at half",
        "_subscription",
        12,
        "self.unread * 2 <= self.spec.max_buffered_events",
        "self.unread <= self.spec.max_buffered_events",
    ),
    Mutation(
        "parking: a reconnect does not end it",
        "_roster",
        12,
        "if subscription.state in (State.LIVE, State.CREATING):",
        "if subscription.state is not State.ENDED:",
    ),
    Mutation(
        "parking: a bound, also for a run",
        "_session",
        12,
        "and subscription.unread + len(merged.events) <= spec.max_buffered_events",
        "and True",
    ),
    # Ids and errors (section 3).
    Mutation("cancel once", "_roster", 12, "self._canceled.add(watch_id)", "pass"),
    Mutation("cancel once a stream", "_roster", 8, "self._canceled.clear()", "pass"),
    Mutation(
        "cancel after compaction",
        "_session",
        8,
        "self.close(subscription)",
        "self._end(subscription)",
    ),
    Mutation(
        "cluster changed",
        "_session",
        8,
        "if known and response.cluster_id and response.cluster_id != known:",
        "if False:",
    ),
    Mutation(
        "refusal under id 0",
        "_session",
        8,
        "if subscription := self._live.get(watch_id):",
        "if False:",
    ),
    Mutation(
        "prev_kv of the first events",
        "_session",
        12,
        "if all(event.prev_kv is None for event in changes):",
        "if False:",
    ),
    Mutation(
        "prev_kv of the first events, also in a run",
        "_session",
        12,
        "not subscription.prev_kv_tries",
        "True",
    ),
    Mutation(
        "prev_kv of the first events, on each stream",
        "_roster",
        12,
        "subscription.expect_prev_kv()",
        "pass",
    ),
    Mutation(
        "requests die with the stream", "_roster", 8, "self._requests.clear()", "pass"
    ),
    Mutation(
        "prev_kv of the first events, also if etcd forgets it twice",
        "_session",
        16,
        "subscription.prev_kv_tries = tries",
        "subscription.prev_kv_tries = 0",
    ),
    # Answers to progress requests, which may overtake events.
    Mutation(
        "an answer vouches only for what it cannot have overtaken",
        "_session",
        12,
        "if subscription.created_revision < revision",
        "if True",
    ),
    Mutation(
        "an answer vouches for those that have passed it",
        "_session",
        12,
        "or subscription.cursor.next_revision > revision",
        "or False",
    ),
    # Fragments are asked for only where a response was too large.
    Mutation(
        "fragments on demand",
        "_roster",
        16,
        "fragment=subscription.splits,",
        "fragment=True,",
    ),
    Mutation(
        "fragments, once a response was too large",
        "_session",
        8,
        "subscription.splits = True",
        "pass",
    ),
    # Refused tokens.
    Mutation(
        "a refused token is bounded",
        "_session",
        12,
        "if subscription.refused_tokens <= MAX_REFUSED_TOKENS:",
        "if True:",
    ),
    Mutation(
        "whoever needs a token leaves the stream",
        "_roster",
        8,
        "del self._subscriptions[subscription]",
        "pass",
    ),
    # Lost history.
    Mutation(
        "a member that is behind proves nothing",
        "_session",
        8,
        "if response.revision < told and told > self._proved and not made_up:",
        "if False:",
    ),
    Mutation(
        "a cluster that is behind has lost history",
        "_session",
        12,
        "if told > self._proved:",
        "if False:",
    ),
    Mutation(
        "a member that lags is no lost history",
        "_session",
        12,
        "if told > self._proved:",
        "if True:",
    ),
    Mutation(
        "the proof is that of one stream",
        "_roster",
        8,
        "self._unproved.clear()",
        "pass",
    ),
    Mutation(
        "what was told counts also without events",
        "_cursor",
        8,
        "self.told = max(self.told, revision)",
        "pass",
    ),
)
