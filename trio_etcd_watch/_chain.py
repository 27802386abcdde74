"""The chain of a key: what each event must find, if none before it was lost.

Sans-IO. The rule `chain`: a put finds the version before its own, of the same creation; a creation finds
nothing, and a deletion something.
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
    """Apply events for as long as each is a put that continues a key which is there.

    Its place in the order stays, so SortedDict need not know: that is a third of the
    price of another key's.

    Args:
        mapping: what the events find, and are put into.
        events: what is taken from it is done with.
        known: those at or below this revision are passed over.
        olds: gets what each key was, unless it is told already.
        put: the type of those events.

    Returns:
        The first event that is none of these, or None at the end; and the revision of
        the last that was applied, or 0.
    """
    # What an event costs, so no call is made that can be done without.
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
    """Whether this can be the event that creates a key, or deletes one that was `old`."""
    if old is not None:
        return event.type is EventType.DELETE
    kv = event.kv
    created = kv.version == 1 and kv.create_revision == kv.mod_revision
    return event.type is EventType.PUT and created
