"""The public tree of exceptions.

    WatchError
     +-- WatchCanceledError          the server ended this watch
     |    +-- CompactedError         its next revision has been compacted
     |    +-- PermissionDeniedError  the user may not read its range
     |    +-- FutureRevisionError    canceled without a reason
     +-- RpcError                    a final status, which a retry cannot change
     |    +-- NoLeaderError          the member lost its leader (require_leader)
     |    +-- AuthenticationError    the credentials are refused
     +-- ClusterChangedError         the endpoints now belong to another cluster
     +-- HistoryLostError            the cluster is behind what it has reported

Errors that a retry may resolve are never raised to users: inside the package they are a
`StreamLost`. This module uses neither I/O nor protobuf.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from ._grpc.status import StatusCode

if TYPE_CHECKING:
    from ._responses import WatchResponse


class WatchError(Exception):
    """Base of every error that this package raises about a watch, a mirror or a read.

    All of them can be pickled and copied, with their fields and notes.
    """

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own method calls the constructor with `args`, which not all of these
        # classes accept.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    kind: type[WatchError], args: tuple[object, ...], fields: dict[str, object]
) -> WatchError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class WatchCanceledError(WatchError):
    """The server ended this watch, or refused to create it.

    Attributes:
        response: the response that ended or refused the watch.
        reason: the server's cancel_reason, without its gRPC prefix; may be empty.
    """

    def __init__(self, message: str, *, response: WatchResponse, reason: str) -> None:
        super().__init__(message)
        self.response = response
        self.reason = reason


class CompactedError(WatchCanceledError):
    """Events that this watch has yet to get were compacted from the server's history.

    Attributes:
        compact_revision: the oldest revision that can still be watched, as reported
            by the server; zero or a negative value if it reported none.
    """

    def __init__(
        self,
        message: str,
        *,
        response: WatchResponse,
        reason: str,
        compact_revision: int,
    ) -> None:
        super().__init__(message, response=response, reason=reason)
        self.compact_revision = compact_revision


class PermissionDeniedError(WatchCanceledError):
    """The user, or a client without a user, may not read the watched range.

    Args:
        message: the server's words.
        response: as in `WatchCanceledError`.
        reason: as in `WatchCanceledError`.
        anonymous: whether the client gave neither credentials nor a token, which the
            text of the error then says.
    """

    def __init__(
        self,
        message: str,
        *,
        response: WatchResponse,
        reason: str,
        anonymous: bool = False,
    ) -> None:
        if anonymous:
            message += " (the Channel has neither credentials nor a token)"
        super().__init__(message, response=response, reason=reason)


class FutureRevisionError(WatchCanceledError):
    """The revision is ahead of the store.

    For a read, the server reports this. For a watch, it means that the server canceled it
    without a reason, which Go's client takes for a future revision.
    """


class RpcError(WatchError):
    """A stream or a read ended with a final status, which a retry cannot change.

    Attributes:
        code: the gRPC status code.
        message: the server's words.
    """

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" if self.message else self.code.name


class NoLeaderError(RpcError):
    """The member has no leader, and the watch was opened with `require_leader`."""


class AuthenticationError(RpcError):
    """The server refuses the credentials, or several tokens in a row.

    It is also raised if the function that was given as `token` raises; the exception of
    that function is the `__cause__`.
    """


class ClusterChangedError(WatchError):
    """The endpoints now belong to another cluster, with another history of revisions.

    Attributes:
        expected: the `cluster_id` under which the watch was created.
        actual: the `cluster_id` of the cluster that answers now.
    """

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(expected, actual)
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return (
            f"the watch was created in cluster {self.expected:x}, "
            f"but cluster {self.actual:x} answers now"
        )


class HistoryLostError(WatchError):
    """The cluster, under the same id, is behind a revision that it has reported.

    Its data was deleted, or restored from an older backup, so that it will use revisions a
    second time, for other events. Take a snapshot, and watch from there.

    Attributes:
        expected: a revision that the cluster has reported.
        actual: its newest revision now, by a linearizable read.
    """

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(expected, actual)
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return (
            f"the cluster has lost history: it was at revision {self.expected}, "
            f"and is at {self.actual} now"
        )


def afresh(error: Exception) -> Exception:
    """Return a copy of an error, to be raised once more.

    An exception that is raised again keeps the traceback and context of earlier raises.
    """
    twin = copy.copy(error)
    if error.__cause__ is not None:
        twin.__cause__ = error.__cause__
    return twin
