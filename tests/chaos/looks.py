"""Compares what a mirror showed with the history, on plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from tests.support.robustness import PUT, History, KeyValue, in_range

Range = tuple[bytes, bytes]
"""The key and range_end of `in_range()`."""

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class Look(NamedTuple):
    """The rows of a range in key order, as a mirror showed them at a revision."""

    who: str
    keys: Range
    revision: int
    rows: tuple[KeyValue, ...]


def unlike_history(looks: Iterable[Look], history: History) -> Iterator[str]:
    """Yield how looks differ from the history at their revisions."""
    state: dict[bytes, KeyValue] = {}
    events = iter(history.events)
    event = next(events, None)
    for look in sorted(looks, key=lambda each: each.revision):
        while event is not None and event.revision <= look.revision:
            if event.type == PUT:
                state[event.kv.key] = event.kv
            else:
                state.pop(event.kv.key, None)
            event = next(events, None)
        if look.revision > history.revision:
            yield f"{look.who}: is at {look.revision}, past {history.revision}"
        elif difference := differs(look, state):
            yield f"{look.who}: {difference}"


def differs(look: Look, state: Mapping[bytes, KeyValue]) -> str:
    """Return how a look differs from the right state; "" if it does not."""
    true = tuple(kv for key, kv in sorted(state.items()) if in_range(key, *look.keys))
    if look.rows == true:
        return ""
    shown, there = ({kv.key: kv for kv in rows} for rows in (look.rows, true))
    for key in sorted(shown.keys() | there.keys()):
        if shown.get(key) != there.get(key):
            return (
                f"at revision {look.revision}, {key!r} is {shown.get(key)} instead of "
                f"{there.get(key)}"
            )
    return f"at revision {look.revision}, the keys are not in order, or twice"


class _Change(Protocol[V_co]):
    @property
    def key(self) -> bytes: ...
    @property
    def old(self) -> V_co | None: ...
    @property
    def new(self) -> V_co | None: ...


@dataclass(slots=True, eq=False)
class Fold(Generic[V]):
    """Applies the updates of one consumer.

    Attributes:
        state: the present state; at first what existed when the iteration began.
        revision: the revision of the last update.
        updates: how many updates there were.
        initial: whether the first update is the whole mapping, and may be empty.
    """

    state: dict[bytes, V] = field(default_factory=dict)
    revision: int = 0
    updates: int = 0
    initial: bool = True

    def take(self, revision: int, changes: Iterable[_Change[V]]) -> Iterator[str]:
        """Apply an update, and yield what is wrong with it."""
        changes = list(changes)
        if not changes and (self.updates or not self.initial):
            yield f"the update to {revision} is empty"
        if revision < self.revision:
            yield f"the revision fell from {self.revision} to {revision}"
        keys = [change.key for change in changes]
        if keys != sorted(set(keys)):
            yield f"the update to {revision} is not in order: {keys}"
        for change in changes:
            if change.old != self.state.get(change.key):
                yield f"the update to {revision} has a wrong old for {change.key!r}"
            if change.old == change.new:
                yield f"the update to {revision} changes nothing in {change.key!r}"
            if change.new is None:
                self.state.pop(change.key, None)
            else:
                self.state[change.key] = change.new
        self.revision = revision
        self.updates += 1
