"""A response that comes in parts: what of it can be handed on, and what has to wait.

Sans-IO. etcd cuts a response by its size and count of events, with no regard to
revisions, so the last revision of a fragment may go on in the next one. Those before it
are complete.
"""

from __future__ import annotations

from collections.abc import Sequence

from ._responses import Event, RawResponse, join


class Fragments:
    """The events of a revision that is not complete yet.

    Attributes:
        count: fragments of the present response so far; 0 between two responses.
        size: bytes that are held, about.
    """

    __slots__ = ("_held", "count", "size")

    def __init__(self) -> None:
        self.count: int = 0
        self.size: int = 0
        self._held: list[Sequence[Event]] = []

    def clear(self) -> None:
        """Forget what has come: the response is asked for again."""
        self.count = self.size = 0
        self._held = []

    def add(self, response: RawResponse) -> Sequence[Event]:
        """Take the next part; return the events of the revisions that are complete."""
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
