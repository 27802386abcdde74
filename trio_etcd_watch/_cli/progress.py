"""Shows on a terminal how far a long read is."""

from __future__ import annotations

from types import TracebackType
from typing import TextIO, final


@final
class Progress:
    """A line that is overwritten, and erased at the end of the block.

    Args:
        terminal: where to write the line; None to write nothing.
    """

    def __init__(self, terminal: TextIO | None) -> None:
        self._terminal = terminal
        self._width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        body: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._width:
            self._show(" " * self._width)
            self._show("")

    def __call__(self, done: int, count: int) -> None:
        """Show the progress, unless one page was everything."""
        if self._width or done < count:
            text = f"{done:,} of {count:,} keys"
            self._show(text.ljust(self._width))
            self._width = max(self._width, len(text))

    def _show(self, text: str) -> None:
        if self._terminal is not None:
            self._terminal.write(f"\r{text}")
            self._terminal.flush()
