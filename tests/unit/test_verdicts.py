"""The table of verdicts, row by row."""

from __future__ import annotations

import pytest

from tests.support.replies import response_of
from trio_etcd_watch import (
    CompactedError,
    FutureRevisionError,
    PermissionDeniedError,
    StatusCode,
    WatchCanceledError,
)
from trio_etcd_watch._grpc.status import Status
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._verdicts import (
    TABLE,
    Call,
    Verdict,
    error_of_cancel,
    status_of_reason,
    verdict_on,
)

NO_LEADER = "etcdserver: no leader"
LEARNER = "etcdserver: rpc not supported for learner"
OLD_TOKEN = "etcdserver: invalid auth token"  # no password
TOO_LARGE = "grpc: received message larger than max (3145800 vs. 2097152)"
COMPACTED = "the required revision has been compacted; the oldest left is "
ALL = [Call.STREAM, Call.CREATION, Call.AUTHENTICATE, Call.READ, Call.MEMBERS]

CASES = [
    (Call.STREAM, StatusCode.OK, "", Verdict.RETRY),
    (Call.STREAM, StatusCode.CANCELLED, "etcdserver: watch canceled", Verdict.RETRY),
    (Call.STREAM, StatusCode.INTERNAL, "stream terminated", Verdict.RETRY),
    (Call.STREAM, StatusCode.UNAVAILABLE, "etcdserver: leader changed", Verdict.RETRY),
    (Call.STREAM, StatusCode.UNAVAILABLE, NO_LEADER, Verdict.NO_LEADER),
    (Call.STREAM, StatusCode.UNKNOWN, "raft proposal dropped", Verdict.ELSEWHERE),
    (Call.STREAM, StatusCode.DEADLINE_EXCEEDED, "", Verdict.ELSEWHERE),
    (Call.STREAM, StatusCode.RESOURCE_EXHAUSTED, "", Verdict.ELSEWHERE),
    (Call.STREAM, StatusCode.RESOURCE_EXHAUSTED, TOO_LARGE, Verdict.TOO_LARGE),
    (Call.STREAM, StatusCode.FAILED_PRECONDITION, LEARNER, Verdict.ELSEWHERE),
    (Call.STREAM, StatusCode.ABORTED, "", Verdict.ELSEWHERE),
    (Call.STREAM, StatusCode.DATA_LOSS, "", Verdict.ELSEWHERE),
    (Call.STREAM, StatusCode.UNIMPLEMENTED, "unknown service", Verdict.ELSEWHERE),
    (Call.STREAM, StatusCode.NOT_FOUND, "a status of no row", Verdict.ELSEWHERE),
    (Call.STREAM, StatusCode.UNAUTHENTICATED, "", Verdict.NEW_TOKEN),
    (Call.STREAM, StatusCode.UNKNOWN, OLD_TOKEN, Verdict.NEW_TOKEN),
    (Call.STREAM, StatusCode.INVALID_ARGUMENT, "", Verdict.FINAL),
    (Call.STREAM, StatusCode.PERMISSION_DENIED, "", Verdict.FINAL),
    (
        Call.STREAM,
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: revision of auth store is old",
        Verdict.NEW_TOKEN,
    ),
    (Call.CREATION, StatusCode.UNAUTHENTICATED, "anything", Verdict.NEW_TOKEN),
    (Call.CREATION, StatusCode.UNKNOWN, OLD_TOKEN, Verdict.NEW_TOKEN),
    (
        Call.CREATION,
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: user name is empty",
        Verdict.NEW_TOKEN,
    ),
    (
        Call.CREATION,
        StatusCode.PERMISSION_DENIED,
        "etcdserver: permission denied",
        Verdict.FINAL,
    ),
    (Call.CREATION, StatusCode.UNKNOWN, "mvcc: watcher range is empty", Verdict.FINAL),
    (
        Call.AUTHENTICATE,
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: authentication failed, invalid user ID or password",
        Verdict.FINAL,
    ),
    (Call.AUTHENTICATE, StatusCode.PERMISSION_DENIED, "", Verdict.FINAL),
    (Call.AUTHENTICATE, StatusCode.UNAUTHENTICATED, "", Verdict.FINAL),
    (
        Call.AUTHENTICATE,
        StatusCode.FAILED_PRECONDITION,
        "etcdserver: user name not found",
        Verdict.FINAL,
    ),
    (
        Call.AUTHENTICATE,
        StatusCode.FAILED_PRECONDITION,
        "etcdserver: authentication is not enabled",
        Verdict.NO_AUTH,
    ),
    (Call.AUTHENTICATE, StatusCode.FAILED_PRECONDITION, LEARNER, Verdict.ELSEWHERE),
    (Call.AUTHENTICATE, StatusCode.UNAVAILABLE, NO_LEADER, Verdict.NO_LEADER),
    (Call.AUTHENTICATE, StatusCode.UNAVAILABLE, "request timed out", Verdict.RETRY),
    (Call.AUTHENTICATE, StatusCode.DEADLINE_EXCEEDED, "", Verdict.ELSEWHERE),
    (
        Call.READ,
        StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision has been compacted",
        Verdict.FINAL,
    ),
    (Call.READ, StatusCode.OUT_OF_RANGE, "whatever", Verdict.ELSEWHERE),
    (Call.READ, StatusCode.RESOURCE_EXHAUSTED, TOO_LARGE, Verdict.TOO_LARGE),
    (
        Call.READ,
        StatusCode.RESOURCE_EXHAUSTED,
        "etcdserver: too many requests",
        Verdict.ELSEWHERE,
    ),
    (Call.READ, StatusCode.RESOURCE_EXHAUSTED, "rate limit", Verdict.ELSEWHERE),
    (Call.READ, StatusCode.PERMISSION_DENIED, "", Verdict.FINAL),
    (Call.READ, StatusCode.INVALID_ARGUMENT, "", Verdict.FINAL),
    (Call.READ, StatusCode.UNAUTHENTICATED, OLD_TOKEN, Verdict.NEW_TOKEN),
    (Call.READ, StatusCode.FAILED_PRECONDITION, LEARNER, Verdict.ELSEWHERE),
    (Call.READ, StatusCode.UNAVAILABLE, "leader changed", Verdict.RETRY),
    (
        Call.READ,
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: request is too large",
        Verdict.FINAL,
    ),
    (Call.MEMBERS, StatusCode.PERMISSION_DENIED, "", Verdict.FINAL),
    (
        Call.MEMBERS,
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: user name is empty",
        Verdict.FINAL,
    ),
    (Call.MEMBERS, StatusCode.UNIMPLEMENTED, "unknown service", Verdict.FINAL),
    (Call.MEMBERS, StatusCode.UNAUTHENTICATED, OLD_TOKEN, Verdict.NEW_TOKEN),
    (Call.MEMBERS, StatusCode.FAILED_PRECONDITION, LEARNER, Verdict.ELSEWHERE),
    (Call.MEMBERS, StatusCode.UNAVAILABLE, "leader changed", Verdict.RETRY),
]


