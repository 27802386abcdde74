"""Pings a server that has been silent, to find out whether the connection still works."""

from __future__ import annotations

from typing import Protocol, final

import trio


class Pinged(Protocol):
    """A connection, as `Keepalive` uses it."""

    @property
    def in_use(self) -> bool:
        """Whether it has a stream."""

    def ping(self) -> None:
        """Send a PING."""

    def close(self, reason: str) -> None:
        """End the connection."""


@final
class Keepalive:
    """Notes when the server was heard, and pings it after a silence.

    Args:
        time: seconds of silence after which the server is pinged.
        timeout: seconds that the server then has to send anything.
    """

    def __init__(self, time: float, timeout: float) -> None:
        self._time = time
        self._timeout = timeout
        self._heard = trio.current_time()
        self._answered = trio.Event()

    def hear(self) -> None:
        """Note that the server has sent something."""
        self._heard = trio.current_time()
        self._answered.set()

    @trio.lowlevel.enable_ki_protection
    async def run(self, connection: Pinged) -> None:
        """Ping the server whenever it is silent, and close a connection that is dead."""
        while True:
            await trio.sleep_until(self._heard + self._time)
            if trio.current_time() < self._heard + self._time:
                continue
            if not connection.in_use:
                # etcd penalizes pings on a connection without a stream.
                await trio.sleep(self._time)
                continue
            self._answered = trio.Event()
            connection.ping()
            for _ in range(4):
                # Several short waits: while the application blocks the loop, nothing is
                # read, so a single wait could end before the answer is seen.
                with trio.move_on_after(self._timeout / 4):
                    await self._answered.wait()
                if self._answered.is_set():
                    break
            else:
                connection.close(f"no answer to a ping within {self._timeout:g} s")
