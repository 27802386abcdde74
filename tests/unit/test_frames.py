"""The DATA path, compared with h2 and with the RFC."""

from __future__ import annotations

import itertools

import h2.connection
import h2.events
import h2.settings
import hpack
import pytest
from hyperframe import frame as wire
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.peer import (
    GRPC,
    MAX_FRAME_SIZE,
    OK,
    SETTINGS,
    data_frame,
    encoded,
    grpc_message,
    header_frames,
    pieces,
    raw_frame,
)
from trio_etcd_watch._grpc.frames import (
    CONNECTION_WINDOW,
    STREAM_WINDOW,
    FrameReader,
)
from trio_etcd_watch._grpc.messages import Inbound, Oversized
from trio_etcd_watch._grpc.status import StreamLost

MAX_MESSAGE = 100_000
Messages = dict[int, list[bytes | Oversized]]


def client(streams: int) -> h2.connection.H2Connection:
    """Return h2's client with this many requests sent, on streams 1, 3, 5, …"""
    connection = h2.connection.H2Connection()
    connection.local_settings = h2.settings.Settings(
        client=True,
        initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**30},
    )
    connection.initiate_connection()
    connection.increment_flow_control_window(2**30)
    for _ in range(streams):
        stream_id = connection.get_next_available_stream_id()
        connection.send_headers(
            stream_id,
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", "a"),
                (":path", "/service/method"),
            ],
        )
    return connection


def plain(reads: list[bytes], streams: int) -> Messages:
    """Return the oracle: the messages that h2 alone gets from these bytes."""
    connection = client(streams)
    data: dict[int, bytes] = {1 + 2 * i: b"" for i in range(streams)}
    for read in reads:
        for event in connection.receive_data(read):
            if isinstance(event, h2.events.DataReceived):
                data[event.stream_id] += event.data
    messages: Messages = {}
    for stream_id, rest in data.items():
        messages[stream_id] = []
        while len(rest) >= 5 and len(rest) >= 5 + int.from_bytes(rest[1:5]):
            end = 5 + int.from_bytes(rest[1:5])
            messages[stream_id].append(rest[5:end])
            rest = rest[end:]
    return messages


def fast(reads: list[bytes], streams: int) -> tuple[Messages, list[bytes]]:
    """Return the messages of `FrameReader`, and the frames that it passes to h2."""
    connection = client(streams)
    frames = FrameReader()
    inbounds = {1 + 2 * i: Inbound(MAX_MESSAGE) for i in range(streams)}
    for_h2 = []
    for read in reads:
        for frame in frames.receive(read):
            for_h2.append(frame)
            for event in connection.receive_data(frame):
                match event:
                    case h2.events.ResponseReceived():
                        frames.open(event.stream_id, inbounds[event.stream_id])
                    case h2.events.StreamEnded():
                        frames.close(event.stream_id)
    return {id_: inbound.messages for id_, inbound in inbounds.items()}, for_h2


