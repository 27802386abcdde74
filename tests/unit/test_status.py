"""gRPC's status codes, and the text of a status in a log."""

from __future__ import annotations

import pytest

from trio_etcd_watch import StatusCode
from trio_etcd_watch._grpc.status import Status


def test_codes_are_those_of_grpc() -> None:
    assert [code.value for code in StatusCode] == list(range(17))
    assert StatusCode["UNAUTHENTICATED"].value == 16


@pytest.mark.parametrize("number", [-1, 17, 2**31])
def test_a_code_that_grpc_does_not_have_is_unknown(number: int) -> None:
    assert StatusCode(number) is StatusCode.UNKNOWN


def test_a_status_is_named() -> None:
    assert str(Status(StatusCode.UNAVAILABLE, "no leader")) == "UNAVAILABLE: no leader"
    assert str(Status(StatusCode.OK, "")) == "OK"
