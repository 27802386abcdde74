"""Defines the statistics that a watcher reports.

Sans-IO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, final

WatchState: TypeAlias = Literal["creating", "live", "parked", "resuming", "ended"]
"""Where a watch stands, as `WatchStatistics.state` has it."""


@final
@dataclass(frozen=True, slots=True)
class EndpointStatistics:
    """What `WatcherStatistics.endpoints` reports of one endpoint."""

    endpoint: str
    """Host and port, or the URL of a unix socket."""
    source: Literal["given", "srv", "member"]
    """Whether it was given to the channel (`given`), is the target of an SRV record
    (`srv`), or is the address of a member (`member`, with `follow_members`)."""
    in_use: bool
    """Whether a connection to it is open, and accepts new streams."""


@final
@dataclass(frozen=True, slots=True)
class WatcherStatistics:
    """What `Watcher.statistics()` reports."""

    streams: int
    """How many streams are open, or being reopened."""
    creating: int
    """Watches whose creation the server has not confirmed yet."""
    live: int
    """Watches that receive events."""
    parked: int
    """Watches whose buffer is full, and which wait for their users."""
    resuming: int
    """Watches that wait for a stream."""
    endpoints: tuple[EndpointStatistics, ...]
    """The endpoints that are known now, and the one in use, even if its member or
    record is gone. A name whose SRV records are not known has none."""
    connections_made: int
    """How many connections were made since the watcher was opened."""
    reconnects: int
    """How often a stream that had worked was lost."""
    last_loss: str | None
    """Why a stream was last lost, refused or not opened; None if never."""
    bytes_received: int
    """How many bytes of watch responses, without their frames."""
    events_received: int
    """How many events all its watches have received so far."""
    events_delivered: int
    """How many of these events the users of the watches have consumed."""
    unread_events: int
    """How many events are held for the users of open watches."""
    speedups: bool
    """Whether responses are decoded in C (`trio_etcd_watch.__speedups__`)."""
