"""A TCP proxy that fails on demand, between a client and a server under test."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import trio

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, on and for zero seconds: close() then sends RST."""

_SIOCOUTQNSD = 0x894B
"""From Linux's sockios.h: "output queue size (not sent only)"."""

_CHUNK_SIZE = 65536

_HEAD = 4096
"""Bytes: a few HTTP/1 requests, since the first one may not name its sender."""

_CHUNKS_ON_THE_WAY = 256
"""In each direction: few enough to bound memory, enough for a delayed connection."""

_FIN_LIMIT = 1.0
"""Seconds in which a peer has to answer our FIN with its own."""


class _Connection:
    """A client's connection, and the one to the server for it."""

    def __init__(self, proxy: Proxy, client: trio.SocketStream) -> None:
        self._proxy = proxy
        self._client = client
        self.head = b""
        """The first bytes that the client sent, about `_HEAD` at most."""
        self._server: trio.SocketStream | None = None
        self._down_left, self._cut_by_fin = proxy.cut
        self._flow = trio.CancelScope()
        self._life = trio.CancelScope()
        self._send_fin = False
        self._send_reset = False

    @property
    def is_stalled(self) -> bool:
        return self._flow.cancel_called

    def stall(self) -> None:
        self._flow.cancel(reason="black hole")

    def close(self) -> None:
        self._send_fin = True
        self._life.cancel(reason="FIN")

    def reset(self) -> None:
        self._send_reset = True
        self._life.cancel(reason="RST")

    async def run(self, host: str, port: int) -> None:
        try:
            with self._life:
                with self._flow:
                    await self._forward(host, port)
                if self._flow.cancelled_caught:
                    await trio.sleep_forever()
            if self._send_fin and not self._send_reset:
                with trio.move_on_after(_FIN_LIMIT):
                    await self._finish()
        finally:
            for stream in self._streams():
                if self._send_reset:
                    stream.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
                    )
                stream.socket.close()

    def _streams(self) -> list[trio.SocketStream]:
        return [each for each in (self._client, self._server) if each is not None]

    async def _forward(self, host: str, port: int) -> None:
        try:
            server = self._server = await trio.open_tcp_stream(host, port)
        except OSError:
            self.reset()
            return
        async with trio.open_nursery() as nursery:
            for source, sink in ((self._client, server), (server, self._client)):
                send, receive = trio.open_memory_channel[tuple[float, bytes]](
                    _CHUNKS_ON_THE_WAY
                )
                nursery.start_soon(self._read, source, send)
                nursery.start_soon(self._write, receive, sink)

    async def _read(
        self,
        source: trio.SocketStream,
        send: trio.MemorySendChannel[tuple[float, bytes]],
    ) -> None:
        with send:
            try:
                while chunk := await source.receive_some(_CHUNK_SIZE):
                    if source is self._client and len(self.head) < _HEAD:
                        self.head += chunk
                        self._proxy.stall_if_swallowed(self)
                    arrival = trio.current_time() + self._proxy.latency
                    await send.send((arrival, chunk))
            except trio.BrokenResourceError:
                self.reset()

    async def _write(
        self,
        receive: trio.MemoryReceiveChannel[tuple[float, bytes]],
        sink: trio.SocketStream,
    ) -> None:
        down = sink is self._client
        try:
            with receive:
                if down and self._down_left == 0:
                    await self._cut()
                async for arrival, chunk in receive:
                    await trio.sleep_until(arrival)
                    if not down:
                        await sink.send_all(chunk)
                        continue
                    passed = chunk[: self._down_left]
                    await sink.send_all(passed)
                    self._proxy.bytes_down += len(passed)
                    self._down_left -= len(passed)
                    if self._down_left == 0:
                        await self._cut()
                await sink.send_eof()
        except trio.BrokenResourceError:
            self.reset()

    async def _cut(self) -> None:
        if self._cut_by_fin:
            self.close()
        else:
            # RST discards what the kernel has not sent yet.
            while _unsent(self._client):  # noqa: ASYNC110  # the kernel sets no Event
                await trio.sleep(0.001)
            self.reset()
        await trio.lowlevel.checkpoint()

    async def _finish(self) -> None:
        # With unread bytes, close() alone would send RST.
        for stream in self._streams():
            with suppress(OSError):
                stream.socket.shutdown(socket.SHUT_WR)
        for stream in self._streams():
            with suppress(trio.BrokenResourceError):
                while await stream.receive_some(_CHUNK_SIZE):
                    pass


