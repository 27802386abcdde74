"""A cluster in memory, so that hours of it take seconds with `MockClock`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import h2.exceptions
import pytest
import trio
from trio.testing import memory_stream_pair

from tests.support.peer import GRPC, Peer, watch_response
from trio_etcd_watch import _dialer

ENDPOINT = "127.0.0.1:2379"
"""A numeric address, which is resolved without a thread."""

LIMIT = 20_000.0
"""Virtual seconds after which a test counts as stuck."""

Serve: TypeAlias = Callable[[Peer, int], Awaitable[None]]
"""Serves one stream."""


class Cluster:
    """One endpoint, whose connections and streams are served as the test says.

    Attributes:
        serve: handles each new stream.
        connect: if set, handles each new connection instead of HTTP/2; may raise
            OSError.
        settings: the HTTP/2 settings to send.
        gives_window: whether received data is acknowledged.
        connections, streams: how many there were.
    """

    def __init__(self, nursery: trio.Nursery, serve: Serve) -> None:
        self.serve = serve
        self.connect: Callable[[trio.abc.Stream], Awaitable[None]] | None = None
        self.settings: dict[int, int] = {}
        self.gives_window = True
        self.connections = self.streams = 0
        self._nursery = nursery
        self._links: set[trio.abc.Stream] = set()

    async def open_stream(self, *_: object) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.connections += 1
        client, server = memory_stream_pair()
        if self.connect is not None:
            await self.connect(server)
        else:
            self._nursery.start_soon(self._run, server)
        return client

    async def cut(self) -> None:
        """End every connection."""
        for link in list(self._links):
            await link.aclose()

    async def _run(self, link: trio.abc.Stream) -> None:
        peer = Peer(link, self.settings)
        peer.gives_window = self.gives_window
        self._links.add(link)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._accept, peer, nursery)
                await peer.run()
                nursery.cancel_scope.cancel(reason="the client closed")
        except* (
            trio.BrokenResourceError,
            trio.ClosedResourceError,
            h2.exceptions.ProtocolError,
        ):
            # The client closed, or the link was cut.
            pass
        finally:
            self._links.discard(link)

    async def _accept(self, peer: Peer, nursery: trio.Nursery) -> None:
        while True:
            stream_id = await peer.accept()
            self.streams += 1
            # Events and data of earlier streams are no longer needed.
            peer.events.clear()
            peer.received = {stream_id: peer.received[stream_id]}
            nursery.start_soon(self.serve, peer, stream_id)


@asynccontextmanager
async def cluster_in_memory(
    monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> AsyncGenerator[Cluster]:
    """Serve every connection that is opened; ends with the block."""
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            cluster = Cluster(nursery, serve)
            monkeypatch.setattr(_dialer, "_open_stream", cluster.open_stream)
            yield cluster
            nursery.cancel_scope.cancel(reason="the test is over")


async def create(peer: Peer, stream_id: int) -> None:
    """Confirm the first watch of a stream."""
    await peer.message(stream_id)
    await peer.headers(stream_id, GRPC)
    await peer.messages(stream_id, watch_response(revision=4, created=True))
