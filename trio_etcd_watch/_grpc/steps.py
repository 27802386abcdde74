"""Delivers the messages of a call, in steps between which other tasks may run.

Sans-IO.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias, final

from .messages import Inbound, Oversized

Deliver: TypeAlias = Callable[[list[bytes | Oversized]], "Iterable[None] | None"]
"""Receives the messages of a call. It must be quick: nothing is read while it runs. If it
returns an iterable, each step of that does a part, and other tasks may run after it."""

_DONE: Final = object()


@final
class Steps:
    """Takes the messages of a call from `inbound`, and delivers them."""

    __slots__ = ("_deliver", "_inbound", "_rest")

    def __init__(self, inbound: Inbound, deliver: Deliver) -> None:
        self._inbound = inbound
        self._deliver = deliver
        self._rest: Iterator[None] = iter(())

    def take(self) -> bool:
        """Take a step; return whether there may be more. What `deliver` raises is raised.

        Where one task stops between steps, another can go on.
        """
        while True:
            # A step can have the connection closed, which delivers what is complete.
            rest, self._rest = self._rest, iter(())
            if next(rest, _DONE) is not _DONE:
                self._rest = rest
                return True
            messages = self._inbound.messages
            if not messages:
                return False
            self._inbound.messages = []
            self._rest = iter(self._deliver(messages) or ())