class Proxy:
    """A proxy whose faults can be triggered at any moment. Made by `open_proxy()`.

    Attributes:
        endpoint: where it listens, as `host:port`.
        accepted: how many connections it has accepted.
        bytes_down: how many bytes from the server it has forwarded to clients.
        cut: the setting of `cut_after()`: how many bytes, and whether FIN ends them.
        latency: the setting of `delay()`, in seconds.
    """

    def __init__(
        self, host: str, port: int, nursery: trio.Nursery, *, own_port: int = 0
    ) -> None:
        self.accepted = 0
        self.bytes_down = 0
        self.cut = (sys.maxsize, False)
        self.latency = 0.0
        self._target = (host, port)
        self._nursery = nursery
        self._connections: set[_Connection] = set()
        self._swallows: Callable[[bytes], bool] = _nothing
        self._was_accepted = trio.Event()
        self._listener: trio.SocketListener | None = None
        # Reserves the port while it refuses connections. The socket must not accept
        # clients, either: a client whose own port happens to be this one would connect
        # to itself.
        self._reservation = _bind("127.0.0.1", own_port)
        self._address: tuple[str, int] = self._reservation.getsockname()
        self.endpoint = f"{self._address[0]}:{self._address[1]}"

        self.accept()

    def close_all(self) -> None:
        """Close the open connections with FIN, on both sides."""
        for connection in self._connections:
            connection.close()

    def reset_all(self) -> None:
        """Reset the open connections with RST, on both sides."""
        for connection in self._connections:
            connection.reset()

    def cut_after(self, count: int | None, *, fin: bool = False) -> None:
        """End new connections after exactly this many bytes from the server.

        Args:
            count: how many bytes; None for no more cuts.
            fin: close with FIN instead of resetting.
        """
        self.cut = (sys.maxsize if count is None else count, fin)

    def blackhole(self, swallows: Callable[[bytes], bool] = lambda head: True) -> None:
        """Forward nothing any more, on open connections and on new ones.

        They stay open, and new ones are accepted. What `delay()` holds back is lost.

        Args:
            swallows: decides by the first bytes of the client, of which there are none
                at first, whether a connection is affected; by default all are.
        """
        self._swallows = swallows
        for connection in self._connections:
            self.stall_if_swallowed(connection)

    def stall_if_swallowed(self, connection: _Connection) -> None:
        """Stop forwarding on a connection, if the black hole affects it."""
        if self._swallows(connection.head):
            connection.stall()

    def heal(self) -> None:
        """Forward on new connections again; those that were stalled stay so."""
        self._swallows = _nothing

    def reset_stalled(self) -> None:
        """Reset the stalled connections, so that they are opened again."""
        for connection in self._connections:
            if connection.is_stalled:
                connection.reset()

    def refuse(self) -> None:
        """Refuse new connections until `accept()`."""
        if self._listener is not None:
            self._listener.socket.close()
            self._listener = None

    def accept(self) -> None:
        """Accept new connections, on the same port as before `refuse()`."""
        if self._listener is None:
            sock = _bind(*self._address)
            sock.listen()
            self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            self._nursery.start_soon(self._serve, self._listener)

    def delay(self, seconds: float) -> None:
        """From now on, deliver what is read this much later, in each direction."""
        self.latency = seconds

    async def wait_accepted(self, count: int) -> None:
        """Return once this many connections have been accepted in all."""
        while self.accepted < count:
            await self._was_accepted.wait()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Free the port. The connections end with the nursery."""
        self.refuse()
        self._reservation.close()

    async def _serve(self, listener: trio.SocketListener) -> None:
        # `refuse()` closes the listener.
        with suppress(trio.ClosedResourceError):
            while True:
                client = await listener.accept()
                self.accepted += 1
                self._was_accepted.set()
                self._was_accepted = trio.Event()
                connection = _Connection(self, client)
                self.stall_if_swallowed(connection)
                self._connections.add(connection)
                self._nursery.start_soon(self._run, connection)

    async def _run(self, connection: _Connection) -> None:
        try:
            await connection.run(*self._target)
        finally:
            self._connections.remove(connection)


@asynccontextmanager
async def open_proxy(
    target_host: str, target_port: int, *, own_port: int = 0
) -> AsyncGenerator[Proxy]:
    """Proxy a port of the loopback interface, a free one by default, to a server.

    The end of the block closes all sockets. An error of the body is raised as itself.
    """
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        proxy = Proxy(target_host, target_port, nursery, own_port=own_port)
        try:
            yield proxy
        except Exception as exc:  # raised below, outside of the nursery's group
            error = exc
        finally:
            proxy.close()
            nursery.cancel_scope.cancel(reason="the proxy was closed")
    if error is not None:
        raise error


def _nothing(head: bytes) -> bool:
    return False


def _bind(host: str, port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    return sock


def _unsent(stream: trio.SocketStream) -> int:
    """Return how many bytes the kernel has not sent yet, because the window is full."""
    count = bytearray(4)
    fcntl.ioctl(stream.socket.fileno(), _SIOCOUTQNSD, count)
    return int.from_bytes(count, sys.byteorder)
