"""Logs the failures of a stream in few lines, whatever the peer does.

Sans-IO: time is an argument, in seconds. An outage begins with the first failed try,
and ends once a stream has lasted longer than the longest delay. Both are logged at one
level; in between, each new reason is logged once, and a reminder every minute.
"""

from __future__ import annotations

import logging

from ._log import printable

logger = logging.getLogger("trio_etcd_watch")

MAX_REASONS = 20
"""How many reasons of one outage are logged: a broken server can make up new ones."""

REMINDER = 60.0
"""Seconds after which a continuing outage is logged again."""


class LineBudget:
    """Bounds the lines of all streams of a watcher: at most 90 in any hour.

    A peer that works just long enough to end each outage would cause new ones forever.
    """

    BURST = 30
    PER_SECOND = 1 / 60

    def __init__(self) -> None:
        self._lines = float(self.BURST)
        self._since = 0.0

    def take(self, now: float, lines: int = 1) -> bool:
        """Return whether this many more lines may be written, and count them."""
        earned = (now - self._since) * self.PER_SECOND
        self._lines = min(float(self.BURST), self._lines + earned)
        self._since = now
        if self._lines < lines:
            return False
        self._lines -= lines
        return True


class Outage:
    """The consecutive failures of one stream, until a stream lasts.

    Args:
        budget: the watcher's budget of lines.
        what: what is missing, as the lines call it.
    """

    def __init__(self, budget: LineBudget, what: str = "watch stream") -> None:
        self._budget = budget
        self._what = what
        self._reasons: set[str] = set()
        self._tries = 0
        self._began = 0.0
        # When a line was last due, and whether any was written. The first is counted as
        # two, so that the end can be logged, too.
        self._due = 0.0
        self._logged = False

    @property
    def lasts(self) -> bool:
        """Whether there is an outage."""
        return self._tries > 0

    def failed(self, now: float, reason: str, wait: float) -> None:
        """Note a failed try, and the seconds until the next try."""
        if not self._tries:
            self._began = now
        self._tries += 1
        reason = printable(reason)
        if reason not in self._reasons and len(self._reasons) < MAX_REASONS:
            self._reasons.add(reason)
            line = f"no {self._what}: %s; next try in %.2f s"
            self._warn(now, line, reason, wait)
        elif now - self._due >= REMINDER:
            self._warn(
                now,
                f"still no {self._what} that lasts, after %d tries in %.0f s: %s",
                self._tries,
                now - self._began,
                reason,
            )

    def ended(self, now: float) -> None:
        """Note that a stream lasts, and log the end of an outage that was logged."""
        if self._logged:
            logger.warning(
                "%s resumed after %d tries in %.1f s",
                self._what,
                self._tries,
                now - self._began,
            )
        self._logged = False
        self._tries = 0
        self._reasons.clear()

    def _warn(self, now: float, line: str, *values: object) -> None:
        self._due = now
        if self._budget.take(now, 1 if self._logged else 2):
            self._logged = True
            logger.warning(line, *values)
