"""Reads ranges on one real connection, without retries."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from tests.support.helpers import split
from trio_etcd_watch import KeyValue
from trio_etcd_watch._grpc.connection import Connection
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._grpc.metadata import Metadata
from trio_etcd_watch._grpc.status import StatusCode, StreamLost
from trio_etcd_watch._mapping import Snapshot
from trio_etcd_watch._snapshot import (
    FIRST_PAGE,
    MAX_KEYS,
    RANGE,
    PagedRead,
    Range,
    Reply,
    T,
    put_key_values,
    put_rows,
    read_pages,
    snapshot_of,
)


class Reader:
    """Reads from one server; a lost connection is an error."""

    def __init__(self, connection: Connection, metadata: Metadata = ()) -> None:
        self._connection = connection
        self._metadata = metadata
        self.replies: list[Reply] = []

    async def call(self, request: bytes) -> Reply:
        messages: list[bytes | Oversized] = []
        call = self._connection.open_call(RANGE, self._metadata, messages.extend)
        try:
            with contextlib.suppress(StreamLost):
                await call.send([request], end=True)
            end = await call.wait_end()
        finally:
            call.reset()
        if isinstance(end, StreamLost):
            raise end
        reply: Reply = end
        if end.code is StatusCode.OK:
            (reply,) = messages
        self.replies.append(reply)
        return reply

    async def ask(
        self,
        request: bytes,
        accept: Callable[[Reply], T],
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        if meanwhile is not None:
            meanwhile()
        return accept(await self.call(request))

    async def read(self, read: PagedRead[T]) -> PagedRead[T]:
        await read_pages(self.ask, read)
        return read

    async def snapshot(
        self, keys: Range, *, revision: int = 0, first_page: int = FIRST_PAGE
    ) -> Snapshot:
        read: PagedRead[KeyValue] = PagedRead(
            keys, put_key_values, revision=revision, first_page=first_page
        )
        return snapshot_of(await self.read(read))

    async def rows(
        self, keys: Range, revision: int, since: int
    ) -> tuple[dict[bytes, tuple[int, int]], int]:
        """Return what a proof compares: keys put after `since`, and the total count."""
        read = await self.read(
            PagedRead(
                keys,
                put_rows,
                revision=revision,
                keys_only=True,
                above=since,
                first_page=MAX_KEYS,
            )
        )
        return read.data, read.count


@asynccontextmanager
async def open_reader(
    endpoint: str, *, max_message_size: int = 2**27, metadata: Metadata = ()
) -> AsyncGenerator[Reader]:
    stream = await trio.open_tcp_stream(*split(endpoint))
    connection = Connection(
        stream,
        authority=endpoint,
        scheme="http",
        max_message_size=max_message_size,
        keepalive_time=60.0,
        keepalive_timeout=60.0,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        await connection.wait_ready()
        yield Reader(connection, metadata)
        nursery.cancel_scope.cancel()
