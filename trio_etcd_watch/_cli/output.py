"""The way to stdout: in a thread, so that a reader who is slow holds up nothing else.

What is being written when the program is told to end is finished, if its reader takes it
within `GRACE`: so what was printed and what the bookmark says are the same.
"""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Callable, Iterable
from typing import final

import trio

GRACE = 0.5
"""Seconds that a reader has to take what is being written, once the program is to end."""

PIECE = 2**16
"""Bytes that are written at once."""


class OutputError(Exception):
    """The output, or the bookmark, cannot be written."""


@final
class Output:
    """Bytes to a file descriptor. One task at a time."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._writing = trio.CancelScope()
        self._until = math.inf

    def hurry(self) -> None:
        """Have what is being written given up soon."""
        self._until = self._writing.deadline = trio.current_time() + GRACE

    async def write(
        self,
        parts: Iterable[bytes],
        then: Callable[[], None] | None = None,
        *,
        whole: bool = True,
    ) -> None:
        """Write all of this, and only then call `then`. A checkpoint.

        Cancelled, it goes on until `hurry()` gives it up; then the writer, which is a
        daemon thread, is left behind.

        Args:
            parts: consumed by the writer.
            then: called by the writer.
            whole: False has it given up at once when cancelled.

        Raises:
            BrokenPipeError: nobody reads any more.
            OutputError: it cannot be written.
        """
        await trio.lowlevel.checkpoint()
        # Not to be torn apart: written, and then noted as such.
        with trio.CancelScope(shield=whole, deadline=self._until) as self._writing:
            await trio.to_thread.run_sync(
                self._write, parts, then, abandon_on_cancel=True
            )
        await trio.lowlevel.checkpoint_if_cancelled()

    def _write(self, parts: Iterable[bytes], then: Callable[[], None] | None) -> None:
        try:
            for piece in gathered(parts):
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            if then is not None:
                self._sync()
                then()
        except BrokenPipeError:
            raise
        except OSError as exc:
            what = f"{exc.filename}: " if exc.filename else ""
            raise OutputError(f"cannot write: {what}{exc.strerror}") from exc

    def _sync(self) -> None:
        """See that a file has it, before a bookmark says so."""
        if stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            os.fsync(self._descriptor)

    async def wait_closed(self) -> None:
        """Return when nobody will read it any more, where the system tells."""
        # A pipe's end for writing is never readable: what wakes us is its other end.
        if sys.platform == "linux" and stat.S_ISFIFO(
            os.fstat(self._descriptor).st_mode
        ):
            await trio.lowlevel.wait_readable(self._descriptor)
        else:
            await trio.sleep_forever()


def gathered(parts: Iterable[bytes]) -> Iterable[bytes]:
    """Give the same bytes in pieces of about `PIECE`, or one larger part."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= PIECE:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
    yield b"".join(waiting)
