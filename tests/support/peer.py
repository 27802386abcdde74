"""A scripted HTTP/2 server: h2's server side, and frames that h2 would refuse to send.

`Peer` records what the client does and sends only the answers that HTTP/2 requires
(SETTINGS, PING, windows); the test sends everything else. `serve_watches()` implements
as much of etcd's Watch as an end-to-end test needs.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hpack
import trio
from hyperframe import frame as wire

from trio_etcd_watch._pb import watch_pb2 as pb

Headers: TypeAlias = Iterable[tuple[str | bytes, str | bytes]]

GRPC: Headers = ((":status", "200"), ("content-type", "application/grpc"))
"""The headers of a gRPC response."""
OK: Headers = (("grpc-status", "0"),)
"""The trailers of a successful gRPC response."""
SETTINGS = wire.SettingsFrame(0).serialize()
"""The first frame of a server."""

MAX_FRAME_SIZE = 16_384


def grpc_message(payload: bytes, *, compressed: int = 0) -> bytes:
    """Return a message with its gRPC prefix, as in DATA."""
    return struct.pack(">BL", compressed, len(payload)) + payload


def pieces(data: bytes, size: int) -> list[bytes]:
    """Split data after every `size` bytes."""
    return [data[i : i + size] for i in range(0, len(data), size)]


def raw_frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return a frame of any type, whether it is valid or not."""
    return struct.pack(">LBL", len(payload) << 8 | kind, flags, stream_id) + payload


def data_frame(
    stream_id: int, payload: bytes, *, pad: int | None = None, end: bool = False
) -> bytes:
    """Return a DATA frame; pad is the length of the padding after payload."""
    frame = wire.DataFrame(stream_id, payload)
    if pad is not None:
        frame.flags.add("PADDED")
        frame.pad_length = pad
    if end:
        frame.flags.add("END_STREAM")
    return bytes(frame.serialize())


def header_frames(
    stream_id: int, block: bytes, *, end: bool = False, size: int = MAX_FRAME_SIZE
) -> list[bytes]:
    """Return HEADERS, and CONTINUATION for what exceeds size."""
    first, *rest = pieces(block, size) or [b""]
    frames: list[Any] = [wire.HeadersFrame(stream_id, first)]
    frames += [wire.ContinuationFrame(stream_id, piece) for piece in rest]
    frames[-1].flags.add("END_HEADERS")
    if end:
        frames[0].flags.add("END_STREAM")
    return [bytes(frame.serialize()) for frame in frames]


def encoded(headers: Headers) -> bytes:
    """Return a header block that does not depend on the state of the compression."""
    encoder = hpack.Encoder()
    # "Never indexed" entries do not change the table.
    return bytes(
        encoder.encode([hpack.NeverIndexedHeaderTuple(n, v) for n, v in headers])
    )


class Peer:
    """The server side of one connection of a client.

    Attributes:
        http2: h2's connection, for what h2 can send.
        events: the h2 events that `next()` has not returned yet.
        received: by stream, the gRPC bytes of the request.
        gives_window: whether received data is acknowledged, which opens the windows.
        mute: whether it receives, but sends nothing on its own.
    """

    def __init__(
        self, stream: trio.abc.Stream, settings: dict[int, int] | None = None
    ) -> None:
        self.stream = stream
        self.http2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=False,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.http2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes(code): value
                for code, value in (settings or {}).items()
            },
        )
        self.events: list[Any] = []
        self.received: dict[int, bytearray] = {}
        self.gives_window = True
        self.mute = False
        self._arrived = trio.Event()
        self._sending = trio.Lock()

    async def run(self) -> None:
        """Start HTTP/2, and receive until the client closes."""
        self.http2.initiate_connection()
        await self.flush()
        await self.listen()

    async def listen(self) -> None:
        """Record what the client does until it closes."""
        try:
            while data := await self.stream.receive_some():
                for event in self.http2.receive_data(bytes(data)):
                    self._note(event)
                self._arrived.set()
                self._arrived = trio.Event()
                if not self.mute:
                    await self.flush()
        except trio.BrokenResourceError:
            return

    def _note(self, event: Any) -> None:  # noqa: ANN401  # h2 has no types
        self.events.append(event)
        match event:
            case h2.events.RequestReceived():
                self.received[event.stream_id] = bytearray()
            case h2.events.DataReceived():
                self.received[event.stream_id] += event.data
                if self.gives_window:
                    self.http2.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )

    async def flush(self) -> None:
        """Send the pending output of h2."""
        async with self._sending:
            if data := self.http2.data_to_send():
                await self.stream.send_all(data)

    async def raw(self, *frames: bytes) -> None:
        """Send any bytes, bypassing h2."""
        await self.flush()
        async with self._sending:
            await self.stream.send_all(b"".join(frames))

    # What the client does

    async def next(  # h2 has no types
        self, kind: type[Any], stream_id: int | None = None
    ) -> Any:  # noqa: ANN401
        """Return and remove the next event of this kind, on this stream if given."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and (
                    stream_id is None or event.stream_id == stream_id
                ):
                    self.events.remove(event)
                    return event
            await self._arrived.wait()

    async def accept(self) -> int:
        """Return the stream of the next request, before its response."""
        request = await self.next(h2.events.RequestReceived)
        return int(request.stream_id)

    async def accept_call(self) -> int:
        """Return the stream of the next request, with its response begun."""
        stream_id = await self.accept()
        await self.headers(stream_id, GRPC)
        return stream_id

    async def message(self, stream_id: int) -> bytes:
        """Return the next message of a request."""
        received = self.received[stream_id]
        while len(received) < 5 or len(received) < 5 + int.from_bytes(received[1:5]):
            await self._arrived.wait()
        size = 5 + int.from_bytes(received[1:5])
        message = bytes(received[5:size])
        del received[:size]
        return message

    async def reset_by_client(self, stream_id: int) -> None:
        """Wait for the client's RST_STREAM."""
        await self.next(h2.events.StreamReset, stream_id)

    def resets(self) -> list[int]:
        """Return the streams that the client has reset so far."""
        return [e.stream_id for e in self.events if type(e) is h2.events.StreamReset]

    # What the server sends

    async def headers(
        self, stream_id: int, headers: Headers, *, end: bool = False
    ) -> None:
        """Send headers; `end` makes them the last of the stream."""
        self.http2.send_headers(stream_id, list(headers), end_stream=end)
        await self.flush()

    async def data(
        self, stream_id: int, data: bytes, *, pad: int | None = None, end: bool = False
    ) -> None:
        """Send one DATA frame."""
        self.http2.send_data(stream_id, data, end_stream=end, pad_length=pad)
        await self.flush()

    async def messages(
        self, stream_id: int, *payloads: bytes, size: int = MAX_FRAME_SIZE
    ) -> None:
        """Send gRPC messages in DATA frames of this size, as the windows allow."""
        for piece in pieces(b"".join(map(grpc_message, payloads)), size):
            while self.http2.local_flow_control_window(stream_id) < len(piece):
                await self._arrived.wait()
            await self.data(stream_id, piece)

    async def status(self, stream_id: int, code: int = 0, message: str = "") -> None:
        """End a response with this status."""
        trailers = [("grpc-status", str(code))]
        if message:
            trailers.append(("grpc-message", message))
        await self.headers(stream_id, trailers, end=True)

    async def reset(self, stream_id: int, code: int = 2) -> None:
        """Send RST_STREAM; by default INTERNAL_ERROR."""
        self.http2.reset_stream(stream_id, code)
        await self.flush()

    async def goaway(self, last_stream_id: int, code: int = 0, text: str = "") -> None:
        """Send GOAWAY; by default a graceful one."""
        frame = wire.GoAwayFrame(0, last_stream_id, code, text.encode())
        await self.raw(frame.serialize())


