"""One HTTP/2 connection on a trio stream, and the gRPC calls on it.

Bytes come in through `frames`, which keeps the DATA, and `http2`, which has the rest.
A connection is three tasks: one reads and hands on, one writes, one pings when the server
has been silent. Whatever ends one of them ends the connection and each call on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TypeAlias, final

import trio

from .frames import FrameReader
from .http2 import (
    CallEnded,
    ConnectionEnded,
    Event,
    Http2,
    ResponseStarted,
    WindowOpened,
)
from .messages import Inbound, Oversized
from .metadata import Metadata
from .status import CallEnd, Status, StatusCode, StreamLost

RECEIVE_SIZE = 98_304
"""Read at once, in bytes: a batch of some thousand events, handed on in about a
millisecond, so that a flood leaves other tasks their turns. Smaller batches wake more
often the many watches that one brings events for."""

MAX_RECEIVE_SIZE = 2**20
"""Read at once, in bytes, of a message that is as large and comes as fast: nothing is to
be handed on before it is whole, and each read is two turns of Trio's loop. Where less
comes, room for so much costs more than it brings; and a flood of anything else must not
hide behind a message that never ends."""

Deliver: TypeAlias = Callable[[list[bytes | Oversized]], None]
"""What takes the messages of a call. Quick: meanwhile nothing is read."""

SEND_AHEAD = 2**20
"""Bytes that may wait to be written before messages have to wait."""

MAX_UNSENT = 4 * 2**20
"""Bytes that may wait at all. Past `SEND_AHEAD` only answers (to PING, SETTINGS) are
added, so here the peer floods us and does not read."""


@final
class Call:
    """One gRPC call. Made by `Connection.open_call()`."""

    def __init__(
        self, connection: Connection, stream_id: int, deliver: Deliver
    ) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._deliver = deliver
        self._inbound = Inbound(connection.max_message_size)
        self._end: CallEnd | None = None
        self._ended = trio.Event()

    async def send(self, messages: Iterable[bytes], *, end: bool = False) -> None:
        """Send messages, as fast as the server's flow control lets them go.

        One task at a time. Cancelled in between, it leaves half a message sent: the
        call can then only be reset.

        Args:
            messages: serialized, without gRPC's prefix.
            end: whether these are the last.

        Raises:
            StreamLost: the call has ended.
        """
        await trio.lowlevel.checkpoint()
        data = b"".join(
            part
            for message in messages
            for part in (b"\0", len(message).to_bytes(4), message)
        )
        await self._connection._send(self, data, end=end)

    async def wait_end(self) -> CallEnd:
        """Return how the call has ended, once all its messages are handed on."""
        await self._ended.wait()
        assert self._end is not None, "set before the event"
        return self._end

    @property
    def bytes_received(self) -> int:
        """Of its DATA, those that came before its messages were whole included."""
        return self._inbound.received

    def reset(self, reason: str = "reset") -> None:
        """End the call at once (RST_STREAM): etcd keeps sending after a half-close."""
        self._connection._end_call(self, StreamLost(reason))


@final
class Connection:
    """One HTTP/2 connection as a client.

    `run()` serves it in a task of the opener; `lost` says whether it still lives.

    Args:
        stream: the transport; closed when `run()` ends.
        authority: `host:port`, as the server is addressed.
        scheme: "http" or "https".
        max_message_size: bound in bytes of one received message.
        keepalive_time: seconds of silence after which the server is pinged.
        keepalive_timeout: seconds that it then has to say anything.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        authority: str,
        scheme: str,
        max_message_size: int,
        keepalive_time: float,
        keepalive_timeout: float,
    ) -> None:
        self.max_message_size = max_message_size
        self.authority = authority
        self.keepalive_time = keepalive_time
        self.lost: StreamLost | None = None
        self._stream = stream
        self._scheme = scheme
        self._keepalive_timeout = keepalive_timeout
        self._http2 = Http2()
        self._frames = FrameReader()
        self._calls: dict[int, Call] = {}
        self._unsent = bytearray()
        self._flush = trio.Event()
        self._senders = trio.lowlevel.ParkingLot()
        self._ready = trio.Event()
        self._heard = trio.current_time()
        self._answered = trio.Event()
        self._scope = trio.CancelScope()
        self._retired = False

    async def run(self) -> None:
        """Serve the connection until it is lost, or closed by cancellation."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._http2.initiate_connection()
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._keep_alive)
        finally:
            self.close("closed")
            # Forcefully: a peer that does not read must not hold us.
            await trio.aclose_forcefully(self._stream)

    def close(self, reason: str) -> None:
        """End the connection, and with it every call on it."""
        self._lose(StreamLost(reason))

    def retire(self) -> None:
        """End the connection once its last call has ended."""
        self._retired = True
        self._close_if_retired()

    async def wait_ready(self) -> None:
        """Return once the server has proven to speak HTTP/2.

        Raises:
            StreamLost: it does not, or the connection broke.
        """
        await self._ready.wait()
        if self.lost:
            raise self.lost

    def open_call(self, path: str, metadata: Metadata, deliver: Deliver) -> Call:
        """Start a call of `/service/method`.

        Args:
            path: `/service/method`.
            metadata: as HTTP/2 can carry it.
            deliver: is given the messages that one read has brought, in the same step;
                never an empty list. A StreamLost that it raises ends the call.

        Raises:
            StreamLost: the connection is gone, or cannot carry another stream.
        """
        if self.lost:
            raise self.lost
        stream_id = self._http2.open(self._scheme, self.authority, path, metadata)
        self._frames.expect(stream_id)
        call = self._calls[stream_id] = Call(self, stream_id, deliver)
        self._flush.set()
        return call

    async def unary(
        self, path: str, request: bytes, metadata: Metadata
    ) -> bytes | Status:
        """Call a unary method; return its response, or the status if that is not OK.

        Cancellation resets the call.

        Raises:
            StreamLost: the call broke, or its response is over max_message_size.
        """
        messages: list[bytes | Oversized] = []
        call = self.open_call(path, metadata, messages.extend)
        try:
            # A server may refuse before it has read it all; wait_end() says how.
            with contextlib.suppress(StreamLost):
                await call.send([request], end=True)
            end = await call.wait_end()
        finally:
            call.reset()
        if isinstance(end, StreamLost):
            raise end
        if end.code is not StatusCode.OK:
            return end
        match messages:
            case [bytes() as response]:
                return response
        raise StreamLost(f"{path} gave no single response")

    # Tasks

    @trio.lowlevel.enable_ki_protection
    async def _read(self) -> None:
        size = RECEIVE_SIZE
        try:
            while not self.lost:
                data = bytes(await self._stream.receive_some(size))
                if not data:
                    raise StreamLost("the server closed the connection")
                self._heard = trio.current_time()
                self._answered.set()
                missing = self._frames.missing
                self._receive(data)
                if len(data) < size:
                    # No more is there yet. Those that were woken run in the next pass
                    # of Trio's loop, before or after this task: two passes, and the
                    # price of reading nothing is not on their way.
                    await trio.lowlevel.checkpoint()
                    await trio.lowlevel.checkpoint()
                    size = RECEIVE_SIZE
                else:
                    size = self._next_size(len(data), missing)
        except trio.BrokenResourceError as exc:
            self._lose(StreamLost(f"connection broken: {exc.__cause__ or exc}"))
        except StreamLost as exc:
            self._lose(exc)

    @trio.lowlevel.enable_ki_protection
    async def _write(self) -> None:
        try:
            while True:
                self._collect()
                if self._unsent:
                    data, self._unsent = self._unsent, bytearray()
                    await self._stream.send_all(data)
                    self._senders.unpark_all()
                else:
                    self._flush = trio.Event()
                    await self._flush.wait()
        except trio.BrokenResourceError as exc:
            self._lose(StreamLost(f"connection broken: {exc.__cause__ or exc}"))

    @trio.lowlevel.enable_ki_protection
    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep_until(self._heard + self.keepalive_time)
            if trio.current_time() < self._heard + self.keepalive_time:
                continue
            if not self._calls:
                # etcd punishes pings on a connection without a stream.
                await trio.sleep(self.keepalive_time)
                continue
            self._answered = trio.Event()
            self._http2.ping()
            self._flush.set()
            for _ in range(4):
                # In parts: while the application blocks the loop, nothing is read.
                with trio.move_on_after(self._keepalive_timeout / 4):
                    await self._answered.wait()
                if self._answered.is_set():
                    break
            else:
                self.close(f"no answer to a ping within {self._keepalive_timeout:g} s")

    # Steps

    def _receive(self, data: bytes) -> None:
        for frame in self._frames.receive(data):
            for event in self._http2.receive(frame):
                self._handle(event)
        self._unsent += self._frames.window_updates()
        if self._frames.started:
            self._ready.set()
        for call in list(self._calls.values()):
            self._hand_on(call)
        self._collect()
        if self._unsent:
            self._flush.set()
        if len(self._unsent) > MAX_UNSENT:
            raise StreamLost("the server sends, but does not read")

    def _next_size(self, size: int, missing: int) -> int:
        """Return how much to read next, after a full read of so many bytes.

        Args:
            size: of that read.
            missing: how many bytes a message lacked before it.
        """
        missing_now = self._frames.missing
        if missing - missing_now <= size // 2:
            return RECEIVE_SIZE
        return min(max(RECEIVE_SIZE, missing_now), MAX_RECEIVE_SIZE)

    def _handle(self, event: Event) -> None:
        match event:
            case ResponseStarted(stream_id):
                if call := self._calls.get(stream_id):
                    self._frames.open(stream_id, call._inbound)
            case CallEnded(stream_id, end):
                if call := self._calls.get(stream_id):
                    self._hand_on(call)
                    self._end_call(call, end)
            case ConnectionEnded(reason):
                raise reason
            case WindowOpened():
                self._senders.unpark_all()

    def _hand_on(self, call: Call) -> None:
        if messages := call._inbound.messages:
            call._inbound.messages = []
            try:
                call._deliver(messages)
            except StreamLost as exc:
                self._end_call(call, exc)

    async def _send(self, call: Call, data: bytes, *, end: bool) -> None:
        stream_id = call._stream_id
        sent = 0
        while sent < len(data) or end:
            if isinstance(call._end, StreamLost):
                raise call._end
            if call._end:
                raise StreamLost("the server has ended the call")
            window = self._http2.flow_control_window(stream_id)
            if window <= 0 or len(self._unsent) >= SEND_AHEAD:
                await self._senders.park()
                continue
            part = data[sent : sent + window]
            sent += len(part)
            last = sent == len(data)
            self._http2.send_data(stream_id, part, end_stream=end and last)
            self._collect()
            self._flush.set()
            if last:
                return

    def _end_call(self, call: Call, end: CallEnd) -> None:
        """End a call here and on the server, unless it has ended."""
        if self._calls.get(call._stream_id) is call:
            self._forget(call, end)
            self._http2.reset(call._stream_id)
            self._flush.set()

    def _forget(self, call: Call, end: CallEnd) -> None:
        del self._calls[call._stream_id]
        self._frames.close(call._stream_id)
        call._end = end
        call._ended.set()
        # A sender of this call may wait for its window.
        self._senders.unpark_all()
        self._close_if_retired()

    def _close_if_retired(self) -> None:
        if self._retired and not self._calls:
            self.close("retired")

    def _collect(self) -> None:
        self._unsent += self._http2.data_to_send()

    def _lose(self, reason: StreamLost) -> None:
        if self.lost:
            return
        self.lost = reason
        for call in list(self._calls.values()):
            # What came whole before the break.
            self._hand_on(call)
            if call._end is None:
                self._forget(call, reason)
        self._ready.set()
        self._scope.cancel(reason=str(reason))
