"""Both ends of one HTTP/2 connection.

The clock is a `MockClock`: a test that would hang jumps to the end of `LIMIT` and
fails.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h2
import pytest
import trio
from trio.testing import memory_stream_pair

from tests.support.peer import Peer
from trio_etcd_watch._grpc.connection import Connection
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._grpc.metadata import Metadata
from trio_etcd_watch._grpc.status import Status, StreamLost

LIMIT = 1000.0
H2_4 = not h2.__version__.startswith("3.")
"""Whether this is h2 4 or newer, which differs from 3.2."""
PATH = "/etcdserverpb.Watch/Watch"
INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS = 4, 3


def connection_on(
    stream: trio.abc.Stream,
    *,
    max_message_size: int = 100_000,
    keepalive_time: float = 10.0,
    keepalive_timeout: float = 5.0,
) -> Connection:
    return Connection(
        stream,
        authority="etcd:2379",
        scheme="http",
        max_message_size=max_message_size,
        keepalive_time=keepalive_time,
        keepalive_timeout=keepalive_timeout,
    )


class Caller:
    """A call, and what it has received."""

    def __init__(self, connection: Connection, metadata: Metadata = ()) -> None:
        self.call = connection.open_call(PATH, metadata, self._deliver)
        self.send, self.reset = self.call.send, self.call.reset
        self._received: list[bytes | Oversized] = []
        self._arrived = trio.Event()

    def _deliver(self, messages: list[bytes | Oversized]) -> None:
        assert messages
        assert self.call._end is None
        self._received += messages
        self._arrived.set()

    @property
    def status(self) -> Status | None:
        """The status with which the server has ended the call."""
        return self.call._end if isinstance(self.call._end, Status) else None

    async def receive(self) -> list[bytes | Oversized]:
        """Return what has come since the last time, or the next; empty at the end."""
        if not self._received:
            async with trio.open_nursery() as nursery:

                async def first(event: trio.Event) -> None:
                    await event.wait()
                    nursery.cancel_scope.cancel(reason="the other may not come")

                nursery.start_soon(first, self._arrived)
                nursery.start_soon(first, self.call._ended)
        if not self._received:
            end = await self.call.wait_end()
            if isinstance(end, StreamLost):
                raise end
        received, self._received, self._arrived = self._received, [], trio.Event()
        return received


@dataclass
class Ends:
    """Both ends of a connection; `ended` is set when its `run()` has returned."""

    connection: Connection
    peer: Peer
    client: Any
    server: Any
    ended: trio.Event = field(default_factory=trio.Event)

    def call(self) -> Caller:
        return Caller(self.connection)

    async def accepted(self) -> tuple[Caller, int]:
        """Return a call whose response has begun."""
        call = self.call()
        return call, await self.peer.accept_call()


@asynccontextmanager
async def connected(
    settings: dict[int, int] | None = None,
    **options: Any,  # noqa: ANN401  # arguments of `connection_on()`
) -> AsyncGenerator[Ends]:
    client, server = memory_stream_pair()
    ends = Ends(
        connection_on(client, **options), Peer(server, settings), client, server
    )

    async def serve() -> None:
        await ends.connection.run()
        ends.ended.set()

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            nursery.start_soon(ends.peer.run)
            await ends.connection.wait_ready()
            yield ends
            nursery.cancel_scope.cancel(reason="the test is over")


async def lost(awaitable: Awaitable[object]) -> str:
    """Return the reason of the StreamLost that this must raise."""
    with pytest.raises(StreamLost) as info:
        await awaitable
    return str(info.value)


async def waits_for(call: Caller, reason: str) -> None:
    assert await lost(call.receive()) == reason


async def drain(call: Caller) -> list[bytes | Oversized]:
    """Return all messages up to the end of a call."""
    messages: list[bytes | Oversized] = []
    while batch := await call.receive():
        messages += batch
    return messages
