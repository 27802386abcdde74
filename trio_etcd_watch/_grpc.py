"""One HTTP/2 connection on a trio stream, and the gRPC calls on it.

Drives `purerpc.grpclib`, which knows no I/O; this is the only file that knows
purerpc. What it drops or dies of (a reset, GOAWAY, an answer that is not gRPC) becomes
the end of that call, or of the connection, as a `StreamLost` with its reason.
DATA frames never get there: see `_frames`.

A connection is three tasks: one reads, one writes, one pings when the server has been
silent. Whatever ends one of them ends the connection and each call on it.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, TypeAlias, final
from urllib.parse import unquote

import h2.errors
import h2.exceptions
import h2.settings
import hpack
import hyperframe.exceptions
import purerpc.client
import trio
from purerpc.grpclib.config import GRPCConfiguration
from purerpc.grpclib.connection import GRPCConnection
from purerpc.grpclib.events import WindowUpdated

from ._errors import Status, StatusCode, StreamLost, error_of_status
from ._frames import (
    CONNECTION_WINDOW,
    MAX_FRAME_SIZE,
    STREAM_WINDOW,
    FrameReader,
    Inbound,
    Oversized,
)

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
"""Pairs of names and values; a value is bytes where the name ends in `-bin`."""

RECEIVE_SIZE = 65_536
"""Read at once, in bytes: a batch of some hundred events, parsed within about a
millisecond, so that a flood leaves other tasks their turns."""

MAX_HEADER_LIST_SIZE = 65_536
"""Of a response, in bytes."""

SEND_AHEAD = 2**20
"""Bytes that may wait to be written before messages have to wait."""

MAX_UNSENT = 4 * 2**20
"""Bytes that may wait at all. Past `SEND_AHEAD` only answers (to PING, SETTINGS) are
added, so here the peer floods us and does not read."""

USER_AGENT = "trio-etcd-watch"

_DEFAULT_WINDOW = 65_535
_METADATA_NAME = re.compile(r"[0-9a-z_.-]+")
_METADATA_VALUE = re.compile(r"[\x20-\x7e]*")

# What h2 and its parts raise over bytes that break the protocol. Beyond their own
# classes hpack 3 lets UnicodeDecodeError, IndexError and ValueError through, and
# hyperframe 5 struct's errors as ValueError or InvalidFrameError.
_PEER_ERRORS = (
    h2.exceptions.H2Error,
    hpack.HPACKError,
    hyperframe.exceptions.InvalidFrameError,
    hyperframe.exceptions.InvalidPaddingError,
    hyperframe.exceptions.UnknownFrameError,
    ValueError,
    IndexError,
    KeyError,
)


# At DEBUG hpack logs every header, and so every auth token.
if logging.getLogger("hpack").level == logging.NOTSET:
    logging.getLogger("hpack").setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class _ResponseStarted:
    stream_id: int


@dataclass(frozen=True, slots=True)
class _CallEnded:
    stream_id: int
    end: Status | StreamLost


@dataclass(frozen=True, slots=True)
class _ConnectionEnded:
    reason: StreamLost


class _Http2(GRPCConnection):  # type: ignore[misc]  # purerpc has no types
    """purerpc's connection, with no event dropped and none fatal to its neighbours."""

    def __init__(self) -> None:
        super().__init__(GRPCConfiguration(client_side=True, user_agent=USER_AGENT))

    def _set_h2_connection_local_settings(self) -> None:
        codes = h2.settings.SettingCodes
        self.h2_connection.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                codes.ENABLE_PUSH: 0,
                codes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                codes.MAX_FRAME_SIZE: MAX_FRAME_SIZE,
                codes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_SIZE,
            },
        )
        self.h2_connection.max_inbound_frame_size = MAX_FRAME_SIZE
        self.h2_connection.decoder.max_header_list_size = MAX_HEADER_LIST_SIZE

    def initiate_connection(self) -> None:
        self.h2_connection.initiate_connection()
        self.h2_connection.increment_flow_control_window(
            CONNECTION_WINDOW - _DEFAULT_WINDOW
        )

    def _response_received(self, event: Any) -> list[object]:
        headers = dict(event.headers)
        status, kind = headers.get(":status"), headers.get("content-type", "")
        end: Status | StreamLost
        if status != "200":
            end = StreamLost(f"not gRPC: the server answers HTTP status {status}")
        elif not kind.startswith("application/grpc"):
            end = StreamLost(f"not gRPC: the server answers content-type {kind!r}")
        elif event.stream_ended:
            end = _status_of(headers)
        else:
            return [_ResponseStarted(event.stream_id)]
        return [_CallEnded(event.stream_id, end)]

    def _trailers_received(self, event: Any) -> list[object]:
        return [_CallEnded(event.stream_id, _status_of(dict(event.headers)))]

    def _data_received(self, event: Any) -> list[object]:
        # DATA of a stream whose response has begun does not come here.
        if not event.flow_controlled_length:
            return []
        # h2 has taken it off the connection's window, which others share.
        self.acknowledge_received_data(event.stream_id, event.flow_controlled_length)
        reason = StreamLost("not gRPC: DATA outside of a response")
        return [_CallEnded(event.stream_id, reason)]

    def _stream_ended(self, event: Any) -> list[object]:
        # After a status this is no news, and `Connection` knows the call no more.
        reason = StreamLost("the server ended the stream without a status")
        return [_CallEnded(event.stream_id, reason)]

    def _stream_reset(self, event: Any) -> list[object]:
        reason = StreamLost(f"the server reset the stream ({_code(event.error_code)})")
        return [_CallEnded(event.stream_id, reason)]

    def _connection_terminated(self, event: Any) -> list[object]:
        # Also after a graceful one: h2 closes, and fails on what is still open.
        text = bytes(event.additional_data or b"").decode("ascii", "backslashreplace")
        return [
            _ConnectionEnded(
                StreamLost(f"the server said GOAWAY ({_code(event.error_code)}) {text}")
            )
        ]


