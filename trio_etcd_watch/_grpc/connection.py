"""Serves one HTTP/2 connection on a Trio stream, and the gRPC calls on it.

`frames` parses the DATA of responses, and `http2` parses all other frames. A connection
runs three tasks: one reads and delivers messages, one writes, and one is `Keepalive`. The
end of any of them ends the connection and each call on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import final

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
from .keepalive import Keepalive
from .messages import Inbound, Oversized
from .metadata import Metadata
from .reading import MAX_GATHER_TIME, MOMENT, Reading
from .status import CallEnd, Status, StatusCode, StreamLost
from .steps import Deliver, Steps

SEND_AHEAD = 2**20
"""How many bytes may wait to be written before senders of messages have to wait."""

MAX_UNSENT = 4 * 2**20
"""How many bytes may wait to be written at all. Past `SEND_AHEAD` only answers to PING and
SETTINGS are added, so a peer that reaches this bound floods us and does not read."""


@final
class Call:
    """One gRPC call, made by `Connection.open_call()`."""

    def __init__(
        self, connection: Connection, stream_id: int, deliver: Deliver
    ) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._inbound = Inbound(connection.max_message_size)
        self._steps = Steps(self._inbound, deliver)
        self._end: CallEnd | None = None
        self._ended = trio.Event()

    async def send(self, messages: Iterable[bytes], *, end: bool = False) -> None:
        """Send messages, as fast as the server's flow control allows.

        Only one task may send at a time. Cancellation can leave a message half sent:
        the call can then only be reset.

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
        """Return how the call has ended, once all its messages are delivered."""
        await self._ended.wait()
        assert self._end is not None, "set before the event"
        return self._end

    @property
    def bytes_received(self) -> int:
        """How many bytes of DATA have arrived, also of unfinished messages."""
        return self._inbound.received

    def reset(self, reason: str = "reset") -> None:
        """End the call with RST_STREAM, as etcd keeps sending after a half-close."""
        self._connection._end_call(self, StreamLost(reason))


@final
class Connection:
    """One HTTP/2 connection as a client.

    `run()` serves it in a task of its opener; `lost` is None until it has ended.

    Args:
        stream: the transport; closed when `run()` ends.
        authority: `host:port`, as the server is addressed.
        scheme: "http" or "https".
        max_message_size: bound in bytes of one received message.
        keepalive_time: seconds of silence after which the server is pinged.
        keepalive_timeout: seconds that the server then has to send anything.
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
        self._keepalive = Keepalive(keepalive_time, keepalive_timeout)
        self._http2 = Http2()
        self._frames = FrameReader()
        self._calls: dict[int, Call] = {}
        self._reading = Reading()
        self._unsent = bytearray()
        self._flush = trio.Event()
        self._senders = trio.lowlevel.ParkingLot()
        self._ready = trio.Event()
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
                    nursery.start_soon(self._keepalive.run, self)
        finally:
            self.close("closed")
            # A graceful close could wait for a peer that does not read.
            await trio.aclose_forcefully(self._stream)

    @property
    def in_use(self) -> bool:
        """Whether it has a call."""
        return bool(self._calls)

    def ping(self) -> None:
        """Send a PING, for `Keepalive`."""
        self._http2.ping()
        self._flush.set()

    def close(self, reason: str) -> None:
        """End the connection, and with it every call on it."""
        self._lose(StreamLost(reason))

    def retire(self) -> None:
        """End the connection once its last call has ended."""
        self._retired = True
        self._close_if_retired()

    async def wait_ready(self) -> None:
        """Return once the server has begun to speak HTTP/2.

        Raises:
            StreamLost: it speaks something else, or the connection broke.
        """
        await self._ready.wait()
        if self.lost:
            raise self.lost

    def open_call(self, path: str, metadata: Metadata, deliver: Deliver) -> Call:
        """Start a call of `/service/method`.

        Args:
            path: `/service/method`.
            metadata: pairs that `check_metadata()` accepts.
            deliver: called with the messages that one read has completed, before
                anything else runs, and never with none. A StreamLost that it raises
                ends the call. What it returns is abandoned once the call has ended.

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
            # A server may refuse before it has read the whole request; then wait_end()
            # returns why.
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
        try:
            while not self.lost:
                emptied = await self._read_some()
                await self._gather()
                await self._deliver()
                if emptied:
                    # Nothing more has arrived yet. The tasks that were woken run in the
                    # next pass of Trio's loop, before or after this task. After two
                    # passes, a read that has to wait no longer delays them.
                    await trio.lowlevel.checkpoint()
                    await trio.lowlevel.checkpoint()
        except trio.BrokenResourceError as exc:
            self._lose(StreamLost(f"connection broken: {exc.__cause__ or exc}"))
        except StreamLost as exc:
            self._lose(exc)

    async def _read_some(self) -> bool:
        """Read and parse some data; return whether that was all that had arrived."""
        asked = self._reading.size
        data = bytes(await self._stream.receive_some(asked))
        if not data:
            raise StreamLost("the server closed the connection")
        self._keepalive.hear()
        missing = self._frames.missing
        self._receive(data)
        self._reading.note_read(len(data), missing, self._frames.missing)
        return len(data) < asked

    async def _gather(self) -> None:
        """Read on while each of many consumers would be woken for few messages."""
        end = trio.current_time() + MAX_GATHER_TIME
        while self._reading.gathers(self._waiting()):
            # It is cancelled only while it waits, so no data is lost.
            with trio.CancelScope(
                deadline=min(end, trio.current_time() + MOMENT)
            ) as scope:
                await self._read_some()
            if scope.cancelled_caught:
                return

    async def _deliver(self) -> None:
        began, waiting, steps = trio.current_time(), self._waiting(), 0
        for call in list(self._calls.values()):
            while self._hand_on(call):
                steps += 1
                # Nothing is read meanwhile, so that the server is not silent.
                self._keepalive.hear()
                await trio.lowlevel.checkpoint()
        self._reading.note_delivery(steps, waiting, trio.current_time() - began)

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

    # Steps

    def _receive(self, data: bytes) -> None:
        for frame in self._frames.receive(data):
            for event in self._http2.receive(frame):
                self._handle(event)
        self._unsent += self._frames.window_updates()
        if self._frames.started:
            self._ready.set()
        self._collect()
        if self._unsent:
            self._flush.set()
        if len(self._unsent) > MAX_UNSENT:
            raise StreamLost("the server sends, but does not read")

    def _waiting(self) -> int:
        return sum(len(call._inbound.messages) for call in self._calls.values())

    def _handle(self, event: Event) -> None:
        match event:
            case ResponseStarted(stream_id):
                if call := self._calls.get(stream_id):
                    self._frames.open(stream_id, call._inbound)
            case CallEnded(stream_id, end):
                if call := self._calls.get(stream_id):
                    self._hand_on_all(call)
                    self._end_call(call, end)
            case ConnectionEnded(reason):
                raise reason
            case WindowOpened():
                self._senders.unpark_all()

    def _hand_on(self, call: Call) -> bool:
        """Deliver some messages of a call; return whether there may be more.

        Other tasks may run before the rest, and lose the connection or end the call.
        """
        if call._ended.is_set():
            return False
        try:
            return call._steps.take()
        except StreamLost as exc:
            self._end_call(call, exc)
            return False

    def _hand_on_all(self, call: Call) -> None:
        while self._hand_on(call):
            pass

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
        # A sender of this call may be waiting for flow control.
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
            # Messages that were complete before the loss are still delivered.
            self._hand_on_all(call)
            if call._end is None:
                self._forget(call, reason)
        self._ready.set()
        self._scope.cancel(reason=str(reason))
