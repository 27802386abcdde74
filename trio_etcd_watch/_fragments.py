"""Responses in fragments: which events are complete revisions, and which must wait.

Sans-IO. etcd splits a response by its size and number of events, without regard to
revisions, so the last revision of a fragment may continue in the next one. The
revisions before it are complete.
"""

from __future__ import annotations

from collections.abc import Sequence

from ._responses import Event, RawResponse, join


class Fragments:
    """The events of a revision that is not complete yet.

    Attributes:
        count: how many fragments of the present response have come; 0 between two
            responses.
        size: about how many bytes are held.
    """

    __slots__ = ("_held", "count", "size")

    def __init__(self) -> None:
        self.count: int = 0
        self.size: int = 0
        self._held: list[Sequence[Event]] = []

    def clear(self) -> None:
        """Discard what has come; the response will be requested again."""
        self.count = self.size = 0
        self._held = []

    def add(self, response: RawResponse) -> Sequence[Event]:
        """Add the next fragment; return the events of complete revisions."""
        self.count += 1
        events = response.events
        if not response.fragment:
            complete = [*self._held, events]
            self.clear()
            return join([part for part in complete if part])
        if not events:
            return ()
        last = response.last_revision
        start = len(events)
        while start and events[start - 1].kv.mod_revision == last:
            start -= 1
        complete = []
        if start or (self._held and self._held[0][0].kv.mod_revision != last):
            complete = [part for part in (*self._held, events[:start]) if part]
            self._held, self.size = [], 0
        self._held.append(events[start:])
        self.size += response.size * (len(events) - start) // len(events)
        return join(complete)