# Sizes near the size of a frame, and near zero.
SIZES = st.one_of(
    st.integers(0, 40),
    st.integers(MAX_FRAME_SIZE - 12, MAX_FRAME_SIZE + 12),
    st.integers(0, 40_000),
)
BETWEEN = st.sampled_from(
    [
        wire.PingFrame(0, b"12345678").serialize(),
        wire.SettingsFrame(0, {3: 100}).serialize(),
        wire.WindowUpdateFrame(0, 5).serialize(),
        raw_frame(0xFA, 0xFF, 1, b"unknown"),
        raw_frame(0xFB, 0x09, 0),
    ]
)


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, int]:
    """Draw the bytes of a server that answers some streams, and their number."""
    encoder = hpack.Encoder()
    waiting: dict[int, list[bytes | None]] = {}
    for i in range(draw(st.integers(1, 3))):
        payloads = [
            bytes([i, k]) * (size // 2) + b"." * (size % 2)
            for k, size in enumerate(draw(st.lists(SIZES, max_size=6)))
        ]
        data = b"".join(map(grpc_message, payloads))
        chunks: list[bytes | None] = []
        while data:
            size = draw(st.one_of(st.integers(0, 30), st.integers(0, MAX_FRAME_SIZE)))
            pad = draw(st.one_of(st.none(), st.integers(0, 255)))
            pad = pad if pad is None or size + pad + 1 <= MAX_FRAME_SIZE else None
            part, data = data[:size], data[size:]
            if len(chunks) > 40:
                part, data, pad = part + data[: MAX_FRAME_SIZE - size], b"", None
            chunks.append(data_frame(1 + 2 * i, part, pad=pad))
        waiting[1 + 2 * i] = [None, *chunks, None]
    total = len(waiting)
    parts = [SETTINGS]
    begun = set()
    while waiting:
        stream_id = draw(st.sampled_from(sorted(waiting)))
        chunk = waiting[stream_id].pop(0)
        size = draw(st.sampled_from([1, 7, MAX_FRAME_SIZE]))
        if chunk is not None:
            parts.append(chunk)
        elif stream_id not in begun:
            begun.add(stream_id)
            parts += header_frames(stream_id, encoder.encode(GRPC), size=size)
        elif draw(st.booleans()):
            del waiting[stream_id]
            block = encoder.encode(OK)
            parts += header_frames(stream_id, block, size=size, end=True)
        else:
            del waiting[stream_id]
            pad = draw(st.sampled_from([None, 0, 9]))
            last = grpc_message(b"the last") if draw(st.booleans()) else b""
            parts.append(data_frame(stream_id, last, pad=pad, end=True))
        if draw(st.integers(0, 4)) == 0:
            parts.append(draw(BETWEEN))
    return b"".join(parts), total


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Draw the data in pieces, split at random."""
    size = draw(st.sampled_from([0, 0, 1, 13, 4096, 65_536]))
    if size == 1:
        size = max(1, len(data) // 5000)
    if size:
        return pieces(data, size)
    places = draw(st.lists(st.integers(0, len(data)), max_size=20))
    edges = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@settings(max_examples=150)
@given(st.data())
def test_same_messages_as_h2(source: st.DataObject) -> None:
    data, streams = source.draw(responses())
    reads = source.draw(cuts(data))
    messages, for_h2 = fast(reads, streams)
    assert messages == plain(reads, streams)
    # Of DATA, h2 only gets the end of streams.
    passed_on = [frame for frame in for_h2 if frame[3] == 0]
    assert all(frame[:5] == b"\0\0\0\0\1" for frame in passed_on)


@pytest.mark.parametrize("size", [1, 2, 9, 10, 13, 14, 15, 100])
def test_reads_of_one_size(size: int) -> None:
    payloads = [b"", b"a", b"b" * 300, b"", b"c" * 5]
    data = b"".join(
        [
            SETTINGS,
            *header_frames(1, encoded(GRPC)),
            *(data_frame(1, grpc_message(payload)) for payload in payloads),
        ]
    )
    messages, _ = fast(pieces(data, size), 1)
    assert messages == {1: payloads}


def reader(limit: int = MAX_MESSAGE) -> tuple[FrameReader, Inbound]:
    """Return a reader that has received SETTINGS, and the messages of stream 1."""
    frames, inbound = FrameReader(), Inbound(limit)
    assert list(frames.receive(SETTINGS)) == [SETTINGS]
    frames.open(1, inbound)
    return frames, inbound


def test_limit_holds_in_a_frame_of_its_own() -> None:
    frames, inbound = reader(limit=10)
    data = b"".join(data_frame(1, grpc_message(bytes(n))) for n in (10, 11, 9))
    assert list(frames.receive(data)) == []
    assert inbound.messages == [bytes(10), Oversized(11, bytes(11)), bytes(9)]


def test_compressed_message_in_a_frame_of_its_own() -> None:
    frames, _ = reader()
    with pytest.raises(StreamLost, match="compressed"):
        list(frames.receive(data_frame(1, grpc_message(b"x", compressed=1))))


def test_data_of_other_streams_is_left_to_h2() -> None:
    frames, inbound = reader()
    ours, theirs = data_frame(1, grpc_message(b"a")), data_frame(3, grpc_message(b"b"))
    assert list(frames.receive(theirs + ours + theirs)) == [theirs, theirs]
    assert inbound.messages == [b"a"]


def test_data_of_a_closed_stream_is_left_to_h2() -> None:
    frames, inbound = reader()
    data = data_frame(1, grpc_message(b"a"))
    assert list(frames.receive(data)) == []
    frames.close(1)
    frames.close(1)
    assert list(frames.receive(data)) == [data]
    assert inbound.messages == [b"a"]


def test_stream_closed_between_two_frames_of_one_read() -> None:
    frames, inbound = reader()
    ping = wire.PingFrame(0, b"12345678").serialize()
    data = data_frame(1, grpc_message(b"a"))
    passed_on = []
    for frame in frames.receive(data + ping + data):
        passed_on.append(frame)
        frames.close(1)
    assert passed_on == [ping, data]
    assert inbound.messages == [b"a"]


def test_a_frame_that_looks_like_one_message_and_begins_within_a_prefix() -> None:
    # All but the first byte of a prefix, its message of eight bytes, and another: read
    # on their own, they would be a whole message of 0x800 bytes.
    one, two = bytes(8), bytes(0x805 - 12 - 5)
    rest = (grpc_message(one) + grpc_message(two))[1:]
    assert int.from_bytes(rest[1:5]) == len(rest) - 5
    frames, inbound = reader()
    assert list(frames.receive(data_frame(1, b"\0") + data_frame(1, rest))) == []
    assert inbound.messages == [one, two]


def test_end_stream_on_data() -> None:
    frames, inbound = reader()
    data = data_frame(1, grpc_message(b"a"), end=True)
    assert list(frames.receive(data)) == [data_frame(1, b"", end=True)]
    assert inbound.messages == [b"a"]


@pytest.mark.parametrize("pad", [0, 1, 255])
@pytest.mark.parametrize("end", [True, False])
def test_padding_is_no_part_of_a_message(pad: int, end: bool) -> None:
    frames, inbound = reader()
    # The prefix is split too, and resembles padding.
    parts = pieces(grpc_message(b"\0" * 40), 3)
    for part in parts[:-1]:
        assert list(frames.receive(data_frame(1, part, pad=pad))) == []
    list(frames.receive(data_frame(1, parts[-1], pad=pad, end=end)))
    assert inbound.messages == [b"\0" * 40]
    assert inbound.consumed == 45 + len(parts) * (pad + 1)


@pytest.mark.parametrize("payload", [b"", b"\1", b"\5abcd", b"\xffabc"])
def test_more_padding_than_payload(payload: bytes) -> None:
    frames, _ = reader()
    with pytest.raises(StreamLost, match="padding"):
        list(frames.receive(raw_frame(0, 0x8, 1, payload)))


@pytest.mark.parametrize("payload", [b"\0", b"\3abc", b"\0\0\0"])
def test_all_padding(payload: bytes) -> None:
    frames, inbound = reader()
    assert list(frames.receive(raw_frame(0, 0x8, 1, payload))) == []
    assert inbound.messages == []


@pytest.mark.parametrize("kind", [0, 1, 4, 0xFA])
def test_frame_over_the_maximum_is_refused_by_its_header(kind: int) -> None:
    frames, _ = reader()
    header = raw_frame(kind, 0, 1, bytes(MAX_FRAME_SIZE + 1))[:9]
    assert list(frames.receive(header[:8])) == []
    with pytest.raises(StreamLost, match="16385 bytes is over 16384"):
        list(frames.receive(header[8:]))


def test_frame_of_the_maximum() -> None:
    frames, inbound = reader()
    payload = bytes(MAX_FRAME_SIZE - 5)
    assert list(frames.receive(data_frame(1, grpc_message(payload)))) == []
    assert inbound.messages == [payload]


@pytest.mark.parametrize("kind", ["HEADERS", "CONTINUATION", "PUSH_PROMISE"])
def test_data_within_a_header_block_is_left_to_h2(kind: str) -> None:
    frames, inbound = reader()
    number = {"HEADERS": 1, "CONTINUATION": 9, "PUSH_PROMISE": 5}[kind]
    block = raw_frame(number, 0, 3, b"\0\0\0\2")
    data = data_frame(1, grpc_message(b"a"))
    assert list(frames.receive(block + data)) == [block, data]
    assert inbound.messages == []


def test_header_block_is_bounded() -> None:
    # hpack's time for an endless integer grows with the square of its length: a minute
    # for the 1 MiB that h2 would join.
    frames, _ = reader()
    first, *rest = header_frames(3, b"\x7f" + b"\xff" * 300_000)
    for frame in (first, *rest[:2]):
        assert list(frames.receive(frame)) == [frame]
    with pytest.raises(StreamLost, match="header block is over 65536 bytes"):
        list(frames.receive(rest[2]))


def test_header_blocks_are_bounded_one_by_one() -> None:
    frames, _ = reader()
    for _ in range(20):
        for frame in header_frames(3, bytes(30_000)):
            assert list(frames.receive(frame)) == [frame]


def test_reserved_bit_of_the_stream_id_is_ignored() -> None:
    frames, inbound = reader()
    data = raw_frame(0, 0, 0x8000_0001, grpc_message(b"a"))
    assert list(frames.receive(data)) == []
    assert inbound.messages == [b"a"]


# The first bytes of a connection


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",  # a TLS alert: unrecognized name
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"220 mail ESMTP\r\n",
        bytes(9),
        wire.PingFrame(0, b"12345678").serialize(),
        wire.GoAwayFrame(0, 0, 11).serialize(),
        wire.SettingsFrame(0, flags=["ACK"]).serialize(),
        data_frame(1, grpc_message(b"a")),
        b"\xff" * 9,
    ],
    ids=repr,
)
@pytest.mark.parametrize("cut", [1, 100])
def test_first_frame_is_not_settings(first: bytes, cut: int) -> None:
    frames = FrameReader()

    def receive() -> None:
        for piece in pieces(first, cut):
            assert list(frames.receive(piece)) == []

    with pytest.raises(StreamLost, match="does not speak HTTP/2"):
        receive()
    assert not frames.started


@pytest.mark.parametrize("cut", [1, 3, 4, 8, 9, 100])
def test_first_frame_is_settings(cut: int) -> None:
    frames = FrameReader()
    first = wire.SettingsFrame(0, {3: 100, 5: 16_384}).serialize()
    assert not frames.started
    passed_on = [
        frame for piece in pieces(first, cut) for frame in frames.receive(piece)
    ]
    assert passed_on == [first]
    assert frames.started


# Flow control

# Begins a message of 4 GiB, which is skipped, so it is cheap to receive many times.
FULL = b"\0" + b"\xff" * (MAX_FRAME_SIZE - 1)


def increments(frames: bytes) -> dict[int, int]:
    """Return the increments of windows in these frames, by stream."""
    opened = {}
    while frames:
        assert frames[:5] == b"\0\0\4\x08\0"
        stream_id = int.from_bytes(frames[5:9])
        assert stream_id not in opened
        opened[stream_id] = int.from_bytes(frames[9:13])
        frames = frames[13:]
    return opened


@settings(max_examples=30)
@given(st.data())
def test_windows_get_back_what_was_consumed(source: st.DataObject) -> None:
    frames, first = reader()
    second = Inbound(MAX_MESSAGE)
    frames.open(3, second)
    sent = {0: 0, 1: 0, 3: 0}
    given_back = {0: 0, 1: 0, 3: 0}
    steps: dict[int, list[int]] = {0: [], 1: [], 3: []}
    # The sizes are drawn, but not their number: 20 MB in all.
    kinds = [
        (source.draw(st.sampled_from([1, 3])), size, pad)
        for size, pad in source.draw(
            st.lists(
                st.tuples(
                    st.integers(9_000, MAX_FRAME_SIZE - 256 - 5),
                    st.none() | st.integers(0, 255),
                ),
                min_size=1,
                max_size=4,
            )
        )
    ]
    turns = 1400 // len(kinds)
    built = [
        (stream_id, data_frame(stream_id, grpc_message(bytes(size)), pad=pad))
        for stream_id, size, pad in kinds
    ]
    for _ in range(turns):
        for stream_id, frame in built:
            list(frames.receive(frame))
            sent[stream_id] += len(frame) - 9
            sent[0] += len(frame) - 9
        for stream_id, step in increments(frames.window_updates()).items():
            given_back[stream_id] += step
            steps[stream_id].append(step)
            # Everything, in one update.
            assert given_back[stream_id] == sent[stream_id]
        first.messages.clear()
        second.messages.clear()
    for stream_id, window in ((0, CONNECTION_WINDOW), (1, STREAM_WINDOW)):
        assert sent[stream_id] - given_back[stream_id] < window // 2
        assert all(step >= window // 2 for step in steps[stream_id])
    assert steps[0]


def test_bytes_of_a_closed_stream_open_the_connections_window() -> None:
    frames, _ = reader()
    share = CONNECTION_WINDOW // 16 // MAX_FRAME_SIZE
    for stream_id in range(1, 16, 2):
        assert frames.window_updates() == b""
        frames.open(stream_id, Inbound(MAX_MESSAGE))
        list(frames.receive(data_frame(stream_id, FULL) * share))
        frames.close(stream_id)
    assert increments(frames.window_updates()) == {0: CONNECTION_WINDOW // 2}


def test_more_data_than_the_streams_window() -> None:
    frames, _ = reader()
    frame = data_frame(1, FULL)
    list(frames.receive(frame * (STREAM_WINDOW // MAX_FRAME_SIZE)))
    list(frames.receive(data_frame(1, b"\0")))
    with pytest.raises(StreamLost, match="stream's window"):
        frames.window_updates()


def test_all_of_the_streams_window() -> None:
    frames, _ = reader()
    frame = data_frame(1, FULL)
    list(frames.receive(frame * (STREAM_WINDOW // MAX_FRAME_SIZE)))
    assert increments(frames.window_updates()) == {1: STREAM_WINDOW}


def test_more_data_than_the_connections_window() -> None:
    frames, _ = reader()
    streams = CONNECTION_WINDOW // STREAM_WINDOW
    for stream_id in range(1, 2 * streams + 3, 2):
        frames.open(stream_id, Inbound(MAX_MESSAGE))
        share = STREAM_WINDOW // MAX_FRAME_SIZE
        list(frames.receive(data_frame(stream_id, FULL) * share))
    with pytest.raises(StreamLost, match="connection's window"):
        frames.window_updates()


# What must not take quadratic time


def test_data_of_a_stream_that_we_closed_is_dropped() -> None:
    frames, inbound = FrameReader(), Inbound(MAX_MESSAGE)
    list(frames.receive(SETTINGS))
    for stream_id in (1, 3, 5):
        frames.expect(stream_id)
    frames.open(1, inbound)
    frames.close(1)
    # The stream is closed before its response has begun.
    frames.close(3)
    payload = grpc_message(bytes(10_000))
    late = [data_frame(1, payload), data_frame(3, payload, pad=7, end=True)]
    given_back = 0
    for _ in range(1000):
        assert list(frames.receive(b"".join(late))) == []
        updates = frames.window_updates()
        if updates:
            # Only the window of the connection is opened.
            assert updates[:9] == raw_frame(8, 0, 0, bytes(4))[:9]
            given_back += int.from_bytes(updates[9:])
    assert inbound.messages == []
    assert inbound.consumed == 0
    sent = 1000 * (2 * len(payload) + 8)
    assert sent - CONNECTION_WINDOW // 2 < given_back <= sent


@pytest.mark.parametrize("stream_id", [0, 2, 5, 7, 2**31 - 1])
def test_data_of_a_stream_that_is_not_closed_goes_to_h2(stream_id: int) -> None:
    frames = FrameReader()
    list(frames.receive(SETTINGS))
    for ours in (1, 3, 5):
        frames.expect(ours)
    frames.close(1)
    # Stream 5 has no response yet; the other streams do not exist.
    frame = data_frame(stream_id or 1, b"a")
    if not stream_id:
        frame = raw_frame(0, 0, 0, b"a")
    assert list(frames.receive(frame)) == [frame]


def test_data_of_a_closed_stream_within_a_header_block_goes_to_h2() -> None:
    frames = FrameReader()
    list(frames.receive(SETTINGS))
    frames.expect(1)
    frames.expect(3)
    frames.close(1)
    open_block = raw_frame(1, 0, 3, encoded(GRPC))
    late = data_frame(1, b"a")
    assert list(frames.receive(open_block + late)) == [open_block, late]
