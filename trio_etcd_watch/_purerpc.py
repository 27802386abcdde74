"""Reads the address of a purerpc channel, without importing purerpc.

An application that passes such a channel has imported purerpc itself. purerpc pins
h2 < 4, so an application with h2 4 can install this package, but not purerpc.
"""

from __future__ import annotations

from ssl import SSLContext
from typing import Protocol


class PurerpcChannel(Protocol):
    """The attributes of a purerpc 0.8 channel, for type checkers."""

    _host: str
    _port: int


def address_of(channel: object) -> tuple[str, int, SSLContext | None] | None:
    """Return host, port and TLS context of a purerpc channel; None for anything else.

    Raises:
        TypeError: it is purerpc's, but lacks the attributes of version 0.8.
    """
    kind = type(channel)
    if kind.__module__.partition(".")[0] != "purerpc":
        return None
    match [
        getattr(channel, name, NotImplemented)
        for name in ("_host", "_port", "_ssl_context")
    ]:
        case [str() as host, int() as port, SSLContext() | None as context]:
            return host, port, context
    raise TypeError(
        f"channel is a {kind.__module__}.{kind.__qualname__} of a version of purerpc "
        f"that is not known here (0.8 is); give 'host:port', or a Channel"
    )
