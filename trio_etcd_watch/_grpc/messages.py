"""Assembles the gRPC messages of one stream from its DATA.

Sans-IO. Each message has a prefix, and may begin and end anywhere in the DATA. Servers
mostly send frames that are one message each, or frames that continue a large message;
both have a fast path.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO

from trio_etcd_watch._twins import speedups

from .status import StreamLost

MAX_FRAME_SIZE = 16_384
"""The largest frame that is accepted, in bytes: HTTP/2's initial value, which gRPC
servers use. A larger one could make the first bytes of an HTTP/1 answer look like a
frame to wait for ("HTTP" read as a length is 4.7 million)."""

_DATA = 0
_FRAME = struct.Struct(">L5s")
"""The header of a frame: length (24 bits) and type in one word, then flags and stream
id as bytes, which are compared at once (RFC 9113, 4.1)."""
_MESSAGE = struct.Struct(">BL")
"""The prefix of a gRPC message: compressed flag, length."""
_FRAME_AND_MESSAGE = struct.Struct(">L6sL")
"""The header and the prefix of a frame that is one whole message: flags, stream id and
compressed flag are bytes, which are compared at once."""

_HEAD_SIZE = 64
"""How many bytes are kept of a message over the limit: enough to identify it."""


@dataclass(frozen=True, slots=True)
class Oversized:
    """A message over the limit: its size, and its first bytes."""

    size: int
    head: bytes


class Inbound:
    """The messages of one stream, cut from its DATA.

    Attributes:
        max_message_size: longer messages are skipped.
        messages: the complete ones; whoever consumes them sets a new list.
        missing: how many bytes the unfinished message still lacks.
        consumed: flow-controlled bytes since the last WINDOW_UPDATE.
        returned: flow-controlled bytes that WINDOW_UPDATEs have returned.
    """

    __slots__ = (
        "_oversized",
        "_partial",
        "_prefix",
        "_skipping",
        "consumed",
        "max_message_size",
        "messages",
        "missing",
        "returned",
    )

    def __init__(self, max_message_size: int) -> None:
        self.max_message_size = max_message_size
        self.messages: list[bytes | Oversized] = []
        self.missing = 0
        self.consumed = 0
        self.returned = 0
        # The prefix of the unfinished message, until that is whole, and what has
        # arrived of the message. BytesIO grows in place, and returns its bytes without
        # a copy.
        self._prefix = b""
        self._partial = BytesIO()
        # The size of a message over the limit, until its first bytes have arrived; then
        # how many bytes of it are still to be skipped.
        self._oversized = 0
        self._skipping = 0

    @property
    def received(self) -> int:
        """Flow-controlled bytes in total."""
        return self.returned + self.consumed

    @property
    def whole(self) -> bool:
        """Whether no message is unfinished."""
        return not (self.missing or self._skipping or self._prefix)

    def receive(self, data: bytes | memoryview) -> None:
        """Parse the payload of one frame, which may split messages anywhere.

        Raises:
            StreamLost: a message is compressed, which was never offered.
        """
        start, end = 0, len(data)
        while start < end:
            if self.missing:
                part = data[start : start + self.missing]
                self.missing -= len(part)
                self._partial.write(part)
                if not self.missing:
                    self._complete()
            elif self._skipping:
                part = data[start : start + self._skipping]
                self._skipping -= len(part)
            else:
                part = data[start : start + _MESSAGE.size - len(self._prefix)]
                self._prefix += part
                if len(self._prefix) == _MESSAGE.size:
                    self._begin()
            start += len(part)

    def receive_whole(self, buffer: bytes, start: int, expected: bytes) -> int:
        """Parse the frames that are one whole message each; return where they end.

        Args:
            buffer: the bytes that arrived.
            start: where a frame begins, and with it a message.
            expected: the flags and the stream id that each frame must have.
        """
        limit = min(self.max_message_size, MAX_FRAME_SIZE - _MESSAGE.size)
        messages, end = _take(buffer, start, expected + b"\0", limit)
        self.messages += messages
        self.consumed += end - start - _FRAME.size * len(messages)
        return end

    def receive_rest(self, buffer: bytes, start: int, expected: bytes) -> int:
        """Parse the frames that only continue the unfinished message.

        The arguments and the result are those of `receive_whole()`.
        """
        unpack_from, write = _FRAME.unpack_from, self._partial.write
        missing = self.missing
        payload, end = start + _FRAME.size, len(buffer)
        with memoryview(buffer) as view:
            while payload <= end:
                word, other = unpack_from(buffer, start)
                length = word >> 8
                after = payload + length
                if (
                    other != expected
                    or word & 0xFF != _DATA
                    or length > min(missing, MAX_FRAME_SIZE)
                    or after > end
                ):
                    break
                write(view[payload:after])
                missing -= length
                start, payload = after, after + _FRAME.size
        self.consumed += self.missing - missing
        self.missing = missing
        if not missing:
            self._complete()
        return start

    def _begin(self) -> None:
        compressed, size = _MESSAGE.unpack(self._prefix)
        if compressed:
            raise StreamLost("a compressed message came, which was never offered")
        self._prefix = b""
        self.missing = size
        if size > self.max_message_size:
            # Its first bytes are kept, to identify it.
            self._oversized = size
            self.missing = min(size, _HEAD_SIZE)
        if not self.missing:
            self._complete()

    def _complete(self) -> None:
        message = self._partial.getvalue()
        self._partial = BytesIO()
        if self._oversized:
            self._skipping = self._oversized - len(message)
            self.messages.append(Oversized(self._oversized, message))
            self._oversized = 0
        else:
            self.messages.append(message)


def take_messages(
    buffer: bytes, start: int, expected: bytes, limit: int
) -> tuple[list[bytes], int]:
    """Parse the frames from `start` on that are one whole message of one stream each.

    Args:
        buffer: the bytes that arrived.
        start: where a frame begins.
        expected: the flags, stream id and compressed flag that each frame must have.
        limit: the largest message, in bytes.

    Returns:
        The messages, and where the last of these frames ends.
    """
    unpack_from, head = _FRAME_AND_MESSAGE.unpack_from, _FRAME_AND_MESSAGE.size
    end = len(buffer)
    messages = []
    while start + head <= end:
        word, other, size = unpack_from(buffer, start)
        after = start + head + size
        if (
            other != expected
            or word != (size + _MESSAGE.size) << 8 | _DATA
            or size > limit
            or after > end
        ):
            break
        messages.append(buffer[start + head : after])
        start = after
    return messages, start


_take = take_messages if speedups is None else speedups.take_messages
