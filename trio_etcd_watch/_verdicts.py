"""The policy for errors: what to do about each status and each reason of a canceled watch.

Sans-IO. Streams, creations, `Authenticate`, reads and lists of members all use one table;
nothing else in the package decides what is retried. The first row that fits gives the
verdict. A status that fits no row counts as a loss: the next endpoint may do better.

A verdict is final only if no retry, at any endpoint, can succeed.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._errors import (
    CompactedError,
    FutureRevisionError,
    PermissionDeniedError,
    WatchCanceledError,
)
from ._grpc.status import Status, StatusCode

if TYPE_CHECKING:
    from ._responses import WatchResponse


MAX_REFUSED_TOKENS = 3
"""How many refused tokens in a row are each followed by another try."""


class Verdict(enum.Enum):
    """What to do about a status."""

    RETRY = "retry"
    """Try again, at the same endpoint if there is no other."""
    ELSEWHERE = "elsewhere"
    """Try again, at the next endpoint."""
    NO_LEADER = "no leader"
    """As `ELSEWHERE`; final for a stream that was opened with require_leader."""
    NEW_TOKEN = "new token"  # no password
    """Try again with a new token, a bounded number of times."""
    NO_AUTH = "no auth"
    """Authentication is disabled in the cluster: continue without a token."""
    TOO_LARGE = "too large"
    """A message is over a limit: final for the watch that sent it. A read, which may
    have asked for too much, asks again for less."""
    FINAL = "final"
    """The server refuses this request, so raise the error."""


class Call(enum.Flag):
    """The call that a status came from."""

    STREAM = enum.auto()
    """The status of a Watch stream."""
    CREATION = enum.auto()
    """The cancel_reason of a watch."""
    AUTHENTICATE = enum.auto()
    READ = enum.auto()
    """The status of a Range."""
    MEMBERS = enum.auto()
    """The status of a MemberList. A final one is not retried before the next connection."""
    ANY = STREAM | CREATION | AUTHENTICATE | READ | MEMBERS


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Attributes:
        calls: the calls that the row applies to.
        code: the code of the status; None fits every code.
        verdict: what to do.
        source: where the meaning of the status is documented.
    """

    calls: Call
    code: StatusCode | None
    message: str
    """A regular expression that is searched for in the message; "" fits every message."""
    verdict: Verdict
    source: str

    def fits(self, call: Call, status: Status) -> bool:
        """Whether this row applies to a status of this call."""
        return (
            call in self.calls
            and self.code in (None, status.code)
            and re.search(self.message, status.message) is not None
        )


_RPC_TYPES = "etcd api/v3rpc/rpctypes/error.go"
_GRPC = "grpc.io, Status codes and their use in gRPC"

