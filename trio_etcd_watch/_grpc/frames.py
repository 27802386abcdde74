"""The DATA path: from bytes of the connection to whole gRPC messages.

Sans-IO. Events arrive in DATA frames, thousands a second, and h2 spends some 30 us
on each. So DATA of an open stream is taken straight from the receive buffer here,
with flow control of our own; h2 learns neither of those bytes nor of our
WINDOW_UPDATEs, and its own accounts stay consistent. Every other frame is given out
whole, in its place, for h2. The section numbers are those of RFC 9113.

Messages end up in `Inbound.messages`, one list per stream, to be taken as a batch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .status import StreamLost

MAX_FRAME_SIZE = 16_384
"""Of frames that we accept, in bytes: HTTP/2's initial value, which gRPC servers use.
A larger one would let the first bytes of an HTTP/1 answer pass for a frame to wait
for ("HTTP" read as a length is 4.7 million)."""

STREAM_WINDOW = 4 * 2**20
CONNECTION_WINDOW = 16 * 2**20
"""Flow control, in bytes. What comes is parsed at once, so the windows bound only
what is on the way: they have to cover bandwidth times round trip."""

MAX_HEADER_BLOCK = 65_536
"""Of HEADERS and its CONTINUATIONs, in bytes, their frames included. hpack pays the
square of a number's length: for the 1 MiB that h2 would join, a minute."""

_DATA, _HEADERS, _SETTINGS, _PUSH_PROMISE = 0, 1, 4, 5
_WINDOW_UPDATE, _CONTINUATION = 8, 9
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_STREAM_ID = 0x7FFF_FFFF
"""Without the reserved bit, which is to be ignored (4.1)."""

