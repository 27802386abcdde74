"""Gives the exit codes and messages of a program that fails.

Sans-IO.
"""

from __future__ import annotations

from trio_etcd_watch._errors import (
    AuthenticationError,
    ClusterChangedError,
    CompactedError,
    FutureRevisionError,
    HistoryLostError,
    PermissionDeniedError,
    WatchError,
)

FAILED = 1
WRONG = 2
NO_HISTORY = 3
REFUSED = 4
TIMED_OUT = 5
"""The exit codes, which `arguments.EXIT_CODES` explains."""

_NO_HISTORY = (
    CompactedError,
    FutureRevisionError,
    HistoryLostError,
    ClusterChangedError,
)
_REFUSED = (AuthenticationError, PermissionDeniedError)


class Failure(Exception):
    """How the program ends, and why.

    Attributes:
        code: the exit code.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def failure_of(error: WatchError, bookmark: str | None = None) -> Failure:
    """Return how the program ends after an error of the library.

    Args:
        error: what the library raised.
        bookmark: the bookmark file in use.
    """
    if isinstance(error, _REFUSED):
        return Failure(REFUSED, str(error))
    if not isinstance(error, _NO_HISTORY):
        return Failure(FAILED, str(error))
    message = str(error)
    if bookmark is not None:
        message += (
            f"; the history that {bookmark} needs is gone: remove it to start over, "
            f"and run a get to see what is there"
        )
    return Failure(NO_HISTORY, message)
