"""Formats events, keys and updates as etcdctl does, or as JSON.

Sans-IO. The output is bytes, since a key or value need not be text. On a terminal they
are escaped, since they could hold terminal commands.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any, Protocol

from trio_etcd_watch._changes import Change, MirrorUpdate
from trio_etcd_watch._mapping import Snapshot
from trio_etcd_watch._responses import Event, EventType, KeyValue, WatchResponse

_GREEN, _RED, _DIM, _BOLD, _PLAIN = (
    b"\x1b[32m",
    b"\x1b[31m",
    b"\x1b[2m",
    b"\x1b[1m",
    b"\x1b[0m",
)


class Printer(Protocol):
    """Formats values as whole lines, or as nothing."""

    def response(self, response: WatchResponse) -> bytes:
        """Format a response of a watch."""

    def keys(self, snapshot: Snapshot) -> Iterator[bytes]:
        """Format a snapshot, key by key."""

    def update(self, update: MirrorUpdate) -> bytes:
        """Format an update of a mirror."""


class Human:
    """Formats lines as `etcdctl watch` and `etcdctl get` print them.

    Args:
        terminal: whether a terminal shows the lines: then keys and values are one line
            each, with unprintable characters escaped.
        coloured: whether the terminal can show colours.
    """

    def __init__(self, *, terminal: bool = False, coloured: bool = False) -> None:
        self._terminal = terminal
        self._coloured = coloured

    def response(self, response: WatchResponse) -> bytes:
        """Format the events, or a progress notification."""
        if response.is_progress_notify:
            text = b"progress notify: %d" % response.header.revision
            return self._paint(_DIM, text) + b"\n"
        return b"".join(map(self._event, response.events))

    def keys(self, snapshot: Snapshot) -> Iterator[bytes]:
        """Format each key with its value."""
        return map(self._key_value, snapshot.values())

    def update(self, update: MirrorUpdate) -> bytes:
        """Format each change as the event that would have made it."""
        return b"".join(map(self._change, update.changes))

    def _event(self, event: Event) -> bytes:
        kind = self._kind(put=event.type is EventType.PUT)
        before = self._key_value(event.prev_kv) if event.prev_kv else b""
        return kind + before + self._key_value(event.kv)

    def _change(self, change: Change) -> bytes:
        kind = self._kind(put=change.new is not None)
        if change.new is not None:
            return kind + self._key_value(change.new)
        return kind + self._lines(change.key, b"")

    def _key_value(self, kv: KeyValue) -> bytes:
        return self._lines(kv.key, kv.value)

    def _lines(self, key: bytes, value: bytes) -> bytes:
        if self._terminal:
            key, value = escaped(key), escaped(value)
        return self._paint(_BOLD, key) + b"\n" + value + b"\n"

    def _kind(self, *, put: bool) -> bytes:
        kind = self._paint(_GREEN, b"PUT") if put else self._paint(_RED, b"DELETE")
        return kind + b"\n"

    def _paint(self, colour: bytes, text: bytes) -> bytes:
        return colour + text + _PLAIN if self._coloured else text


class Json:
    """Formats one line of JSON for each event, key or change.

    The fields are etcd's. Bytes are base64; those that are UTF-8 are text in a second
    field: `key` and `key_utf8`, `value` and `value_utf8`.
    """

    def response(self, response: WatchResponse) -> bytes:
        """Format the events, or a progress notification."""
        if response.is_progress_notify:
            line = {"type": "PROGRESS", "revision": response.header.revision}
            return _line(line)
        return b"".join(map(self._event, response.events))

    def keys(self, snapshot: Snapshot) -> Iterator[bytes]:
        """Format each key with its value, and the revision of the snapshot."""
        for kv in snapshot.values():
            yield _line({"revision": snapshot.revision, "kv": _fields(kv)})

    def update(self, update: MirrorUpdate) -> bytes:
        """Format each change; those of one update have the same revision."""
        return b"".join(self._change(update, change) for change in update.changes)

    def _event(self, event: Event) -> bytes:
        line: dict[str, Any] = {"type": event.type.name, "kv": _fields(event.kv)}
        if event.prev_kv is not None:
            line["prev_kv"] = _fields(event.prev_kv)
        return _line(line)

    def _change(self, update: MirrorUpdate, change: Change) -> bytes:
        new = change.new
        line: dict[str, Any] = {
            "type": "DELETE" if new is None else "PUT",
            "revision": update.revision,
            "resynced": update.resynced,
            "kv": _bytes("key", change.key) if new is None else _fields(new),
        }
        if change.old is not None:
            line["prev_kv"] = _fields(change.old)
        return _line(line)


def escaped(text: bytes) -> bytes:
    """Return bytes as one line; unprintable characters are escaped as in Python."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text.decode(errors="backslashreplace")
    ).encode()


def _line(fields: dict[str, Any]) -> bytes:
    # ASCII is printed alike on every terminal and in every locale.
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _fields(kv: KeyValue) -> dict[str, Any]:
    return {
        **_bytes("key", kv.key),
        "create_revision": kv.create_revision,
        "mod_revision": kv.mod_revision,
        "version": kv.version,
        **_bytes("value", kv.value),
        "lease": kv.lease,
    }


def _bytes(name: str, value: bytes) -> dict[str, str]:
    fields = {name: base64.b64encode(value).decode()}
    with contextlib.suppress(UnicodeDecodeError):
        fields[f"{name}_utf8"] = value.decode()
    return fields
