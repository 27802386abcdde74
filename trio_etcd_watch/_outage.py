"""How a stream's failures are told: few lines, whatever the peer does.

Sans-IO: time is an argument, in seconds. An outage begins with the first failed try,
and ends once a stream has outlived the longest wait. Both are told at one level; in
between each new reason once, and a reminder every minute.
"""

from __future__ import annotations

import logging

from ._log import printable

logger = logging.getLogger("trio_etcd_watch")

MAX_REASONS = 20
"""How many reasons one outage may tell: a broken server can make up new ones."""

REMINDER = 60.0
"""Seconds after which an outage that lasts is told again."""


class LineBudget:
    """Bounds the lines of all streams of a watcher: at most 90 in any hour.

    A peer that lives just long enough to end each outage begins the next at once.
    """

    BURST = 30
    PER_SECOND = 1 / 60

    def __init__(self) -> None:
        self._lines = float(self.BURST)
        self._since = 0.0

    def take(self, now: float, lines: int = 1) -> bool:
        """Whether so many more lines may be written."""
        earned = (now - self._since) * self.PER_SECOND
        self._lines = min(float(self.BURST), self._lines + earned)
        self._since = now
        if self._lines < lines:
            return False
        self._lines -= lines
        return True


class Outage:
    """The failures in a row of one stream, from the first to a stream that lasts.

    Args:
        budget: of the watcher.
        what: is missing, as the lines call it.
    """

    def __init__(self, budget: LineBudget, what: str = "watch stream") -> None:
        self._budget = budget
        self._what = what
        self._reasons: set[str] = set()
        self._tries = 0
        self._began = 0.0
        # When a line was due last, and whether any was written: that pays for the end.
        self._due = 0.0
        self._told = False

    @property
    def lasts(self) -> bool:
        """Whether there is one."""
        return self._tries > 0

    def failed(self, now: float, reason: str, wait: float) -> None:
        """Note a failed try, and the seconds until the next."""
        if not self._tries:
            self._began = now
        self._tries += 1
        reason = printable(reason)
        if reason not in self._reasons and len(self._reasons) < MAX_REASONS:
            self._reasons.add(reason)
            line = f"no {self._what}: %s; next try in %.2f s"
            self._tell(now, line, reason, wait)
        elif now - self._due >= REMINDER:
            self._tell(
                now,
                f"still no {self._what} that lasts, after %d tries in %.0f s: %s",
                self._tries,
                now - self._began,
                reason,
            )

    def ended(self, now: float) -> None:
        """Note that a stream lasts; an outage that was told has its end told."""
        if self._told:
            logger.warning(
                "%s resumed after %d tries in %.1f s",
                self._what,
                self._tries,
                now - self._began,
            )
        self._told = False
        self._tries = 0
        self._reasons.clear()

    def _tell(self, now: float, line: str, *values: object) -> None:
        self._due = now
        if self._budget.take(now, 1 if self._told else 2):
            self._told = True
            logger.warning(line, *values)