def _status_of(headers: dict[str, str]) -> Status | StreamLost:
    code = headers.get("grpc-status", "")
    if not (code.isascii() and code.isdigit()):
        return StreamLost("the server ended the stream without a status")
    return Status(StatusCode(int(code)), unquote(headers.get("grpc-message", "")))


def _code(code: object) -> str:
    return code.name if isinstance(code, h2.errors.ErrorCodes) else str(code)


@final
class Call:
    """One gRPC call. Made by `Connection.open_call()`.

    Attributes:
        status: how the server ended it; None before.
    """

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.status: Status | None = None
        self._connection = connection
        self._stream_id = stream_id
        self._inbound = Inbound(connection.max_message_size)
        self._lost: StreamLost | None = None
        self._arrived = trio.Event()

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

    async def receive(self) -> list[bytes | Oversized]:
        """Return all messages that have come; an empty list once it has ended.

        Cancellation loses nothing.

        Raises:
            StreamLost: the call broke. What came before it has been returned.
        """
        await trio.lowlevel.checkpoint()
        while not self._inbound.messages:
            if self._lost:
                raise self._lost
            if self.status:
                return []
            self._arrived = trio.Event()
            await self._arrived.wait()
        messages, self._inbound.messages = self._inbound.messages, []
        return messages

    def reset(self) -> None:
        """End the call at once (RST_STREAM): etcd keeps sending after a half-close."""
        self._connection._reset(self)

    def _end(self, end: Status | StreamLost) -> None:
        if isinstance(end, Status):
            self.status = end
        else:
            self._lost = end
        self._arrived.set()


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
        self.lost: StreamLost | None = None
        self._stream = stream
        self._authority = authority
        self._scheme = scheme
        self._keepalive_time = keepalive_time
        self._keepalive_timeout = keepalive_timeout
        self._http2 = _Http2()
        self._frames = FrameReader()
        self._calls: dict[int, Call] = {}
        self._unsent = bytearray()
        self._flush = trio.Event()
        self._senders = trio.lowlevel.ParkingLot()
        self._ready = trio.Event()
        self._heard = trio.current_time()
        self._scope = trio.CancelScope()

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

    async def wait_ready(self) -> None:
        """Return once the server has proven to speak HTTP/2.

        Raises:
            StreamLost: it does not, or the connection broke.
        """
        await self._ready.wait()
        if self.lost:
            raise self.lost

    def open_call(self, path: str, metadata: Metadata) -> Call:
        """Start a call of `/service/method`.

        Raises:
            StreamLost: the connection is gone, or cannot carry another stream.
        """
        if self.lost:
            raise self.lost
        service, method = path.removeprefix("/").split("/")
        try:
            stream_id = self._http2.get_next_available_stream_id()
            self._http2.start_request(
                stream_id,
                self._scheme,
                service,
                method,
                authority=self._authority,
                custom_metadata=metadata,
            )
        except h2.exceptions.H2Error as exc:
            raise StreamLost(f"no new stream on this connection: {exc!r}") from exc
        call = self._calls[stream_id] = Call(self, stream_id)
        self._flush.set()
        return call

    async def unary(self, path: str, request: bytes, metadata: Metadata) -> bytes:
        """Call a unary method and return its response.

        Cancellation resets the call.

        Raises:
            StreamLost: the call broke, or may be tried again.
            RpcError: the server refuses it.
        """
        call = self.open_call(path, metadata)
        try:
            # A server may refuse before it has read it all; receive() says how.
            with contextlib.suppress(StreamLost):
                await call.send([request], end=True)
            messages: list[bytes | Oversized] = []
            while batch := await call.receive():
                messages += batch
        finally:
            call.reset()
        status = call.status
        if status is None or status.code is not StatusCode.OK:
            assert status is not None  # receive() returns nothing only at the end
            raise error_of_status(status)
        match messages:
            case [bytes() as response]:
                return response
        raise StreamLost(f"{path} gave no single response")

    # Tasks

    async def _read(self) -> None:
        try:
            while not self.lost:
                data = bytes(await self._stream.receive_some(RECEIVE_SIZE))
                if not data:
                    raise StreamLost("the server closed the connection")
                self._heard = trio.current_time()
                self._receive(data)
        except trio.BrokenResourceError as exc:
            self._lose(StreamLost(f"connection broken: {exc.__cause__ or exc}"))
        except StreamLost as exc:
            self._lose(exc)

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

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep_until(self._heard + self._keepalive_time)
            if trio.current_time() < self._heard + self._keepalive_time:
                continue
            if not self._calls:
                # etcd punishes pings on a connection without a stream.
                await trio.sleep(self._keepalive_time)
                continue
            asked = trio.current_time()
            self._http2.h2_connection.ping(bytes(8))
            self._flush.set()
            await trio.sleep(self._keepalive_timeout)
            if self._heard < asked:
                self.close(f"no answer to a ping within {self._keepalive_timeout:g} s")

    # Steps

    def _receive(self, data: bytes) -> None:
        for frame in self._frames.receive(data):
            try:
                events = self._http2.receive_data(frame)
            except _PEER_ERRORS as exc:
                raise StreamLost(f"the server broke HTTP/2: {exc!r}") from exc
            for event in events:
                self._handle(event)
        self._unsent += self._frames.window_updates()
        if self._frames.started:
            self._ready.set()
        for call in self._calls.values():
            if call._inbound.messages:
                call._arrived.set()
        self._collect()
        if self._unsent:
            self._flush.set()
        if len(self._unsent) > MAX_UNSENT:
            raise StreamLost("the server sends, but does not read")

    def _handle(self, event: object) -> None:
        match event:
            case _ResponseStarted(stream_id):
                if call := self._calls.get(stream_id):
                    self._frames.open(stream_id, call._inbound)
            case _CallEnded(stream_id, end):
                if call := self._calls.get(stream_id):
                    self._forget(call, end)
                    self._reset_stream(stream_id)
            case _ConnectionEnded(reason):
                raise reason
            case WindowUpdated():
                self._senders.unpark_all()

    async def _send(self, call: Call, data: bytes, *, end: bool) -> None:
        stream_id = call._stream_id
        sent = 0
        while sent < len(data) or end:
            if call._lost or call.status:
                raise call._lost or StreamLost("the server has ended the call")
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

    def _reset(self, call: Call) -> None:
        if self._calls.get(call._stream_id) is call:
            self._forget(call, StreamLost("reset"))
            self._reset_stream(call._stream_id)

    def _forget(self, call: Call, end: Status | StreamLost) -> None:
        del self._calls[call._stream_id]
        self._frames.close(call._stream_id)
        call._end(end)
        # A sender of this call may wait for its window.
        self._senders.unpark_all()

    def _reset_stream(self, stream_id: int) -> None:
        try:
            self._http2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
        except h2.exceptions.ProtocolError:
            # Both sides have ended it: nothing is left to reset.
            return
        self._flush.set()

    def _collect(self) -> None:
        self._unsent += self._http2.data_to_send()

    def _lose(self, reason: StreamLost) -> None:
        if self.lost:
            return
        self.lost = reason
        for call in list(self._calls.values()):
            self._forget(call, reason)
        self._ready.set()
        self._scope.cancel(reason=str(reason))


def check_metadata(pairs: Metadata) -> None:
    """Refuse metadata that HTTP/2 or gRPC cannot carry; h2 3.2 would send it.

    Raises:
        TypeError, ValueError: naming the metadata, but never its value.
    """
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, str | bytes):
            raise TypeError(f"metadata must map str to str or bytes, got {name!r}")
        if not _METADATA_NAME.fullmatch(name) or name.startswith("grpc-"):
            raise ValueError(
                f"metadata name must be of a-z 0-9 _ . - and not begin with grpc-, "
                f"got {name!r}"
            )
        if name.endswith("-bin") is not isinstance(value, bytes):
            raise TypeError(
                f"metadata {name!r}: a value must be bytes if, and only if, its name "
                f"ends in -bin"
            )
        if isinstance(value, str) and not _METADATA_VALUE.fullmatch(value):
            raise ValueError(f"metadata {name!r}: its value must be printable ASCII")


def address_of(channel: object) -> tuple[str, int, SSLContext | None] | None:
    """Return host, port and TLS context of a purerpc channel; None for all else."""
    if not isinstance(channel, purerpc.client._Channel):
        return None
    return channel._host, channel._port, channel._ssl_context
