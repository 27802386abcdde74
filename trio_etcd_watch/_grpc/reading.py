"""Decides how much to read from a connection before the messages are delivered.

Sans-IO. Mostly that is one read of `RECEIVE_SIZE`. Two kinds of data are worth more: a
large message that arrives fast, and messages for so many consumers that each of them
would be woken for every single one.
"""

from __future__ import annotations

from typing import final

RECEIVE_SIZE = 122_880
"""How many bytes one read asks for: a batch of some thousand events. It is delivered in
about a millisecond, so other tasks can run during a flood. Smaller batches would wake
watches more often; from 128 KiB on, glibc's malloc may map memory for each read."""

MAX_RECEIVE_SIZE = 2**20
"""The most bytes that one read asks for, within a message that is as large and arrives
as fast: nothing can be delivered before it is whole, and each read costs two passes of
Trio's loop. Where less data arrives, so large a buffer costs more than it saves. An
unfinished message must not lead to reads of this size while other data floods in."""

STEP = 256
"""After how many deliveries other tasks may run, among them the consumers that these have
woken. It takes about a millisecond."""

SEVERAL = 8
"""How many messages for each consumer are worth waiting for. To wake a task costs ten
times as much as to add a message to those that wait for it."""

MOMENT = 0.001
"""Seconds without data after which the messages that have come are delivered anyway."""

MAX_GATHER_TIME = 0.05
"""Seconds after which they are delivered, however data trickles in."""

MAX_GATHERED = 16 * 2**20
"""How many bytes are gathered at most before their messages are delivered."""

MAX_DELIVERY_TIME = 1.0
"""Seconds that the delivery of gathered messages should take at most, with the work of
the consumers that it wakes: nothing is read meanwhile, not even the answer to a PING."""


@final
class Reading:
    """The reads of one connection.

    Attributes:
        size: how many bytes the next one asks for.
    """

    __slots__ = ("_gathered", "_wanted", "size")

    def __init__(self) -> None:
        self.size: int = RECEIVE_SIZE
        # Bytes that came since messages were delivered, and how many messages are worth
        # waiting for.
        self._gathered = 0
        self._wanted = 0.0

    def note_read(self, came: int, missing: int, still_missing: int) -> None:
        """Note a read.

        Args:
            came: how many bytes it brought.
            missing: how many bytes an unfinished message lacked before.
            still_missing: how many bytes one lacks now.
        """
        self._gathered += came
        if came < self.size or missing - still_missing <= came // 2:
            self.size = RECEIVE_SIZE
        else:
            self.size = min(max(RECEIVE_SIZE, still_missing), MAX_RECEIVE_SIZE)

    def gathers(self, waiting: int) -> bool:
        """Whether to read on before messages are delivered; `waiting` have come."""
        return waiting < self._wanted and self._gathered < MAX_GATHERED

    def note_delivery(self, steps: int, messages: int, seconds: float) -> None:
        """Note that this many messages were delivered.

        Args:
            steps: in how many whole steps.
            messages: how many there were.
            seconds: how long it took.
        """
        self._gathered = 0
        self._wanted = SEVERAL * steps * STEP
        if self._wanted * seconds > messages * MAX_DELIVERY_TIME:
            self._wanted = messages * MAX_DELIVERY_TIME / seconds
