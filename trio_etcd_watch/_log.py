"""What comes from outside, made fit for one line of the log."""

from __future__ import annotations

MAX_LENGTH = 300
"""Characters of one text: a server may send 30 kB of reasons."""


def printable(text: str) -> str:
    """Return the text on one line: control characters escaped, and cut if long."""
    cut = text[:MAX_LENGTH]
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    return line if len(text) <= MAX_LENGTH else f"{line}…"
