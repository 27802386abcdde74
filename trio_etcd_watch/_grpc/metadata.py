"""Checks the metadata of a call, and encodes it as header fields.

Sans-IO. The check is not left to h2: 3.2 sends header values with CR or LF in them
(CVE-2025-57804), and newer versions refuse them only when they are sent.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
"""Pairs of names and values; a value is bytes where the name ends in `-bin`."""

_NAME = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_RESERVED = frozenset(
    {
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
    }
)
"""Names that this client sends itself, or that HTTP/2 forbids (RFC 9113, 8.2.2)."""


def check_metadata(pairs: Metadata) -> None:
    """Refuse metadata that HTTP/2 or gRPC cannot carry.

    Raises:
        TypeError, ValueError: the text has the name, but never the value.
    """
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, str | bytes):
            raise TypeError(f"metadata must map str to str or bytes, got {name!r}")
        if name in _RESERVED:
            raise ValueError(f"metadata name {name!r} is HTTP/2's or gRPC's own")
        if not _NAME.fullmatch(name) or name.startswith("grpc-"):
            raise ValueError(
                f"metadata name must be of a-z 0-9 _ . - and not begin with grpc-, "
                f"got {name!r}"
            )
        if name.endswith("-bin") is not isinstance(value, bytes):
            raise TypeError(
                f"metadata {name!r}: a value must be bytes if, and only if, its name "
                f"ends in -bin"
            )
        if isinstance(value, str) and not _VALUE.fullmatch(value):
            raise ValueError(f"metadata {name!r}: its value must be printable ASCII")


def header_fields(metadata: Metadata) -> Iterator[tuple[str, str]]:
    """Yield metadata as header fields; bytes as unpadded base64 (gRPC over HTTP/2)."""
    for name, value in metadata:
        if isinstance(value, bytes):
            yield name, base64.b64encode(value).rstrip(b"=").decode()
        else:
            yield name, value