@pytest.mark.parametrize(("call", "code", "message", "verdict"), CASES)
def test_verdicts(call: Call, code: StatusCode, message: str, verdict: Verdict) -> None:
    assert verdict_on(call, Status(code, message)) is verdict


def test_every_row_has_a_case_that_it_decides() -> None:
    decided = set()
    for call, code, message, _ in CASES:
        status = Status(code, message)
        decided.add(next((r for r in TABLE if r.fits(call, status)), None))
    assert decided >= set(TABLE)


@pytest.mark.parametrize("row", TABLE)
def test_every_row_says_where_it_is_from(row: object) -> None:
    assert len(getattr(row, "source", "")) > 10


@pytest.mark.parametrize("call", ALL)
def test_what_passes_is_final_for_nobody(call: Call) -> None:
    if call is Call.CREATION:
        # Everything that is not about a token is the server's refusal of this watch.
        return
    for code in (
        StatusCode.UNAVAILABLE,
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.ABORTED,
        StatusCode.DATA_LOSS,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
    ):
        if (call, code) == (Call.MEMBERS, StatusCode.UNIMPLEMENTED):
            # A server without a list of members need not be asked again at once.
            continue
        verdict = verdict_on(call, Status(code, "etcdserver: who knows"))
        assert verdict in (Verdict.RETRY, Verdict.ELSEWHERE)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("", Status(StatusCode.UNKNOWN, "")),
        (
            "mvcc: watcher range is empty",
            Status(StatusCode.UNKNOWN, "mvcc: watcher range is empty"),
        ),
        (
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            Status(StatusCode.PERMISSION_DENIED, "etcdserver: permission denied"),
        ),
        ("rpc error: code = Canceled desc = x", Status(StatusCode.CANCELLED, "x")),
        ("rpc error: code = Whatever desc = x", Status(StatusCode.UNKNOWN, "x")),
    ],
)
def test_reasons_are_statuses(reason: str, status: Status) -> None:
    assert status_of_reason(reason) == status


@pytest.mark.parametrize("prefix", ["", "rpc error: code = PermissionDenied desc = "])
@pytest.mark.parametrize(
    ("reason", "compact_revision", "kind", "text"),
    [
        (
            "etcdserver: mvcc: required revision has been compacted",
            0,
            CompactedError,
            COMPACTED + "0",
        ),
        ("", 5, CompactedError, COMPACTED + "5"),
        ("", -1, CompactedError, COMPACTED + "-1"),
        (
            "",
            0,
            FutureRevisionError,
            "the server canceled the watch and gave no reason",
        ),
        ("etcdserver: permission denied", 0, PermissionDeniedError, None),
        ("etcdserver: user name is empty", 0, PermissionDeniedError, None),
        ("mvcc: watcher range is empty", 0, WatchCanceledError, None),
    ],
)
def test_reasons_of_a_cancel(
    prefix: str,
    reason: str,
    compact_revision: int,
    kind: type[WatchCanceledError],
    text: str | None,
) -> None:
    response = response_of(
        pb.WatchResponse(
            canceled=True,
            cancel_reason=prefix + reason,
            compact_revision=compact_revision,
        )
    )
    error = error_of_cancel(response)
    assert type(error) is kind
    assert str(error) == (text or reason)
    assert error.response is response
    assert error.reason == reason
    if isinstance(error, CompactedError):
        assert error.compact_revision == compact_revision
