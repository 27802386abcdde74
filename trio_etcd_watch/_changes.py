"""The updates of a mirror, and what each of its consumers has not seen yet.

Sans-IO. Updates are net differences between two states, so the events in between are not
kept: a slow consumer costs memory for keys, never for events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, final

from ._responses import KeyValue

Olds: TypeAlias = Mapping[bytes, KeyValue | None]
"""The previous value of each key that has just changed; None if it did not exist."""


@final
@dataclass(frozen=True, slots=True)
class Change:
    """The difference of one key between two states of a mirror."""

    key: bytes
    """The key."""
    old: KeyValue | None
    """The key as this consumer saw it last; None if it did not exist."""
    new: KeyValue | None
    """The key as it is now; None if it was deleted."""


@final
@dataclass(frozen=True, slots=True)
class MirrorUpdate:
    """The changes from one whole state of a mirror to a later one, for one consumer."""

    revision: int
    """The revision of the later state, `Mirror.revision`."""
    changes: tuple[Change, ...]
    """The net differences, in key order; a key counts as changed if any of the six fields
    of its `KeyValue` has."""
    resynced: bool
    """Whether the range had to be read again, so that some changes did not come as
    events."""


@final
class Position:
    """An earlier state of the mapping, as the difference to the present one.

    All consumers that have seen the same state share one position, so the cost of an event
    grows with the number of states and not of consumers. A consumer that gets an update
    changes to another position.

    Attributes:
        unseen: the earlier value of each key that has changed since. Each of these keys
            existed then or exists now: one that was created and deleted since is
            forgotten.
        resynced: whether some of these changes did not come as events.
    """

    __slots__ = ("__weakref__", "resynced", "unseen")

    def __init__(self) -> None:
        self.unseen: dict[bytes, KeyValue | None] = {}
        self.resynced: bool = False

    def note(
        self, olds: Olds, mapping: Mapping[bytes, KeyValue], *, resynced: bool
    ) -> None:
        """Note the previous values of keys, after the mapping has changed."""
        unseen = self.unseen
        for key, old in olds.items():
            if key not in unseen:
                unseen[key] = old
            elif unseen[key] is None and key not in mapping:
                del unseen[key]
        # A change that is forgotten is not reported, and neither is a resync for it.
        self.resynced = bool(unseen) and (self.resynced or resynced)

    def changes(self, mapping: Mapping[bytes, KeyValue]) -> tuple[Change, ...]:
        """Return how the present mapping differs from this state."""
        # After lost history a key may have its earlier value again.
        return tuple(
            Change(key, old, new)
            for key, old in sorted(self.unseen.items())
            if (new := mapping.get(key)) != old
        )
