"""What a watcher tells of how it stands.

Sans-IO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final


@final
@dataclass(frozen=True, slots=True)
class EndpointStatistics:
    """What `WatcherStatistics.endpoints` tells of one endpoint."""

    endpoint: str
    """As `host:port`, or `unix:///path`."""
    source: Literal["given", "srv", "member"]
    """Whether it was given to the channel, is the target of an SRV record, or the
    address of a member (`follow_members`)."""
    in_use: bool
    """Whether a connection to it is open, and takes new streams."""


@final
@dataclass(frozen=True, slots=True)
class WatcherStatistics:
    """What `Watcher.statistics()` tells."""

    streams: int
    """Open, or being reopened."""
    creating: int
    """Watches whose creation the server has still to confirm."""
    live: int
    """Watches to which events flow."""
    parked: int
    """Watches that hold all they may, and wait for their users."""
    resuming: int
    """Watches that wait for a stream."""
    endpoints: tuple[EndpointStatistics, ...]
    """That are known just now, and the one in use, though its member or record may be gone.
    Names whose SRV records are not known have none."""
    connections_made: int
    """Since the watcher was opened."""
    reconnects: int
    """How often a stream that had worked was lost."""
    last_loss: str | None
    """Why a stream was lost, refused or not opened, the last time; None if never."""
    bytes_received: int
    """Of watch responses, without their frames."""
    events_received: int
    """By all its watches so far."""
    events_delivered: int
    """Of these, taken by the users of the watches."""
    unread_events: int
    """Held for the users of open watches."""
    speedups: bool
    """Whether responses are decoded in C (`trio_etcd_watch.__speedups__`)."""
