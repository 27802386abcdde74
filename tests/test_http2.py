"""What HTTP/2 cannot carry is refused; what purerpc and h2 keep to themselves."""

from __future__ import annotations

import logging
import ssl
from typing import Any

import purerpc
import pytest
from trio.testing import MockClock

from tests.connection import Caller, connected
from trio_etcd_watch._http2 import address_of, check_metadata


@pytest.mark.parametrize(
    "pairs",
    [
        [("token", "s3cret\r\nx: y")],
        [("token", "s3cret\n")],
        [("token", "s3cret\0")],
        [("token", "s3crét")],
        [("Token", "s3cret")],
        [("", "s3cret")],
        [("to ken", "s3cret")],
        [("token\n", "s3cret")],
        [("to:ken", "s3cret")],
        [(":authority", "s3cret")],
        [("grpc-timeout", "s3cret")],
        [("töken", "s3cret")],
        [("ok", "fine"), ("Token", "s3cret")],
        [("te", "s3cret")],
        [("host", "s3cret")],
        [("content-type", "s3cret")],
    ],
)
def test_metadata_that_http2_cannot_carry(pairs: list[tuple[Any, Any]]) -> None:
    with pytest.raises(ValueError, match="metadata") as info:
        check_metadata(pairs)
    assert "s3cr" not in str(info.value)
    assert repr(pairs[-1][0]) in str(info.value)


@pytest.mark.parametrize(
    "pairs",
    [
        [("token", b"s3cret")],
        [("token-bin", "s3cret")],
        [("token", None)],
        [(b"token", "s3cret")],
        [(1, "s3cret")],
    ],
)
def test_metadata_of_a_wrong_type(pairs: list[tuple[Any, Any]]) -> None:
    with pytest.raises(TypeError, match="metadata") as info:
        check_metadata(pairs)
    assert "s3cr" not in str(info.value)


def test_metadata_that_is_fine() -> None:
    check_metadata([("a.b_c-9", " ~"), ("x-bin", b"\0\r\n\xff"), ("e", "")])


# Where it is not ours


def test_address_of_purerpc_channels() -> None:
    context = ssl.create_default_context()
    assert address_of(purerpc.insecure_channel("h", 1)) == ("h", 1, None)
    assert address_of(purerpc.secure_channel("h", 1, context)) == ("h", 1, context)
    assert address_of("h:1") is None


async def test_tokens_are_not_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with connected() as ends:
        Caller(ends.connection, [("token", "s3cret")])
        await ends.peer.accept_call()
    ours = [r for r in caplog.records if "s3cret" in r.getMessage()]
    assert ours == []