_FRAME = struct.Struct(">LBL")
"""Length (24 bits) and type in one word, flags, stream id (4.1)."""
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
        consumed: flow-controlled bytes since the last WINDOW_UPDATE.
        returned: those that WINDOW_UPDATEs have given back.
        whole: whether the last message ended with the last frame.
    """

    __slots__ = (
        "_buffer",
        "_needed",
        "_skipping",
        "consumed",
        "max_message_size",
        "messages",
        "returned",
        "whole",
    )

    def __init__(self, max_message_size: int) -> None:
        self.max_message_size = max_message_size
        self.messages: list[bytes | Oversized] = []
        self.consumed = 0
        self.returned = 0
        self.whole = True
        self._buffer = bytearray()
        self._needed = _MESSAGE.size
        self._skipping = 0

    @property
    def received(self) -> int:
        """Flow-controlled bytes in all."""
        return self.returned + self.consumed

    def receive(self, data: bytes) -> None:
        """Take the payload of one frame, cut and joined at any place.

        Raises:
            StreamLost: a message is compressed, which was never offered.
        """
        if self._skipping:
            skipped = min(self._skipping, len(data))
            self._skipping -= skipped
            data = data[skipped:]
        buffer = self._buffer
        buffer += data
        # Not looked at again before it can be complete: a large message in small
        # frames would cost its square.
        if len(buffer) >= self._needed:
            self._cut()
        self.whole = not buffer and not self._skipping

    def _cut(self) -> None:
        buffer = self._buffer
        start = 0
        while True:
            self._needed = _MESSAGE.size
            if len(buffer) - start < self._needed:
                break
            compressed, size = _MESSAGE.unpack_from(buffer, start)
            if compressed:
                raise StreamLost("a compressed message came, which was never offered")
            if size > self.max_message_size:
                # Its first bytes are needed, to tell whose it is.
                self._needed += min(size, _HEAD_SIZE)
                if len(buffer) - start < self._needed:
                    break
                head = bytes(buffer[start + _MESSAGE.size : start + self._needed])
                self.messages.append(Oversized(size, head))
                end = start + _MESSAGE.size + size
                self._skipping = max(0, end - len(buffer))
                start = min(end, len(buffer))
                continue
            self._needed += size
            end = start + self._needed
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                self.messages.append(bytes(view[start + _MESSAGE.size : end]))
            start = end
        del buffer[:start]


class FrameReader:
    """Splits what a server sends into messages and frames for h2.

    Attributes:
        started: whether the server has begun to speak HTTP/2.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._streams: dict[int, Inbound] = {}
        # The same, by what stands in a frame with a message, and nothing special.
        self._plain: dict[bytes, Inbound] = {}
        self._consumed = 0
        self.started = False
        # Bytes of an unfinished header block.
        self._header_block = 0

    def open(self, stream_id: int, inbound: Inbound) -> None:
        """Take the DATA of this stream from now on; its response has begun."""
        self._streams[stream_id] = inbound
        self._plain[_whose(stream_id)] = inbound

    def close(self, stream_id: int) -> None:
        """Leave what still comes for this stream to h2, which drops it."""
        self._streams.pop(stream_id, None)
        self._plain.pop(_whose(stream_id), None)

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Take bytes; yield each frame that is for h2, before what follows it.

        The iterator must be run to its end.

        Raises:
            StreamLost: the connection is broken, and no later byte of it is good.
        """
        buffer = self._rest + data if self._rest else data
        if not self.started:
            self._check_first(buffer)
        end = len(buffer)
        start = self._take_messages(buffer, 0)
        while start + _FRAME.size <= end:
            word, flags, stream_id = _FRAME.unpack_from(buffer, start)
            length = word >> 8
            after = start + _FRAME.size + length
            if length > MAX_FRAME_SIZE:
                raise StreamLost(f"a frame of {length} bytes is over {MAX_FRAME_SIZE}")
            if after > end:
                break
            kind = word & 0xFF
            inbound = None if kind else self._streams.get(stream_id & _STREAM_ID)
            if inbound is None or self._header_block:
                self._note_headers(kind, flags, after - start)
                yield buffer[start:after]
            else:
                self._consumed += length
                inbound.consumed += length
                payload = buffer[start + _FRAME.size : after]
                inbound.receive(_unpad(payload) if flags & _PADDED else payload)
                if flags & _END_STREAM:
                    # h2 has to know that the stream is over.
                    yield _FRAME.pack(_DATA, _END_STREAM, stream_id)
            start = self._take_messages(buffer, after)
        self._rest = buffer[start:]

    def _take_messages(self, buffer: bytes, start: int) -> int:
        """Take the frames from here on that are one message each; return their end.

        Nearly all frames are, and are cheap here. `receive()` would do the same with
        them, one by one.
        """
        unpack_from, head = _FRAME_AND_MESSAGE.unpack_from, _FRAME_AND_MESSAGE.size
        end = len(buffer)
        if self._header_block or start + head > end:
            return start
        _, whose, _ = unpack_from(buffer, start)
        inbound = self._plain.get(whose)
        if inbound is None or not inbound.whole:
            return start
        messages: list[bytes | Oversized] = []
        limit = min(inbound.max_message_size, MAX_FRAME_SIZE - _MESSAGE.size)
        begin = start
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
        inbound.messages += messages
        consumed = start - begin - _FRAME.size * len(messages)
        self._consumed += consumed
        inbound.consumed += consumed
        return start

    def window_updates(self) -> bytes:
        """Return the frames that give back what was consumed, in large steps.

        Raises:
            StreamLost: the server has sent more than its window (6.9.1).
        """
        if self._consumed > CONNECTION_WINDOW:
            raise StreamLost("flow control: more DATA than the connection's window")
        frames = b""
        if self._consumed >= CONNECTION_WINDOW // 2:
            frames += _window_update(0, self._consumed)
            self._consumed = 0
        for stream_id, inbound in self._streams.items():
            if inbound.consumed > STREAM_WINDOW:
                raise StreamLost("flow control: more DATA than the stream's window")
            if inbound.consumed >= STREAM_WINDOW // 2:
                frames += _window_update(stream_id, inbound.consumed)
                inbound.returned += inbound.consumed
                inbound.consumed = 0
        return frames

    def _check_first(self, buffer: bytes) -> None:
        # 3.4: the server's first frame is its SETTINGS. The type comes fourth: a TLS
        # alert is shorter than the header of a frame.
        if buffer[3:4] not in (b"", bytes([_SETTINGS])) or (
            len(buffer) > 4 and buffer[4] & _ACK
        ):
            raise StreamLost(f"the server does not speak HTTP/2{_instead(buffer)}")
        self.started = len(buffer) >= _FRAME.size

    def _note_headers(self, kind: int, flags: int, size: int) -> None:
        # Between HEADERS and its last CONTINUATION nothing else may come (6.10): h2
        # has to see, and refuse, a DATA frame there.
        if kind in (_HEADERS, _PUSH_PROMISE, _CONTINUATION):
            self._header_block += size
            if self._header_block > MAX_HEADER_BLOCK:
                raise StreamLost(f"a header block is over {MAX_HEADER_BLOCK} bytes")
            if flags & _END_HEADERS:
                self._header_block = 0


def _instead(first: bytes) -> str:
    """Say what a server speaks that does not speak HTTP/2, and what to do."""
    if first.startswith(b"HTTP"):
        return ": it answers in HTTP/1; is this etcd's client port?"
    if first.startswith(b"\x15\x03"):  # an alert (RFC 8446, 5.1)
        return ": it expects TLS"
    return "; is this etcd's client port?"


def _whose(stream_id: int) -> bytes:
    """No flags, the stream, no compression."""
    return struct.pack(">BLB", 0, stream_id, 0)


def _unpad(payload: bytes) -> bytes:
    # 6.1: one byte that says how much padding ends the frame.
    if not payload or payload[0] >= len(payload):
        raise StreamLost("a DATA frame has more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def _window_update(stream_id: int, increment: int) -> bytes:
    return _FRAME.pack(4 << 8 | _WINDOW_UPDATE, 0, stream_id) + increment.to_bytes(4)
