"""Parses the protobuf messages that servers send.

Sans-IO. Text that is not UTF-8 raises DecodeError in protobuf's C implementation, and
UnicodeDecodeError in its pure Python one.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

UNPARSABLE = (DecodeError, UnicodeDecodeError)
"""The exceptions of protobuf for invalid bytes, in any of its implementations."""

Parsed = TypeVar("Parsed", bound=Message)


def parse(kind: type[Parsed], data: bytes) -> Parsed:
    """Return the message that bytes encode.

    Raises:
        ValueError: they do not encode one.
    """
    try:
        return kind.FromString(data)
    except UNPARSABLE as exc:
        raise ValueError(f"{len(data)} bytes are not a {kind.DESCRIPTOR.name}") from exc
