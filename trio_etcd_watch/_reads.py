"""Makes unary reads, with retries on other endpoints and with new tokens."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TypeAlias, TypeVar, final

import trio

from ._backoff import delays
from ._connector import Connector
from ._errors import AuthenticationError
from ._grpc.connection import Call as GrpcCall
from ._grpc.connection import Connection
from ._grpc.messages import Oversized
from ._grpc.metadata import Metadata
from ._grpc.status import Status, StatusCode, StreamLost
from ._mapping import Snapshot
from ._outage import LineBudget, Outage
from ._parsing import parse
from ._pb import watch_pb2 as pb
from ._responses import SPEEDUPS, KeyValue
from ._snapshot import (
    MAX_KEYS,
    RANGE,
    PagedRead,
    Range,
    Reply,
    denial,
    is_too_large,
    put_key_values,
    read_pages,
    snapshot_of,
)
from ._verdicts import MAX_REFUSED_TOKENS, Call, Verdict, verdict_on

T = TypeVar("T")

Try: TypeAlias = Callable[[Connection, Metadata], Awaitable[T]]
"""One try on a connection, with the metadata to send; on StreamLost another follows."""

STATUS = "/etcdserverpb.Maintenance/Status"

WHOLE_SIZE = (32 if SPEEDUPS else 4) * 2**20
"""A range is asked for in one page if the whole database, history included, has at most
this size in bytes. A first page of a few keys would cost as much as a count of all keys:
without it, 100,000 keys of 100 bytes took 0.85 to 1 of the time. To ask for the size
costs a round trip."""

SILENCE = 2.5
"""Seconds without data that count as a silence; a read is lost after `MAX_SILENCES` in
a row. A single long wait could end early: while the application blocks the loop,
nothing is read."""

MAX_SILENCES = 4


@final
class Reads:
    """Makes reads for one user; its `ask()` is an `Ask` of `_snapshot`.

    Args:
        connector: opens connections.
        metadata: the user's metadata.
        lines: the watcher's budget of lines in the log.
        check_open: raises `trio.ClosedResourceError` once the watcher is closed.
    """

    def __init__(
        self,
        connector: Connector,
        metadata: Metadata,
        lines: LineBudget,
        check_open: Callable[[], None],
    ) -> None:
        self._connector = connector
        self._metadata = metadata
        self._check_open = check_open
        self._outage = Outage(lines, "answer to a read")
        self._refused_tokens = 0

    async def ask(
        self,
        request: bytes,
        accept: Callable[[Reply], T],
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        """Return what `accept` makes of the reply; if it raises StreamLost, try again.

        `meanwhile` is called in each try, once the request is on its way.

        A checkpoint. Cancellation leaves nothing behind.

        Raises:
            trio.ClosedResourceError: the watcher was closed.
            AuthenticationError: the credentials, or several tokens in a row, are
                refused.
            PermissionDeniedError: there are no credentials, and the server requires
                some.
        """
        return await self._retry(
            partial(self._ask, request=request, accept=accept, meanwhile=meanwhile)
        )

    async def snapshot(self, keys: Range, revision: int = 0) -> Snapshot:
        """Read a range at one revision; 0 is the newest.

        A checkpoint. Cancellation leaves nothing behind.

        Raises:
            trio.ClosedResourceError: the watcher was closed.
            WatchError: the server refuses the read.
        """
        read = PagedRead(keys, put_key_values, revision=revision)
        if keys.range_end:
            await self._retry(partial(self._read_whole, read))
        await read_pages(self.ask, read)
        return snapshot_of(read)

    async def _retry(self, attempt: Try[T]) -> T:
        waits = delays(random.random)
        while True:
            try:
                await self._checkpoint()
                connection, metadata = await self._connector.connect()
                return await attempt(connection, metadata)
            except StreamLost as loss:
                # Closing the watcher may have caused the loss, and is not an outage.
                await self._checkpoint()
                wait = next(waits)
                self._outage.failed(trio.current_time(), str(loss), wait)
                await trio.sleep(wait)

    async def _checkpoint(self) -> None:
        """Check that the watcher is open; a cancelled caller gets Cancelled instead."""
        await trio.lowlevel.checkpoint()
        self._check_open()

    async def _ask(
        self,
        connection: Connection,
        metadata: Metadata,
        request: bytes,
        accept: Callable[[Reply], T],
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        with self._abandoning(connection):
            own = (*metadata, *self._metadata)
            reply = await _call(connection, request, own, meanwhile)
        if isinstance(reply, Status) and not is_too_large(reply):
            self._judge(connection, metadata, reply)
        with self._abandoning(connection):
            result = accept(reply)
        self._refused_tokens = 0
        self._outage.ended(trio.current_time())
        return result

    async def _read_whole(
        self, read: PagedRead[KeyValue], connection: Connection, metadata: Metadata
    ) -> None:
        """Read the range in one page, if this member's database is small.

        There is one try, on the connection on which the size was told: another member
        may have more keys, and a page that was lost once may be so again. Whatever
        comes instead of the page, the range is then read in pages that begin small.
        """

        def accept(reply: Reply) -> None:
            if isinstance(reply, bytes):
                read.receive(reply)

        if await self._is_small(connection, metadata):
            request = read.request(MAX_KEYS)
            with contextlib.suppress(StreamLost):
                await self._ask(connection, metadata, request, accept)

    async def _is_small(self, connection: Connection, metadata: Metadata) -> bool:
        reply: bytes | Status | None = None
        # If this single wait ends early, the range is read in pages, which is no loss.
        with trio.move_on_after(SILENCE), contextlib.suppress(StreamLost):
            own = (*metadata, *self._metadata)
            reply = await connection.unary(STATUS, b"", own)
        if not isinstance(reply, bytes):
            return False
        try:
            size = parse(pb.StatusResponse, reply).dbSizeInUse
        except ValueError:
            return False
        # 0 is what servers before 3.4 say, which do not know.
        return 0 < size <= min(WHOLE_SIZE, connection.max_message_size)

    @contextlib.contextmanager
    def _abandoning(self, connection: Connection) -> Iterator[None]:
        """On a loss, abandon the connection, so that the next try uses another."""
        try:
            yield
        except StreamLost:
            self._connector.leave(connection)
            raise

    def _judge(self, connection: Connection, metadata: Metadata, reply: Status) -> None:
        """Raise StreamLost if another try may succeed."""
        match verdict_on(Call.READ, reply):
            case Verdict.FINAL:
                return
            case Verdict.NEW_TOKEN if self._connector.can_authenticate:
                # Concurrent reads that were refused with one token count as one.
                if self._connector.forget_token(dict(metadata).get("token")):
                    self._refused_tokens += 1
                if self._refused_tokens > MAX_REFUSED_TOKENS:
                    raise AuthenticationError(reply.code, reply.message)
            case Verdict.NEW_TOKEN:
                # A watch is refused in the same way if the client has no user.
                raise denial(reply)
            case _:
                # This includes transient failures: a read needs a quorum, which another
                # member may have.
                self._connector.leave(connection)
        raise StreamLost(f"the server answered a read with {reply}")


async def _call(
    connection: Connection,
    request: bytes,
    metadata: Metadata,
    meanwhile: Callable[[], None] | None,
) -> Reply:
    messages: list[bytes | Oversized] = []
    call = connection.open_call(RANGE, metadata, messages.extend)
    try:
        with trio.move_on_after(SILENCE * MAX_SILENCES):
            # A server may refuse before it has read the whole request; the end of the
            # call says why.
            with contextlib.suppress(StreamLost):
                await call.send([request], end=True)
        if meanwhile is not None:
            # The request is written in the next pass of Trio's loop, before or after
            # this task runs.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            meanwhile()
        end = await _end_of(call)
    finally:
        call.reset()
    if isinstance(end, Status) and end.code is not StatusCode.OK:
        return end
    if isinstance(end, StreamLost):
        raise end
    match messages:
        case [reply]:
            return reply
    raise StreamLost(f"{RANGE} gave {len(messages)} responses")


async def _end_of(call: GrpcCall) -> Status | StreamLost:
    """Wait for the end of a call for as long as data arrives."""
    silences, received = 0, 0
    while silences < MAX_SILENCES:
        with trio.move_on_after(SILENCE):
            return await call.wait_end()
        silences = 0 if call.bytes_received > received else silences + 1
        received = call.bytes_received
    return StreamLost(f"no answer to a read for {SILENCE * MAX_SILENCES:g} s")
