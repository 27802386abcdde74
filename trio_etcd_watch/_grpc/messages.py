"""From the DATA of one stream to whole gRPC messages.

Sans-IO. Each message has a prefix, and begins and ends anywhere in the DATA. What servers
send is mostly one of two things, and both are cheap here: frames that are one message
each, and frames that go on with a large one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO

from trio_etcd_watch._twins import speedups

from .status import StreamLost

MAX_FRAME_SIZE = 16_384
"""Of frames that we accept, in bytes: HTTP/2's initial value, which gRPC servers use.
A larger one would let the first bytes of an HTTP/1 answer pass for a frame to wait
for ("HTTP" read as a length is 4.7 million)."""

_DATA = 0
_FRAME = struct.Struct(">L5s")
"""The header of a frame: length (24 bits) and type in one word; flags and stream id, to
be compared at once where nothing is special about it (RFC 9113, 4.1)."""
_MESSAGE = struct.Struct(">BL")
"""The prefix of a gRPC message: compressed flag, length."""
_FRAME_AND_MESSAGE = struct.Struct(">L6sL")
"""Both, as a frame that is one whole message has them: what says whose it is, and that
nothing is special about it (flags, stream id, compressed flag), is compared at once."""

_HEAD_SIZE = 64
"""What is kept of a message over the limit, in bytes: enough to tell whose it was."""


@dataclass(frozen=True, slots=True)
class Oversized:
    """A message over the limit: its size, and all that was kept of it."""

    size: int
    head: bytes


class Inbound:
    """The messages of one stream, cut from its DATA.

    Attributes:
        max_message_size: what is longer is skipped.
        messages: the whole ones; whoever takes them leaves a new list.
        missing: how many bytes of the message that comes are still to come.
        consumed: flow-controlled bytes since the last WINDOW_UPDATE.
        returned: those that WINDOW_UPDATEs have given back.
    """

    __slots__ = (
        "_come",
        "_oversized",
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
        # Of the message that comes: its prefix, until that is whole, and what has come.
        # BytesIO grows in place, and gives its bytes away without a copy.
        self._prefix = b""
        self._come = BytesIO()
        # The size of one over the limit, whose head comes, and then its rest.
        self._oversized = 0
        self._skipping = 0

    @property
    def received(self) -> int:
        """Flow-controlled bytes in all."""
        return self.returned + self.consumed

    @property
    def whole(self) -> bool:
        """Whether the last message ended with what came last."""
        return not (self.missing or self._skipping or self._prefix)

    def receive(self, data: bytes | memoryview) -> None:
        """Take the payload of one frame, cut and joined at any place.

        Raises:
            StreamLost: a message is compressed, which was never offered.
        """
        start, end = 0, len(data)
        while start < end:
            if self.missing:
                part = data[start : start + self.missing]
                self.missing -= len(part)
                self._come.write(part)
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

    def receive_whole(self, buffer: bytes, start: int, whose: bytes) -> int:
        """Take the frames that are one whole message each; return where they end.

        Args:
            buffer: what the server sent.
            start: where a frame begins, and with it a message.
            whose: the flags and the stream that each of them has to have.
        """
        limit = min(self.max_message_size, MAX_FRAME_SIZE - _MESSAGE.size)
        messages, end = _take(buffer, start, whose + b"\0", limit)
        self.messages += messages
        self.consumed += end - start - _FRAME.size * len(messages)
        return end

    def receive_rest(self, buffer: bytes, start: int, whose: bytes) -> int:
        """Take the frames that hold the rest of a message, and nothing else.

        The arguments, and what it returns, are those of `receive_whole()`.
        """
        unpack_from, write, missing = _FRAME.unpack_from, self._come.write, self.missing
        payload, end = start + _FRAME.size, len(buffer)
        with memoryview(buffer) as view:
            while payload <= end:
                word, other = unpack_from(buffer, start)
                length = word >> 8
                after = payload + length
                if (
                    other != whose
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
            # Its first bytes are needed, to tell whose it is.
            self._oversized = size
            self.missing = min(size, _HEAD_SIZE)
        if not self.missing:
            self._complete()

    def _complete(self) -> None:
        message = self._come.getvalue()
        self._come = BytesIO()
        if self._oversized:
            self._skipping = self._oversized - len(message)
            self.messages.append(Oversized(self._oversized, message))
            self._oversized = 0
        else:
            self.messages.append(message)


def take_messages(
    buffer: bytes, start: int, whose: bytes, limit: int
) -> tuple[list[bytes], int]:
    """Take the frames from `start` on that are one whole message of one stream each.

    Args:
        buffer: what a server sent.
        start: where a frame begins.
        whose: the flags, the stream and the compressed flag that each has to have.
        limit: of a message, in bytes.

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
            other != whose
            or word != (size + _MESSAGE.size) << 8 | _DATA
            or size > limit
            or after > end
        ):
            break
        messages.append(buffer[start + head : after])
        start = after
    return messages, start


_take = take_messages if speedups is None else speedups.take_messages
