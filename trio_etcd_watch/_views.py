"""Provides views of a replica: its changes since a consumer last looked, and a prefix.

Sans-IO. These are the rules, by their names in docs/explanation/guarantees.md:

state_to_state, memory_for_keys
    For each consumer only the keys that have changed since it last looked are kept,
    with the values that it saw: memory for keys, never for events (`Position`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

from ._arguments import key_range
from ._changes import Change, MirrorUpdate
from ._mapping import KeyMapping
from ._replica import NO_END, Replica
from ._responses import KeyValue


@final
class Consumer:
    """The state of a replica that one consumer of its changes has seen.

    first_is_everything: with `initial`, the consumer has seen nothing yet.

    Args:
        replica: the replica.
        initial: whether the first update has all keys, as created.
    """

    __slots__ = ("_position", "_replica")

    def __init__(self, replica: Replica, *, initial: bool) -> None:
        self._replica = replica
        self._position = None if initial else replica.position()

    def take(self) -> MirrorUpdate | None:
        """Return what has changed since the last call; None if nothing has."""
        replica, position = self._replica, self._position
        mapping = replica.mapping
        self._position = replica.position()
        if position is None:
            everything = tuple(Change(key, None, kv) for key, kv in mapping.items())
            return MirrorUpdate(replica.revision, everything, resynced=False)
        changes = position.changes(mapping)
        if not changes:
            return None
        return MirrorUpdate(replica.revision, changes, position.resynced)


@final
class PrefixView(KeyMapping):
    """The keys of a replica that begin with a prefix, as they are at each look-up.

    This is the guarantee live_views.

    Args:
        replica: returns the replica, or raises once the mirror is closed.
        prefix: the prefix.
    """

    __slots__ = ("_end", "_first", "_replica")

    def __init__(self, replica: Callable[[], Replica], prefix: bytes | str) -> None:
        self._replica = replica
        self._first, self._end = key_range(prefix, prefix=True)

    def _find(self, key: bytes) -> KeyValue | None:
        mapping = self._replica().mapping
        within = self._first <= key and (key < self._end or self._end == NO_END)
        return mapping.get(key) if within else None

    def __iter__(self) -> Iterator[bytes]:
        return self._replica().keys(self._first, self._end)

    def __len__(self) -> int:
        return self._replica().count(self._first, self._end)
