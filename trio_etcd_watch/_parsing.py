"""Parses what servers send.

Sans-IO. Text that is no UTF-8 is a DecodeError in C, and a UnicodeDecodeError in pure
Python.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

UNPARSABLE = (DecodeError, UnicodeDecodeError)
"""What protobuf raises, whichever of its implementations is there."""

Parsed = TypeVar("Parsed", bound=Message)


def parse(kind: type[Parsed], data: bytes) -> Parsed:
    """Return a message.

    Raises:
        ValueError: these bytes are none.
    """
    try:
        return kind.FromString(data)
    except UNPARSABLE as exc:
        raise ValueError(f"{len(data)} bytes are no {kind.DESCRIPTOR.name}") from exc
