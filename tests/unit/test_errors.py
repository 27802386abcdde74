"""What the server's words mean: which end a watch, and which a retry can mend."""

from __future__ import annotations

import pytest

from trio_etcd_watch import (
    AuthenticationError,
    ClusterChangedError,
    CompactedError,
    FutureRevisionError,
    NoLeaderError,
    PermissionDeniedError,
    RpcError,
    StatusCode,
    WatchCanceledError,
    WatchResponse,
)
from trio_etcd_watch._errors import (
    TokenExpired,
    afresh,
    error_of_cancel,
    error_of_status,
    is_stale_token,
    lacks_token,
)
from trio_etcd_watch._grpc.status import Status, StreamLost
from trio_etcd_watch._responses import RawResponse


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (StatusCode.OK, "", StreamLost),
        (StatusCode.CANCELLED, "", StreamLost),
        (StatusCode.INTERNAL, "", StreamLost),
        (StatusCode.UNAVAILABLE, "", StreamLost),
        (StatusCode.UNAVAILABLE, "etcdserver: no leader", NoLeaderError),
        (StatusCode.UNAUTHENTICATED, "", TokenExpired),
        (StatusCode.UNKNOWN, "etcdserver: invalid auth token", TokenExpired),
        (
            StatusCode.INVALID_ARGUMENT,
            "etcdserver: revision of auth store is old",
            TokenExpired,
        ),
        (StatusCode.UNIMPLEMENTED, "unknown service", RpcError),
    ],
)
def test_ends_of_a_stream(
    code: StatusCode, message: str, kind: type[Exception]
) -> None:
    error = error_of_status(Status(code, message))
    assert type(error) is kind
    assert message in str(error)


@pytest.mark.parametrize("prefix", ["", "rpc error: code = PermissionDenied desc = "])
@pytest.mark.parametrize(
    ("reason", "compact_revision", "kind"),
    [
        ("etcdserver: mvcc: required revision has been compacted", 0, CompactedError),
        ("", 5, CompactedError),
        ("", -1, CompactedError),
        ("", 0, FutureRevisionError),
        ("etcdserver: permission denied", 0, PermissionDeniedError),
        ("etcdserver: user name is empty", 0, PermissionDeniedError),
        ("mvcc: watcher range is empty", 0, WatchCanceledError),
    ],
)
def test_reasons_of_a_cancel(
    prefix: str, reason: str, compact_revision: int, kind: type[WatchCanceledError]
) -> None:
    raw = RawResponse(
        canceled=True, cancel_reason=prefix + reason, compact_revision=compact_revision
    )
    response = WatchResponse(raw)
    error = error_of_cancel(response)
    assert type(error) is kind
    assert error.response is response
    assert error.reason == reason
    if isinstance(error, CompactedError):
        assert error.compact_revision == compact_revision


def test_reasons_about_the_token() -> None:
    prefix = "rpc error: code = Unauthenticated desc = "
    assert is_stale_token("etcdserver: invalid auth token")
    assert is_stale_token(f"{prefix}whatever")
    assert not is_stale_token("etcdserver: permission denied")
    assert lacks_token(
        "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
    )
    assert not lacks_token("etcdserver: permission denied")


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError(StatusCode.UNAUTHENTICATED, "no"),
        ClusterChangedError(0xA, 0xB),
        error_of_cancel(WatchResponse(RawResponse(compact_revision=5))),
    ],
)
def test_raised_once_more_it_says_the_same(error: Exception) -> None:
    try:
        raise error
    except Exception:
        twin = afresh(error)
    assert twin is not error
    assert type(twin) is type(error)
    assert (str(twin), vars(twin)) == (str(error), vars(error))
    assert twin.__traceback__ is None
