"""The rule `chain`: whether an event continues its key, as it does if none was lost.

Sans-IO. A put continues the version before its own, of the same creation. A creation
requires that the key is absent, and a deletion that it exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from sortedcontainers import SortedDict

from ._responses import Event, EventType, KeyValue
from ._twins import speedups


def put_again(
    mapping: SortedDict[bytes, KeyValue] | dict[bytes, KeyValue],
    events: Iterator[Event],
    known: int,
    olds: dict[bytes, KeyValue | None],
    put: object,
) -> tuple[Event | None, int]:
    """Apply events as long as each is a put that continues an existing key.

    Such a put does not change the order of the keys, so SortedDict's own method is
    bypassed: this costs a third of putting a new key.

    Args:
        mapping: the mapping that the events are checked against and applied to.
        events: the events; those that are consumed from it need no further handling,
            except the one that is returned.
        known: events at or below this revision are skipped.
        olds: receives the previous value of each key, unless it has one for it.
        put: the `Event.type` of a put.

    Returns:
        The first event that is not such a put, or None at the end; and the revision of
        the last event that was applied, or 0.
    """
    # This loop is the cost of an event, so it avoids every call that it can.
    get, set_ = mapping.get, cast("Any", dict.__setitem__)
    revision = 0
    for event in events:
        kv = event.kv
        at = kv.mod_revision
        if at <= known:
            continue
        key = kv.key
        old = get(key)
        if (
            event.type is not put
            or old is None
            or kv.version != old.version + 1
            or kv.create_revision != old.create_revision
        ):
            return event, revision
        if key not in olds:
            olds[key] = old
        set_(mapping, key, kv)
        revision = at
    return None, revision


put_again_fast = put_again if speedups is None else speedups.put_again


def begins_or_ends(event: Event, old: KeyValue | None) -> bool:
    """Whether this event creates a key that is absent, or deletes the existing `old`."""
    if old is not None:
        return event.type is EventType.DELETE
    kv = event.kv
    created = kv.version == 1 and kv.create_revision == kv.mod_revision
    return event.type is EventType.PUT and created
