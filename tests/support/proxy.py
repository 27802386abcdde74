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
"""SO_LINGER, on and for no time: close() then sends RST."""

_SIOCOUTQNSD = 0x894B
"""From Linux's sockios.h: "output queue size (not sent only)"."""

_CHUNK_SIZE = 65536

_HEAD = 4096
"""Bytes: a few requests of HTTP/1, as a connection may begin with one without a name."""

_CHUNKS_ON_THE_WAY = 256
"""Per direction. Few enough to bound memory, enough to keep a delayed one full."""

_FIN_LIMIT = 1.0
"""Seconds that a peer has to answer our FIN by its own."""


class _Connection:
    """One client's connection, and ours to the server."""

    def __init__(self, proxy: Proxy, client: trio.SocketStream) -> None:
        self._proxy = proxy
        self._client = client
        self.head = b""
        """What the client sent first, up to some `_HEAD` bytes, as it came."""
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
            # RST throws away what the kernel still has to send.
            while _unsent(self._client):  # noqa: ASYNC110  # the kernel sets no Event
                await trio.sleep(0.001)
            self.reset()
        await trio.lowlevel.checkpoint()

    async def _finish(self) -> None:
        # close() alone would send RST if it left bytes unread.
        for stream in self._streams():
            with suppress(OSError):
                stream.socket.shutdown(socket.SHUT_WR)
        for stream in self._streams():
            with suppress(trio.BrokenResourceError):
                while await stream.receive_some(_CHUNK_SIZE):
                    pass


class Proxy:
    """Made by `open_proxy()`; its faults may be called at any moment.

    Attributes:
        endpoint: where it listens, as `host:port`.
        accepted: connections so far.
        bytes_down: bytes from the server that went on to a client, so far.
        cut: what `cut_after()` has set: how many bytes, and whether FIN ends them.
        latency: what `delay()` has set, in seconds.
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
        # Keeps the port ours while we refuse. It must not take a client that dials us,
        # either: a socket that happens to get our port for its own would reach itself.
        self._reservation = _bind("127.0.0.1", own_port)
        self._address: tuple[str, int] = self._reservation.getsockname()
        self.endpoint = f"{self._address[0]}:{self._address[1]}"

        self.accept()

    def close_all(self) -> None:
        """Close the open connections in good order (FIN), on both sides."""
        for connection in self._connections:
            connection.close()

    def reset_all(self) -> None:
        """Reset the open connections (RST), on both sides."""
        for connection in self._connections:
            connection.reset()

    def cut_after(self, count: int | None, *, fin: bool = False) -> None:
        """Let new connections end after exactly so many bytes from the server.

        Args:
            count: how many; None for no more cuts.
            fin: close in good order instead of resetting.
        """
        self.cut = (sys.maxsize if count is None else count, fin)

    def blackhole(self, swallows: Callable[[bytes], bool] = lambda head: True) -> None:
        """Forward nothing any more, on open connections and on new ones.

        They stay open, and new ones are accepted. What `delay()` holds is lost.

        Args:
            swallows: which connections, by what the client sent first, which is
                nothing to begin with; all, unless given.
        """
        self._swallows = swallows
        for connection in self._connections:
            self.stall_if_swallowed(connection)

    def stall_if_swallowed(self, connection: _Connection) -> None:
        """Let a connection into the black hole, if that is for it."""
        if self._swallows(connection.head):
            connection.stall()

    def heal(self) -> None:
        """Serve new connections again; those that were black-holed stay dead."""
        self._swallows = _nothing

    def reset_stalled(self) -> None:
        """Reset the connections that were black-holed, so that they are made anew."""
        for connection in self._connections:
            if connection.is_stalled:
                connection.reset()

    def refuse(self) -> None:
        """Refuse new connections, until `accept()`."""
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
        """Let what is read from now on arrive so much later, in each direction."""
        self.latency = seconds

    async def wait_accepted(self, count: int) -> None:
        """Return once so many connections have been accepted in all."""
        while self.accepted < count:
            await self._was_accepted.wait()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Free the port. The connections end with the nursery."""
        self.refuse()
        self._reservation.close()

    async def _serve(self, listener: trio.SocketListener) -> None:
        # Closed by refuse().
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
    """Proxy a port of the loopback interface, a free one unless given, to a server.

    Leaving closes all sockets. An error of the body comes out as itself.
    """
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        proxy = Proxy(target_host, target_port, nursery, own_port=own_port)
        try:
            yield proxy
        except Exception as exc:  # kept out of the nursery's group
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
    """How many bytes the kernel still holds back, for want of a window."""
    count = bytearray(4)
    fcntl.ioctl(stream.socket.fileno(), _SIOCOUTQNSD, count)
    return int.from_bytes(count, sys.byteorder)
