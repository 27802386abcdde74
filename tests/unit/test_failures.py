"""What each error of the library means to the user of the command line."""

from __future__ import annotations

import inspect

import pytest

from trio_etcd_watch import (
    AuthenticationError,
    ClusterChangedError,
    HistoryLostError,
    RpcError,
    StatusCode,
    WatchError,
    _errors,
)
from trio_etcd_watch._cli.arguments import EXIT_CODES
from trio_etcd_watch._cli.failures import TIMED_OUT, WRONG, failure_of

CODES = {
    "WatchError": 1,
    "WatchCanceledError": 1,
    "RpcError": 1,
    "NoLeaderError": 1,
    "CompactedError": 3,
    "FutureRevisionError": 3,
    "ClusterChangedError": 3,
    "HistoryLostError": 3,
    "AuthenticationError": 4,
    "PermissionDeniedError": 4,
}


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for _, kind in inspect.getmembers(_errors, inspect.isclass)
        if issubclass(kind, WatchError)
    ],
)
def test_each_kind_has_a_code(kind: type[WatchError]) -> None:
    error = kind.__new__(kind)
    error.__dict__.update(code=StatusCode.INTERNAL, message="m", expected=1, actual=2)
    failure = failure_of(error)
    assert failure.code == CODES[kind.__name__]
    assert f"\n  {failure.code}   " in EXIT_CODES


def test_codes_of_what_is_no_error_of_the_library() -> None:
    assert (WRONG, TIMED_OUT) == (2, 5)
    for code in (WRONG, TIMED_OUT):
        assert f"\n  {code}   " in EXIT_CODES


def test_what_it_says() -> None:
    refused = RpcError(StatusCode.INTERNAL, "broken")
    assert str(failure_of(refused, "mark")) == "INTERNAL: broken"
    wrong = AuthenticationError(StatusCode.INVALID_ARGUMENT, "no")
    assert str(failure_of(wrong, "mark")) == "INVALID_ARGUMENT: no"
    for lost in (HistoryLostError(9, 5), ClusterChangedError(1, 2)):
        assert str(failure_of(lost)) == str(lost)
        assert str(failure_of(lost, "mark")) == (
            f"{lost}; the history that mark needs is gone: remove it to start over, "
            f"and run a get to see what is there"
        )
