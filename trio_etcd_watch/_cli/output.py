"""Writes to stdout in a thread, so that a slow reader delays nothing else.

A write that is in progress when the program is told to end is finished, if its reader
consumes it within `GRACE`, and then recorded, for which a busy disk has `DISK_LIMIT`.
So the bookmark says what was printed.
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
"""Seconds that a reader has to consume the write in progress when the program is to
end."""

DISK_LIMIT = 10.0
"""Seconds that recording what was written may take after `GRACE`: an fsync on a busy
disk takes one or more. Supervisors wait 30 s or longer before they kill."""

PIECE = 2**16
"""How many bytes are written at once."""


class OutputError(Exception):
    """The output, or the bookmark, cannot be written."""


@final
class Output:
    """Writes bytes to a file descriptor, for one task at a time."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._writing = trio.CancelScope()
        self._noting = trio.CancelScope()
        self._until = math.inf

    def limit_write(self) -> None:
        """Limit the write in progress to `GRACE`, and recording it to `DISK_LIMIT`."""
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

        Cancellation does not end it before the limits that `limit_write()` sets; then
        the thread, a daemon, is abandoned. `then` is called whenever everything was
        written, within `DISK_LIMIT`.

        Args:
            parts: consumed in a thread.
            then: called in a thread, to record what was written.
            whole: if False, cancellation ends the writing at once.

        Raises:
            BrokenPipeError: the reader has closed the output.
            OutputError: the output, or the record, cannot be written.
        """
        await trio.lowlevel.checkpoint()
        # Shielded: what was written must also be recorded.
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
        # A file must have the output before a bookmark says so.
        if stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            os.fsync(self._descriptor)
        then()

    async def wait_closed(self) -> None:
        """Return once the reader has closed a pipe, if the system reports that."""
        # The write end of a pipe is never readable, so only its close wakes this task.
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
    """Yield the same bytes in pieces of about `PIECE`, or of one larger part."""
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
