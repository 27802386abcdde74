"""Splits received bytes into gRPC messages and the frames that h2 handles.

Sans-IO. Events arrive in thousands of DATA frames a second, and h2 spends about 30 us
on each. So the DATA of an open stream is read directly from the receive buffer here,
with separate flow control. h2 sees neither those bytes nor their WINDOW_UPDATEs, so its
own accounts stay consistent. Every other frame is yielded whole and in order, for h2.
The section numbers in this module are those of RFC 9113.

Messages are collected in `Inbound.messages`, one list per stream, as a batch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .messages import MAX_FRAME_SIZE, Inbound
from .status import StreamLost

STREAM_WINDOW = 4 * 2**20
CONNECTION_WINDOW = 16 * 2**20
"""The flow-control windows, in bytes. Received data is parsed at once, so the windows
bound only what is in transit: they have to cover bandwidth times round-trip time."""

MAX_HEADER_BLOCK = 65_536
"""The most bytes of HEADERS and its CONTINUATIONs, with their frame headers. hpack's
time is quadratic in the length of a number: a minute for the 1 MiB that h2
would join."""

_DATA, _HEADERS, _SETTINGS, _PUSH_PROMISE = 0, 1, 4, 5
_WINDOW_UPDATE, _CONTINUATION = 8, 9
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_STREAM_ID = 0x7FFF_FFFF
"""The mask of a stream id; the bit that it leaves out is reserved and ignored (4.1)."""

_FRAME = struct.Struct(">LBL")
"""The header of a frame: length (24 bits) and type in one word, flags, stream id
(4.1)."""


class FrameReader:
    """Splits the bytes of a server into messages and frames for h2.

    Attributes:
        started: whether the server has begun to speak HTTP/2.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._streams: dict[int, Inbound] = {}
        # The same, by the flags and stream id in the header of a plain frame.
        self._plain: dict[bytes, Inbound] = {}
        # Requests that are not closed, and the newest request of all.
        self._expected: set[int] = set()
        self._newest = 0
        self._consumed = 0
        self.started = False
        # How many bytes of an unfinished header block have arrived.
        self._header_block = 0

    def expect(self, stream_id: int) -> None:
        """Note that a request was sent; its response has not begun. Ids only grow."""
        self._expected.add(stream_id)
        self._newest = stream_id

    def open(self, stream_id: int, inbound: Inbound) -> None:
        """Parse the DATA of this stream from now on, as its response has begun."""
        self._streams[stream_id] = inbound
        self._plain[_plain_header(stream_id)] = inbound

    def close(self, stream_id: int) -> None:
        """Discard the DATA that still arrives for this stream.

        h2 would answer each frame with a RST_STREAM.
        """
        self._expected.discard(stream_id)
        self._streams.pop(stream_id, None)
        self._plain.pop(_plain_header(stream_id), None)

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Parse bytes; yield each frame for h2 before what follows it is parsed.

        The iterator must be exhausted.

        Raises:
            StreamLost: the connection is broken, and its later bytes cannot be used.
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
                # All streams share the connection's window, so it gets its bytes back.
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
                    # h2 has to know that the stream has ended.
                    yield _FRAME.pack(_DATA, _END_STREAM, stream_id)
            start = self._take_plain(buffer, after)
        self._rest = buffer[start:]

    def _is_closed(self, stream_id: int) -> bool:
        """Whether a request of ours had this id; h2 refuses ids that none ever had."""
        stream_id &= _STREAM_ID
        return (
            stream_id % 2 == 1
            and stream_id <= self._newest
            and stream_id not in self._expected
        )

    def _take_plain(self, buffer: bytes, start: int) -> int:
        """Parse the plain frames of one stream from here on; return where they end.

        A plain frame has no flags, and is one whole message or part of a large one.
        Nearly all frames are plain. `receive()` would parse them with the same result,
        one by one and slower.
        """
        expected = buffer[start + 4 : start + _FRAME.size]
        inbound = self._plain.get(expected)
        if inbound is None or self._header_block:
            return start
        consumed = inbound.consumed
        if inbound.missing:
            start = inbound.receive_rest(buffer, start, expected)
        if inbound.whole:
            start = inbound.receive_whole(buffer, start, expected)
        self._consumed += inbound.consumed - consumed
        return start

    @property
    def missing(self) -> int:
        """How many bytes an unfinished message lacks; the most of any stream."""
        return max((inbound.missing for inbound in self._streams.values()), default=0)

    def window_updates(self) -> bytes:
        """Return the WINDOW_UPDATE frames of windows that are at least half consumed.

        Raises:
            StreamLost: the server has sent more than a window allows (6.9.1).
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
        # The server's first frame is SETTINGS (3.4). Its type, the fourth byte, is
        # checked by itself, because a TLS alert is shorter than the header of a frame.
        if buffer[3:4] not in (b"", bytes([_SETTINGS])) or (
            len(buffer) > 4 and buffer[4] & _ACK
        ):
            raise StreamLost(f"the server does not speak HTTP/2{_instead(buffer)}")
        self.started = len(buffer) >= _FRAME.size

    def _note_headers(self, kind: int, flags: int, size: int) -> None:
        # No other frame may come between HEADERS and its last CONTINUATION (6.10), so
        # h2 has to see, and refuse, a DATA frame there.
        if kind in (_HEADERS, _PUSH_PROMISE, _CONTINUATION):
            self._header_block += size
            if self._header_block > MAX_HEADER_BLOCK:
                raise StreamLost(f"a header block is over {MAX_HEADER_BLOCK} bytes")
            if flags & _END_HEADERS:
                self._header_block = 0


def _instead(first: bytes) -> str:
    """Say what the server speaks instead of HTTP/2, and what to do."""
    if first.startswith(b"HTTP"):
        return ": it answers in HTTP/1; is this etcd's client port?"
    if first.startswith(b"\x15\x03"):  # an alert (RFC 8446, 5.1)
        return ": it expects TLS"
    return "; is this etcd's client port?"


def _plain_header(stream_id: int) -> bytes:
    """Return the flags and the stream id in the header of a plain DATA frame."""
    return struct.pack(">BL", 0, stream_id)


def _unpad(payload: memoryview) -> memoryview:
    # The first byte is the length of the padding at the end of the frame (6.1).
    if not payload or payload[0] >= len(payload):
        raise StreamLost("a DATA frame has more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def _window_update(stream_id: int, increment: int) -> bytes:
    return _FRAME.pack(4 << 8 | _WINDOW_UPDATE, 0, stream_id) + increment.to_bytes(4)
