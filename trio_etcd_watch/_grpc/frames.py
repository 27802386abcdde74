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

from .messages import MAX_FRAME_SIZE, Inbound
from .status import StreamLost

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


class FrameReader:
    """Splits what a server sends into messages and frames for h2.

    Attributes:
        started: whether the server has begun to speak HTTP/2.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._streams: dict[int, Inbound] = {}
        # The same, by what stands in a frame with nothing special about it.
        self._plain: dict[bytes, Inbound] = {}
        # Requests without a response so far, and the newest request of all.
        self._awaited: set[int] = set()
        self._newest = 0
        self._consumed = 0
        self.started = False
        # Bytes of an unfinished header block.
        self._header_block = 0

    def expect(self, stream_id: int) -> None:
        """Note a request of ours: ids only grow. Its response has yet to begin."""
        self._awaited.add(stream_id)
        self._newest = stream_id

    def open(self, stream_id: int, inbound: Inbound) -> None:
        """Take the DATA of this stream from now on; its response has begun."""
        self._awaited.discard(stream_id)
        self._streams[stream_id] = inbound
        self._plain[_whose(stream_id)] = inbound

    def close(self, stream_id: int) -> None:
        """Drop what still comes for this stream: we are done with it.

        h2 would answer each frame with a RST_STREAM.
        """
        self._awaited.discard(stream_id)
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
        end, view = len(buffer), memoryview(buffer)
        start = self._take_plain(buffer, 0)
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
            if kind == _DATA and not self._header_block and self._is_closed(stream_id):
                # The connection's window is shared: it gets its bytes back.
                self._consumed += length
            elif inbound is None or self._header_block:
                self._note_headers(kind, flags, after - start)
                yield buffer[start:after]
            else:
                self._consumed += length
                inbound.consumed += length
                payload = view[start + _FRAME.size : after]
                inbound.receive(_unpad(payload) if flags & _PADDED else payload)
                if flags & _END_STREAM:
                    # h2 has to know that the stream is over.
                    yield _FRAME.pack(_DATA, _END_STREAM, stream_id)
            start = self._take_plain(buffer, after)
        self._rest = buffer[start:]

    def _is_closed(self, stream_id: int) -> bool:
        """Whether it was a request of ours; an id that never was is h2's to refuse."""
        stream_id &= _STREAM_ID
        return (
            stream_id % 2 == 1
            and stream_id <= self._newest
            and stream_id not in self._streams
            and stream_id not in self._awaited
        )

    def _take_plain(self, buffer: bytes, start: int) -> int:
        """Take the frames from here on with nothing special about them.

        Nearly all have not, and are cheap here. `receive()` would do the same with
        them, one by one. Returns where they end.
        """
        whose = buffer[start + 4 : start + _FRAME.size]
        inbound = self._plain.get(whose)
        if inbound is None or self._header_block:
            return start
        consumed = inbound.consumed
        if inbound.missing:
            start = inbound.receive_rest(buffer, start, whose)
        if inbound.whole:
            start = inbound.receive_whole(buffer, start, whose)
        self._consumed += inbound.consumed - consumed
        return start

    @property
    def missing(self) -> int:
        """How many bytes of a message are still to come; the most of any stream."""
        return max((inbound.missing for inbound in self._streams.values()), default=0)

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
    """No flags, the stream."""
    return struct.pack(">BL", 0, stream_id)


def _unpad(payload: memoryview) -> memoryview:
    # 6.1: one byte that says how much padding ends the frame.
    if not payload or payload[0] >= len(payload):
        raise StreamLost("a DATA frame has more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def _window_update(stream_id: int, increment: int) -> bytes:
    return _FRAME.pack(4 << 8 | _WINDOW_UPDATE, 0, stream_id) + increment.to_bytes(4)
