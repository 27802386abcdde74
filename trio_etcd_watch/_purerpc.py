"""Channels of purerpc: where they lead, without importing it.

Only whoever made such a channel has imported purerpc. It pins h2 < 4, so an application
that has h2 4 can have us and not it.
"""

from __future__ import annotations

from ssl import SSLContext
from typing import Protocol


class PurerpcChannel(Protocol):
    """What a type checker sees of a channel of purerpc 0.8."""

    _host: str
    _port: int


def address_of(channel: object) -> tuple[str, int, SSLContext | None] | None:
    """Return host, port and TLS context of a purerpc channel; None for all else.

    Raises:
        TypeError: it is purerpc's, but not as 0.8 has it.
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
