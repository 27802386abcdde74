"""Metadata that HTTP/2 cannot carry is refused."""

from __future__ import annotations

from typing import Any

import pytest

from trio_etcd_watch._grpc.metadata import Metadata, check_metadata, header_fields

RESERVED = (
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
)
"""Names of HTTP/2 and gRPC."""


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
        *([(name, "s3cret")] for name in RESERVED),
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


def test_bytes_are_unpadded_base64() -> None:
    metadata: Metadata = [("a", "=X="), ("x-bin", b"a"), ("y-bin", b"\0\0\x17")]
    fields = [("a", "=X="), ("x-bin", "YQ"), ("y-bin", "AAAX")]
    assert list(header_fields(metadata)) == fields
