"""How the program fails: exit codes, and what it says.

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
"""Exit codes, as `arguments.EXIT_CODES` explains them."""

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
    """Return what an error means to whoever runs the program.

    Args:
        error: of the library.
        bookmark: the file in use.
    """
    if isinstance(error, _REFUSED):
        return Failure(REFUSED, str(error))
    if not isinstance(error, _NO_HISTORY):
        return Failure(FAILED, str(error))
    message = str(error)
    if bookmark is not None:
        message += (
            f"; what {bookmark} still needs is gone: remove it to begin anew, and see "
            f"by a get what is there"
        )
    return Failure(NO_HISTORY, message)
