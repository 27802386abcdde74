"""Generates the delays between retries.

Sans-IO: the caller sleeps, draws the random numbers and says when to start over.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

FIRST_DELAY = 0.05
"""Bound of the first delay, in seconds: most outages are over by then."""

MAX_DELAY = 3.0
"""Bound of every delay, in seconds: how late a watch may notice that etcd is back."""


def bound_of_delay(failures: int) -> float:
    """Return the bound of the delay, in seconds, after this many failures in a row."""
    if failures <= 0:
        return 0.0
    # The number of failures is unbounded, so the exponent is capped.
    return min(FIRST_DELAY * 2.0 ** min(failures - 1, 20), MAX_DELAY)


def delays(random: Callable[[], float]) -> Generator[float, bool, None]:
    """Yield delays in seconds without end; their bound doubles up to `MAX_DELAY`.

    Each is uniform between 0 and its bound ("full jitter"), so that clients that lost
    a server at the same time do not reconnect at the same time.

    Send True to start over after a success; False or `next()` continues.

    Args:
        random: returns a float in [0, 1).
    """
    bound = FIRST_DELAY
    while True:
        start_over = yield bound * random()
        bound = FIRST_DELAY if start_over else min(bound * 2, MAX_DELAY)
