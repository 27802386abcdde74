"""The public exceptions as values can be copied and pickled without loss."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import trio_etcd_watch
from tests.support.replies import response_of
from trio_etcd_watch import (
    AuthenticationError,
    ClusterChangedError,
    CompactedError,
    FutureRevisionError,
    HistoryLostError,
    NoLeaderError,
    PermissionDeniedError,
    RpcError,
    StatusCode,
    WatchCanceledError,
    WatchError,
)
from trio_etcd_watch._errors import afresh
from trio_etcd_watch._pb import watch_pb2 as pb

RESPONSE = response_of(pb.WatchResponse(watch_id=7, canceled=True))

CANCELED: list[WatchError] = [
    kind("its words", response=RESPONSE, reason="its words")
    for kind in (WatchCanceledError, PermissionDeniedError, FutureRevisionError)
]
ERRORS = [
    WatchError("words"),
    *CANCELED,
    PermissionDeniedError("no", response=RESPONSE, reason="no", anonymous=True),
    CompactedError("gone", response=RESPONSE, reason="gone", compact_revision=5),
    *(
        kind(StatusCode.UNKNOWN, "its words")
        for kind in (RpcError, NoLeaderError, AuthenticationError)
    ),
    ClusterChangedError(0xA, 0xB),
    HistoryLostError(7, 3),
]


def raised(error: Exception) -> Exception:
    """Raise and catch an error, so that it has a traceback."""
    try:
        raise error
    except Exception as exc:
        return exc


COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    afresh,
    *(
        lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    ),
]


def test_the_list_is_whole() -> None:
    public = [getattr(trio_etcd_watch, name) for name in trio_etcd_watch.__all__]
    classes = [value for value in public if isinstance(value, type)]
    errors = {kind for kind in classes if issubclass(kind, Exception)}
    assert {type(error) for error in ERRORS} == errors


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_copies(error: WatchError, copied: Callable[[Any], Any]) -> None:
    error.__dict__.pop("__notes__", None)
    raised(error).add_note("seen")
    # A copy of a copy, with a raise in between.
    twin = raised(copied(raised(copied(error))))
    assert type(twin) is type(error)
    assert (str(twin), repr(twin)) == (str(error), repr(error))
    assert twin.args == error.args
    assert repr(vars(twin)) == repr(vars(error))
    assert vars(twin)["__notes__"] == ["seen"]


def test_raised_once_more_it_has_its_cause_and_no_old_traceback() -> None:
    error = AuthenticationError(StatusCode.UNAUTHENTICATED, "words")
    error.__cause__ = KeyError("of a token function")
    twin = afresh(raised(error))
    assert twin is not error
    assert twin.__cause__ is error.__cause__
    assert twin.__traceback__ is None


@pytest.mark.parametrize("error", CANCELED)
def test_the_server_s_words_are_said_once(error: WatchError) -> None:
    assert str(error) == "its words"


def test_words_of_a_status() -> None:
    assert str(RpcError(StatusCode.UNKNOWN, "its words")) == "UNKNOWN: its words"
    assert str(RpcError(StatusCode.UNKNOWN, "")) == "UNKNOWN"


def test_denied_without_credentials() -> None:
    words = "etcdserver: permission denied"
    error = PermissionDeniedError(
        words, response=RESPONSE, reason=words, anonymous=True
    )
    assert str(error) == f"{words} (the Channel has neither credentials nor a token)"
    assert error.reason == words


def test_what_each_holds_and_says() -> None:
    changed = ClusterChangedError(0xA, 0xB)
    assert (changed.expected, changed.actual, changed.args) == (10, 11, (10, 11))
    assert str(changed) == (
        "the watch was created in cluster a, but cluster b answers now"
    )
    lost = HistoryLostError(7, 3)
    assert (lost.expected, lost.actual, lost.args) == (7, 3, (7, 3))
    assert str(lost) == (
        "the cluster has lost history: it was at revision 7, and is at 3 now"
    )
    refused = RpcError(StatusCode.UNKNOWN, "its words")
    assert (refused.code, refused.message) == (StatusCode.UNKNOWN, "its words")
    assert refused.args == (StatusCode.UNKNOWN, "its words")
    compacted = CompactedError(
        "gone", response=RESPONSE, reason="its words", compact_revision=5
    )
    assert (compacted.response, compacted.reason) == (RESPONSE, "its words")
    assert (compacted.compact_revision, compacted.args) == (5, ("gone",))


@pytest.mark.parametrize(
    ("named", "error"),
    [
        (
            RpcError(code=StatusCode.UNKNOWN, message="its words"),
            RpcError(StatusCode.UNKNOWN, "its words"),
        ),
        (
            ClusterChangedError(expected=0xA, actual=0xB),
            ClusterChangedError(0xA, 0xB),
        ),
        (HistoryLostError(expected=7, actual=3), HistoryLostError(7, 3)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_arguments_given_by_name_are_those_given_by_place(
    named: WatchError, error: WatchError
) -> None:
    assert named.args == error.args
    assert (str(named), repr(named)) == (str(error), repr(error))