Handler: TypeAlias = Callable[[trio.SocketStream], Awaitable[object]]


@asynccontextmanager
async def serve_tcp(handler: Handler) -> AsyncGenerator[str]:
    """Serve loopback connections and yield the endpoint, until the block ends."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with serve_listeners([(handler, listener)]):
        yield f"127.0.0.1:{listener.socket.getsockname()[1]}"


@asynccontextmanager
async def serve_listeners(
    pairs: Iterable[tuple[Handler, trio.SocketListener]],
) -> AsyncGenerator[None]:
    """Serve each listener with its handler. Handlers end with the block."""

    async def serve(handler: Handler, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await handler(stream)
            except* (trio.BrokenResourceError, h2.exceptions.ProtocolError):
                # The client has closed, or the connection can no longer be parsed.
                pass

    async with trio.open_nursery() as nursery:
        for handler, listener in pairs:
            serve_one = functools.partial(serve, handler)
            nursery.start_soon(trio.serve_listeners, serve_one, [listener])
        yield
        nursery.cancel_scope.cancel(reason="the test is over")


CLUSTER_ID = 0xC1


def watch_response(
    watch_id: int = 0,
    *,
    revision: int = 1,
    events: Iterable[tuple[bytes, int]] = (),
    value: bytes = b"",
    **fields: Any,  # noqa: ANN401  # fields of protobuf
) -> bytes:
    """Return a message of the Watch stream; events are pairs (key, mod_revision)."""
    response = pb.WatchResponse(watch_id=watch_id, **fields)
    response.header.cluster_id = CLUSTER_ID
    response.header.revision = revision
    for key, mod_revision in events:
        event = response.events.add()
        event.kv.key = key
        event.kv.value = value
        event.kv.create_revision = event.kv.mod_revision = mod_revision
        event.kv.version = 1
    return response.SerializeToString()


async def serve_watches(
    stream: trio.abc.Stream, *, revision: int = 1, value: bytes = b""
) -> None:
    """Serve every watch like an etcd, and send each one event at its start.

    Args:
        stream: the connection.
        revision: the revision of the store; a watch from now begins after it.
        value: the value of the events.
    """
    peer = Peer(stream)
    async with trio.open_nursery() as nursery:

        async def serve_stream(stream_id: int) -> None:
            ids = 0
            while True:
                request = pb.WatchRequest.FromString(await peer.message(stream_id))
                if not request.HasField("create_request"):
                    continue
                start = request.create_request.start_revision or revision + 1
                key = request.create_request.key
                await peer.messages(
                    stream_id,
                    watch_response(ids, revision=revision, created=True),
                    watch_response(
                        ids, revision=start, events=[(key, start)], value=value
                    ),
                )
                ids += 1

        async def accept() -> None:
            while True:
                nursery.start_soon(serve_stream, await peer.accept_call())

        nursery.start_soon(accept)
        await peer.run()
        nursery.cancel_scope.cancel(reason="the client closed")


def put_message(watch_id: int, *revisions: int) -> bytes:
    events = [(b"k", revision) for revision in revisions]
    return watch_response(watch_id, revision=revisions[-1], events=events)


NONSENSE = b"\xff\xff\xff"
"""No message of protobuf's."""
