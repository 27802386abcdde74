"""Checks the arguments of users, and raises errors that name them.

Sans-IO. All arguments are checked before anything is sent. Those of a channel alone are
checked in `_channel` and `_endpoints`, and metadata in `_grpc.metadata`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

_LEAST_KEY = b"\0"
_NO_END = b"\0"
"""As range_end, it means every key from `key` on (etcd's rpc.proto, RangeRequest)."""


def key_range(
    key: str | bytes,
    *,
    prefix: bool = False,
    range_end: str | bytes | None = None,
    from_key: bool = False,
) -> tuple[bytes, bytes]:
    """Return key and range_end of a request for this range.

    Raises:
        TypeError: key or range_end is neither str nor bytes.
        ValueError: more than one of prefix, range_end and from_key is given, or the
            range is empty.
    """
    start = as_bytes("key", key)
    given = [
        name
        for name, is_given in (
            ("prefix", prefix),
            ("range_end", range_end is not None),
            ("from_key", from_key),
        )
        if is_given
    ]
    if len(given) > 1:
        raise ValueError(f"{given[0]} and {given[1]} exclude each other; give one")
    if prefix:
        return start or _LEAST_KEY, _prefix_end(start)
    if from_key:
        return start or _LEAST_KEY, _NO_END
    if range_end is not None:
        end = as_bytes("range_end", range_end)
        if end != _NO_END and end <= start:
            raise ValueError(f"range_end must be above key, got {end!r} for {start!r}")
        return start or _LEAST_KEY, end
    if not start:
        raise ValueError(
            "key must not be empty, got ''; prefix=True with it is every key"
        )
    return start, b""


def as_bytes(name: str, value: object) -> bytes:
    """Return an argument as the bytes of a key; a str is encoded as UTF-8.

    Raises:
        TypeError, ValueError: it is neither, or cannot be encoded; the text has the
            name and the value.
    """
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as exc:
            raise ValueError(f"{name} cannot be encoded as UTF-8: {value!r}") from exc
    if isinstance(value, bytes):
        return value
    raise TypeError(f"{name} must be str or bytes, got {value!r}")


def _prefix_end(prefix: bytes) -> bytes:
    """Return the least key that is greater than all keys with this prefix."""
    stem = prefix.rstrip(b"\xff")
    if not stem:
        return _NO_END
    return stem[:-1] + bytes([stem[-1] + 1])


def check_int(name: str, value: object, *, low: int, high: int) -> None:
    """Raise unless the value is an int from `low` to `high`; a bool is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, got {value!r}")


def check_type(name: str, value: object, kind: type) -> None:
    """Raise unless the value is None or of this type."""
    if value is not None and not isinstance(value, kind):
        # Only the type is shown, since the value may hold a password.
        raise TypeError(f"{name} must be {kind.__name__}, got {type(value).__name__}")


def check_seconds(given: Mapping[str, object]) -> None:
    """Raise unless each value is a number of seconds above 0; infinity is allowed."""
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number of seconds, got {value!r}")
        if not value > 0 or math.isnan(value):
            raise ValueError(f"{name} must be above 0 seconds, got {value!r}")