TABLE = (
    # Messages that mean the same with every code.
    Row(
        ~Call.CREATION,
        None,
        "^etcdserver: no leader$",
        Verdict.NO_LEADER,
        f"{_RPC_TYPES}: ErrGRPCNoLeader; sent to what carries hasleader",
    ),
    Row(
        Call.AUTHENTICATE,
        None,
        "^etcdserver: authentication is not enabled$",
        Verdict.NO_AUTH,
        f"{_RPC_TYPES}: ErrGRPCAuthNotEnabled; Go's client goes on without a token",
    ),
    Row(
        ~Call.AUTHENTICATE,
        None,
        "^etcdserver: invalid auth token$|^etcdserver: revision of auth store is old$",
        Verdict.NEW_TOKEN,
        f"{_RPC_TYPES}: ErrGRPCInvalidAuthToken, ErrGRPCAuthOldRevision",
    ),
    Row(
        Call.CREATION | Call.READ,
        None,
        "^etcdserver: user name is empty$",
        Verdict.NEW_TOKEN,
        f"{_RPC_TYPES}: ErrGRPCUserEmpty: came without a token, before auth was on",
    ),
    Row(
        Call.STREAM,
        StatusCode.RESOURCE_EXHAUSTED,
        "received message larger than max",
        Verdict.TOO_LARGE,
        "grpc-go rpc_util.go: a request over max-request-bytes and 512 KiB",
    ),
    Row(
        Call.READ,
        StatusCode.RESOURCE_EXHAUSTED,
        "(?i)^(?!etcdserver:).*(larger than|too large|exceeds max)",
        Verdict.TOO_LARGE,
        f"{_GRPC}: a message over the limit of a server or proxy; words of grpc-go and "
        f"-core, of tonic, and of grpc-java. Any other exhaustion is temporary",
    ),
    Row(
        Call.READ,
        None,
        "^etcdserver: (request is too large|duplicate key given)",
        Verdict.FINAL,
        f"{_RPC_TYPES}: ErrGRPCRequestTooLarge",
    ),
    # Only a refusal of the credentials themselves is final.
    Row(
        Call.AUTHENTICATE,
        StatusCode.FAILED_PRECONDITION,
        "^etcdserver: (user|role|password|root user)",
        Verdict.FINAL,
        f"{_RPC_TYPES}: ErrGRPCUserNotFound and its neighbours",
    ),
    Row(
        Call.AUTHENTICATE | Call.STREAM,
        StatusCode.INVALID_ARGUMENT,
        "",
        Verdict.FINAL,
        f"{_RPC_TYPES}: ErrGRPCAuthFailed; ErrGRPCInvalidClientAPIVersion",
    ),
    Row(
        Call.AUTHENTICATE | Call.STREAM,
        StatusCode.PERMISSION_DENIED,
        "",
        Verdict.FINAL,
        f"{_RPC_TYPES}: ErrGRPCPermissionDenied",
    ),
    Row(
        Call.AUTHENTICATE,
        StatusCode.UNAUTHENTICATED,
        "",
        Verdict.FINAL,
        f"{_GRPC}: the credentials themselves are refused",
    ),
    Row(
        ~Call.AUTHENTICATE,
        StatusCode.UNAUTHENTICATED,
        "",
        Verdict.NEW_TOKEN,
        f"{_GRPC}: no valid authentication credentials for the operation",
    ),
    # The server refuses a watch for a reason that is not about its token: the user gets
    # that reason.
    Row(Call.CREATION, None, "", Verdict.FINAL, "etcd v3rpc/watch.go: recvLoop"),
    Row(
        Call.READ,
        StatusCode.INVALID_ARGUMENT,
        "",
        Verdict.FINAL,
        f"{_GRPC}: arguments that are problematic regardless of the system's state",
    ),
    Row(
        Call.READ,
        StatusCode.OUT_OF_RANGE,
        "^etcdserver: mvcc: ",
        Verdict.FINAL,
        f"{_RPC_TYPES}: ErrGRPCCompacted, ErrGRPCFutureRev",
    ),
    Row(
        Call.READ,
        StatusCode.PERMISSION_DENIED,
        "",
        Verdict.FINAL,
        f"{_RPC_TYPES}: ErrGRPCPermissionDenied",
    ),
    Row(
        Call.MEMBERS,
        StatusCode.PERMISSION_DENIED,
        "",
        Verdict.FINAL,
        f"{_RPC_TYPES}: ErrGRPCPermissionDenied",
    ),
    Row(
        Call.MEMBERS,
        StatusCode.INVALID_ARGUMENT,
        "",
        Verdict.FINAL,
        f"{_RPC_TYPES}: ErrGRPCUserEmpty: the list is for users (server.go, MemberList)",
    ),
    Row(
        Call.MEMBERS,
        StatusCode.UNIMPLEMENTED,
        "",
        Verdict.FINAL,
        "a server, or a proxy, without the service Cluster",
    ),
    # Temporary errors. Go's isHaltErr retries the first two and gives up on the rest.
    Row(
        Call.ANY,
        StatusCode.UNAVAILABLE,
        "",
        Verdict.RETRY,
        f"{_RPC_TYPES}: leader changed, server stopped, request timed out",
    ),
    Row(Call.ANY, StatusCode.INTERNAL, "", Verdict.RETRY, f"{_GRPC}: a broken frame"),
    Row(
        Call.ANY,
        StatusCode.CANCELLED,
        "",
        Verdict.RETRY,
        "etcd v3rpc/watch.go: 'etcdserver: watch canceled', though we did not",
    ),
    Row(Call.STREAM, StatusCode.OK, "", Verdict.RETRY, "proxies end streams so"),
    Row(
        Call.ANY,
        StatusCode.UNKNOWN,
        "",
        Verdict.ELSEWHERE,
        "etcd raft: 'raft proposal dropped' while the leader moves",
    ),
    Row(
        Call.ANY,
        StatusCode.DEADLINE_EXCEEDED,
        "",
        Verdict.ELSEWHERE,
        f"{_RPC_TYPES}: ErrGRPCTimeout and its kind; limits of proxies",
    ),
    Row(
        Call.ANY,
        StatusCode.RESOURCE_EXHAUSTED,
        "",
        Verdict.ELSEWHERE,
        f"{_RPC_TYPES}: ErrGRPCRequestTooManyRequests, ErrGRPCNoSpace",
    ),
    Row(
        Call.ANY,
        StatusCode.ABORTED,
        "",
        Verdict.ELSEWHERE,
        f"{_GRPC}: the caller should try again",
    ),
    Row(
        Call.ANY,
        StatusCode.DATA_LOSS,
        "",
        Verdict.ELSEWHERE,
        f"{_RPC_TYPES}: ErrGRPCCorrupt: this member is, others may not be",
    ),
    Row(
        Call.ANY,
        StatusCode.FAILED_PRECONDITION,
        "",
        Verdict.ELSEWHERE,
        f"{_RPC_TYPES}: ErrGRPCNotSupportedForLearner, ErrGRPCNotCapable",
    ),
    Row(
        ~Call.MEMBERS,
        StatusCode.UNIMPLEMENTED,
        "",
        Verdict.ELSEWHERE,
        "a gRPC server that is no etcd, or a proxy that has no backend yet",
    ),
)


