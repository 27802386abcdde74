"""Makes text from outside safe for a line of the log.

Sans-IO. Reasons and host names come from peers, none of which may forge a line, or fill
the log with one.
"""

from __future__ import annotations

MAX_LENGTH = 300
"""The most characters of one text from outside; etcd's own have up to about 150."""


def printable(text: object) -> str:
    """Return `str(text)` as one printable line of at most `MAX_LENGTH` characters.

    Unprintable characters (line ends, terminal escapes, characters that change the
    direction of writing) are escaped as in a Python literal; a text that is too long
    ends in an ellipsis. Applying it again changes nothing.
    """
    whole = str(text)
    line = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in whole[: MAX_LENGTH + 1]
    )
    return line if len(line) <= MAX_LENGTH else f"{line[: MAX_LENGTH - 1]}…"
