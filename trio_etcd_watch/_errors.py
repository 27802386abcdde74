"""The tree of exceptions, and which ends of a stream halt and which retry.

    WatchError
     +-- WatchCanceledError          the server ended this watch
     |    +-- CompactedError         its next revision has been compacted
     |    +-- PermissionDeniedError  the user may not read its range
     |    +-- FutureRevisionError    canceled without a reason
     +-- RpcError                    the stream ended, and retrying cannot mend it
     |    +-- NoLeaderError          the member lost its leader (require_leader)
     |    +-- AuthenticationError    the credentials are refused
     +-- ClusterChangedError         the endpoints now belong to another cluster

What a retry can mend never leaves the package: it is a `StreamLost`.

This module knows neither I/O nor protobuf.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING

from ._grpc.status import Status, StatusCode, StreamLost

if TYPE_CHECKING:
    from ._responses import WatchResponse


class WatchError(Exception):
    """Base of every error that this package raises about a watch.

    All can be pickled and copied, with their fields and notes.
    """

    def __reduce__(self) -> tuple[object, ...]:
        # An exception's own gives `args` to the constructor, which is not what all of
        # these take.
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
        response: the response that said so.
        reason: the server's words, without their gRPC prefix; may be empty.
    """

    def __init__(self, message: str, *, response: WatchResponse, reason: str) -> None:
        super().__init__(message)
        self.response = response
        self.reason = reason


class CompactedError(WatchCanceledError):
    """Events that this watch has still to see are gone from the server's history.

    Attributes:
        compact_revision: the oldest revision that can still be watched, as the
            server gives it; a negative or zero value means that it gave none.
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
        reason: likewise.
        anonymous: whether the client gave neither credentials nor token; the text
            says so then.
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
    """The server gave no reason, which Go's client reads as a future revision."""


class RpcError(WatchError):
    """The stream ended with a status that retrying cannot mend.

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
    """The member has no leader, and the watch was opened with require_leader."""


class AuthenticationError(RpcError):
    """The server refuses the credentials, or their token again and again.

    Or the function given as `token=` raised: what, is the `__cause__`.
    """


class ClusterChangedError(WatchError):
    """The stream came back from another cluster, where our revisions mean nothing.

    Attributes:
        expected: the cluster_id under which the watch was created.
        actual: the cluster_id that answers now.
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


def afresh(error: Exception) -> Exception:
    """Return an error that says the same, to be raised once more.

    Raised again, an exception keeps the traceback and context of the times before.
    """
    twin = copy.copy(error)
    if error.__cause__ is not None:
        twin.__cause__ = error.__cause__
    return twin


class TokenExpired(StreamLost):
    """The stream's auth token is no longer good: take a new one, then resume.

    Attributes:
        message: the server's words, or ours about a token that cannot be sent.
        code: the server's code.
    """

    def __init__(
        self, message: str, code: StatusCode = StatusCode.UNAUTHENTICATED
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


_NO_LEADER = "etcdserver: no leader"

# The server ended the stream, but a new one may fare better. Unavailable and Internal
# are what Go's isHaltErr retries; it gives up on the other two, and loses watches.
_RETRIED = frozenset(
    {
        StatusCode.OK,
        StatusCode.CANCELLED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
    }
)

# What etcd says of a token that has expired or been revoked. The second is a change
# of the cluster's auth settings, after which every older token is refused.
_STALE_TOKEN = frozenset(
    {
        "etcdserver: invalid auth token",
        "etcdserver: revision of auth store is old",
    }
)

# Said to a client without a token; 3.4.21, 3.5.5 and older say "permission denied" here
# too.
_NO_USER = "etcdserver: user name is empty"

_DENIED = frozenset({"etcdserver: permission denied", _NO_USER})

_COMPACTED = "etcdserver: mvcc: required revision has been compacted"

# How a Go error of gRPC prints: etcd puts it into cancel_reason unchanged.
_RPC_PREFIX = re.compile(r"rpc error: code = (\w+) desc = ")


def error_of_status(status: Status) -> StreamLost | RpcError:
    """Say what the end of a stream means: `StreamLost` is to be retried."""
    code, message = status.code, status.message
    if message == _NO_LEADER:
        # Its code is Unavailable, yet it halts: the user asked to be told.
        return NoLeaderError(code, message)
    if code is StatusCode.UNAUTHENTICATED or message in _STALE_TOKEN:
        return TokenExpired(str(status))
    if code in _RETRIED:
        return StreamLost(f"the server ended the stream with {status}")
    return RpcError(code, message)


def is_stale_token(reason: str) -> bool:
    """Whether a cancel_reason says that the stream's token is no longer good."""
    prefix = _RPC_PREFIX.match(reason)
    if prefix and prefix[1] == "Unauthenticated":
        return True
    return _RPC_PREFIX.sub("", reason, count=1) in _STALE_TOKEN


def lacks_token(reason: str) -> bool:
    """Whether a cancel_reason says that the stream has come without a token."""
    return _RPC_PREFIX.sub("", reason, count=1) == _NO_USER


def error_of_cancel(response: WatchResponse) -> WatchCanceledError:
    """Say why the server canceled a watch, or refused to create it."""
    reason = _RPC_PREFIX.sub("", response.cancel_reason, count=1)
    compact_revision = response.compact_revision
    # Not "> 0": servers before 3.4.38 and 3.5.24 answer -1 to a negative revision.
    if compact_revision != 0 or reason == _COMPACTED:
        return CompactedError(
            f"the required revision has been compacted; the oldest left is "
            f"{compact_revision}",
            response=response,
            reason=reason,
            compact_revision=compact_revision,
        )
    if not reason:
        return FutureRevisionError(
            "the server canceled the watch and gave no reason",
            response=response,
            reason=reason,
        )
    kind = PermissionDeniedError if reason in _DENIED else WatchCanceledError
    return kind(reason, response=response, reason=reason)
