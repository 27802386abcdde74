"""What consumers of a mirror are told, and what each has still to be told.

Sans-IO. Updates are net differences between two states, so nothing is kept of the events
in between: a consumer that sleeps costs memory for keys, never for events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, final

from ._responses import KeyValue

Olds: TypeAlias = Mapping[bytes, KeyValue | None]
"""Of keys that have just changed: what was there before, or None."""


@final
@dataclass(frozen=True, slots=True)
class Change:
    """How one key differs between two states of a mirror."""

    key: bytes
    """Which key."""
    old: KeyValue | None
    """The key as this consumer saw it last; None if it was not there."""
    new: KeyValue | None
    """The key as it is now; None if it is gone."""


@final
@dataclass(frozen=True, slots=True)
class MirrorUpdate:
    """What takes one consumer of a mirror from one whole state to a later one."""

    revision: int
    """The revision of the later state, `Mirror.revision`."""
    changes: tuple[Change, ...]
    """The net differences, in key order; a key counts as changed if any of the six fields
    of its `KeyValue` has."""
    resynced: bool
    """Whether the range had to be read anew, so that some changes did not come as
    events."""


@final
class Position:
    """A state of the mapping to come back to: what has changed since, and was there.

    Shared by all who stand at the same state, so an event costs by the number of states
    and not of consumers; whoever moves on takes another one.

    Attributes:
        unseen: by key, what was there then. Each key was there, or is there now: what
            comes and goes is forgotten.
        resynced: whether some of it was not told by events.
    """

    __slots__ = ("__weakref__", "resynced", "unseen")

    def __init__(self) -> None:
        self.unseen: dict[bytes, KeyValue | None] = {}
        self.resynced: bool = False

    def note(
        self, olds: Olds, mapping: Mapping[bytes, KeyValue], *, resynced: bool
    ) -> None:
        """Note what was there before the mapping became what it is now."""
        unseen = self.unseen
        for key, old in olds.items():
            if key not in unseen:
                unseen[key] = old
            elif unseen[key] is None and key not in mapping:
                del unseen[key]
        # Of what is forgotten nothing is told, also not that it was read anew.
        self.resynced = bool(unseen) and (self.resynced or resynced)

    def changes(self, mapping: Mapping[bytes, KeyValue]) -> tuple[Change, ...]:
        """Return how the mapping, as it is now, differs from this state."""
        # Where history was lost, a key may be again what it was.
        return tuple(
            Change(key, old, new)
            for key, old in sorted(self.unseen.items())
            if (new := mapping.get(key)) != old
        )
