"""What may stand in a line of the log.

Sans-IO. Reasons and host names come from outside: no peer may forge a line, or fill the
log with one.
"""

from __future__ import annotations

MAX_LENGTH = 300
"""Characters of one text from outside; the longest of etcd's own have some 150."""


def printable(text: object) -> str:
    """Return `str(text)` as one printable line of at most `MAX_LENGTH` characters.

    What is not printable (line ends, terminal escapes, characters that turn the
    direction of writing) is escaped as in a literal of Python; what is too long ends
    in an ellipsis. Applied again, it changes nothing.
    """
    whole = str(text)
    line = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in whole[: MAX_LENGTH + 1]
    )
    return line if len(line) <= MAX_LENGTH else f"{line[: MAX_LENGTH - 1]}…"
