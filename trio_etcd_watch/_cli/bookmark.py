"""Stores in a file how far the output of a watch is.

A new bookmark is written to a second file, which is then renamed, so that a crash
leaves the old or the new one, and never a part. A file that is not a bookmark of the
same range is an error: it is neither interpreted nor overwritten.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

FORMAT = "trio-etcd-watch bookmark 1"


class BookmarkError(Exception):
    """The file is not a bookmark, or is that of another range."""


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Where the watch of a range resumes."""

    key: bytes
    range_end: bytes
    cluster_id: int
    """0 if the server has not reported it."""
    next_revision: int

    def dump(self) -> bytes:
        """Return the content of the file."""
        fields = {
            "format": FORMAT,
            "cluster_id": self.cluster_id,
            "key": base64.b64encode(self.key).decode(),
            "range_end": base64.b64encode(self.range_end).decode(),
            "next_revision": self.next_revision,
        }
        return json.dumps(fields).encode() + b"\n"


def parse(content: bytes, key: bytes, range_end: bytes) -> Bookmark:
    """Return the bookmark that the content of a file encodes.

    Raises:
        BookmarkError: it is not a bookmark, or is that of another range.
    """
    if not content:
        raise BookmarkError("is empty")
    try:
        fields = json.loads(content)
        if fields["format"] != FORMAT:
            raise ValueError
        bookmark = Bookmark(
            base64.b64decode(fields["key"], validate=True),
            base64.b64decode(fields["range_end"], validate=True),
            fields["cluster_id"],
            fields["next_revision"],
        )
    except (ValueError, TypeError, KeyError):
        raise BookmarkError("is not a bookmark, or is incomplete") from None
    numbers = (bookmark.cluster_id, bookmark.next_revision)
    if not all(type(each) is int and each >= 0 for each in numbers):
        raise BookmarkError("is not a bookmark, or is incomplete")
    if (bookmark.key, bookmark.range_end) != (key, range_end):
        raise BookmarkError(
            f"is the bookmark of another range: {bookmark.key!r} to "
            f"{bookmark.range_end!r}"
        )
    return bookmark


def load(path: Path, key: bytes, range_end: bytes) -> Bookmark | None:
    """Return the bookmark in a file; None if there is no file.

    Raises:
        BookmarkError: it cannot be used; the text names the file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise BookmarkError(f"{path} cannot be read: {exc.strerror}") from exc
    try:
        return parse(content, key, range_end)
    except BookmarkError as exc:
        raise BookmarkError(
            f"{path} {exc}; remove it to start over, or name another file"
        ) from None


def store(path: Path, bookmark: Bookmark) -> None:
    """Replace the file so that a loss of power leaves the old or the new one.

    Raises:
        OSError: it cannot be written; the old one is still there.
    """
    # A symbolic link stays, and the file that it leads to is replaced.
    path = Path(os.path.realpath(path))
    draft = path.with_name(f"{path.name}.new")
    with draft.open("wb") as file:
        file.write(bookmark.dump())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
