"""The way to stdout: in a thread, so that a reader who is slow holds up nothing else.

What is being written when the program is told to end is finished, if its reader takes it
within `GRACE`, and then noted, however busy the disk is: so what was printed and what the
bookmark says are the same.
"""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar, final

import trio

T = TypeVar("T")

GRACE = 0.5
"""Seconds that a reader has to take what is being written, once the program is to end."""

DISK_LIMIT = 10.0
"""Seconds that noting what was written may take after that: an fsync of a busy disk takes
one or more. Supervisors wait 30 or longer before they kill."""

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
        self._noting = trio.CancelScope()
        self._until = math.inf

    def hurry(self) -> None:
        """Have what is being written given up soon, and noting it later."""
        self._until = self._writing.deadline = trio.current_time() + GRACE
        self._noting.deadline = self._until + DISK_LIMIT

    async def write(
        self,
        parts: Iterable[bytes],
        then: Callable[[], None] | None = None,
        *,
        whole: bool = True,
    ) -> None:
        """Write all of this, and only then call `then`. A checkpoint.

        Cancelled, it goes on until `hurry()` gives it up; then the thread, a daemon, is
        left behind. What was written whole is noted in any case, within `DISK_LIMIT`.

        Args:
            parts: consumed in a thread.
            then: called in a thread.
            whole: False has it given up at once when cancelled.

        Raises:
            BrokenPipeError: nobody reads any more.
            OutputError: it cannot be written.
        """
        await trio.lowlevel.checkpoint()
        # Not to be torn apart: written, and then noted as such.
        with trio.CancelScope(shield=whole, deadline=self._until) as self._writing:
            await _in_thread(self._write, parts)
        if then is not None and not self._writing.cancelled_caught:
            limit = self._until + DISK_LIMIT
            with trio.CancelScope(shield=True, deadline=limit) as self._noting:
                await _in_thread(self._note, then)
        await trio.lowlevel.checkpoint_if_cancelled()

    def _write(self, parts: Iterable[bytes]) -> None:
        for piece in gathered(parts):
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def _note(self, then: Callable[[], None]) -> None:
        # A file has it before a bookmark says so.
        if stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            os.fsync(self._descriptor)
        then()

    async def wait_closed(self) -> None:
        """Return when nobody will read it any more, where the system tells."""
        # A pipe's end for writing is never readable: what wakes us is its other end.
        if sys.platform == "linux" and stat.S_ISFIFO(
            os.fstat(self._descriptor).st_mode
        ):
            await trio.lowlevel.wait_readable(self._descriptor)
        else:
            await trio.sleep_forever()


async def _in_thread(work: Callable[[T], None], argument: T) -> None:
    try:
        await trio.to_thread.run_sync(work, argument, abandon_on_cancel=True)
    except BrokenPipeError:
        raise
    except OSError as exc:
        what = f"{exc.filename}: " if exc.filename else ""
        raise OutputError(f"cannot write: {what}{exc.strerror}") from exc


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