def verdict_on(call: Call, status: Status) -> Verdict:
    """Return what to do about a status of this call."""
    for row in TABLE:
        if row.fits(call, status):
            return row.verdict
    return Verdict.ELSEWHERE


# How Go formats a gRPC error, which etcd puts into cancel_reason unchanged.
_GO_ERROR = re.compile(r"rpc error: code = (\w+) desc = ")
_GO_CODES = {code.name.replace("_", "").lower(): code for code in StatusCode} | {
    "canceled": StatusCode.CANCELLED
}

_DENIED = frozenset({"etcdserver: permission denied", "etcdserver: user name is empty"})

_COMPACTED = "etcdserver: mvcc: required revision has been compacted"


def status_of_reason(reason: str) -> Status:
    """Return a cancel_reason as a status, with code UNKNOWN if it gives none."""
    prefix = _GO_ERROR.match(reason)
    if prefix is None:
        return Status(StatusCode.UNKNOWN, reason)
    code = _GO_CODES.get(prefix[1].lower(), StatusCode.UNKNOWN)
    return Status(code, reason[prefix.end() :])


def error_of_cancel(
    response: WatchResponse, *, anonymous: bool = False
) -> WatchCanceledError:
    """Return the error for a watch that the server canceled, or refused to create.

    Args:
        response: the response that cancels or refuses it.
        anonymous: whether the client gave neither credentials nor token.
    """
    reason = status_of_reason(response.cancel_reason).message
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
    if reason in _DENIED:
        return PermissionDeniedError(
            reason, response=response, reason=reason, anonymous=anonymous
        )
    return WatchCanceledError(reason, response=response, reason=reason)
