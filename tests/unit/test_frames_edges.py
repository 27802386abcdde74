"""Where the limits of the DATA path are, and which frames are none of its business."""

from __future__ import annotations

import pytest
from hyperframe import frame as wire

from tests.support.peer import (
    GRPC,
    MAX_FRAME_SIZE,
    SETTINGS,
    data_frame,
    encoded,
    grpc_message,
    header_frames,
    pieces,
    raw_frame,
)
from trio_etcd_watch._grpc.frames import FrameReader
from trio_etcd_watch._grpc.messages import Inbound
from trio_etcd_watch._grpc.status import StreamLost

MAX_MESSAGE = 100_000
MIB = 2**20


def reader(*streams: int) -> tuple[FrameReader, dict[int, Inbound]]:
    """Return a reader that has received SETTINGS, and what its open streams get."""
    frames = FrameReader()
    assert list(frames.receive(SETTINGS)) == [SETTINGS]
    inbounds = {stream_id: Inbound(MAX_MESSAGE) for stream_id in streams}
    for stream_id, inbound in inbounds.items():
        frames.expect(stream_id)
        frames.open(stream_id, inbound)
    return frames, inbounds


def send(frames: FrameReader, stream_id: int, size: int) -> None:
    """Receive this many bytes of DATA: parts of messages of 4 GiB, which are skipped."""
    while size:
        part = min(size, MAX_FRAME_SIZE)
        payload = b"\0" + b"\xff" * (part - 1)
        assert list(frames.receive(data_frame(stream_id, payload))) == []
        size -= part


def update(stream_id: int, increment: int) -> bytes:
    return bytes(wire.WindowUpdateFrame(stream_id, increment).serialize())


# Windows: 4 MiB for a stream, 16 MiB for all together


def test_a_stream_may_use_all_of_its_window() -> None:
    frames, _ = reader(1)
    send(frames, 1, 4 * MIB)
    assert frames.window_updates() == update(1, 4 * MIB)


def test_a_stream_may_use_no_more_than_its_window() -> None:
    frames, _ = reader(1)
    send(frames, 1, 4 * MIB + 1)
    with pytest.raises(StreamLost, match="more DATA than the stream's window"):
        frames.window_updates()


def test_a_stream_gets_back_its_window_from_half_of_it_on() -> None:
    frames, inbounds = reader(1)
    for _ in range(3):
        send(frames, 1, 2 * MIB - 1)
        assert frames.window_updates() == b""
        send(frames, 1, 1)
        assert frames.window_updates() == update(1, 2 * MIB)
    assert inbounds[1].received == 6 * MIB


def test_all_streams_together_may_use_all_of_the_connections_window() -> None:
    frames, _ = reader(1, 3, 5, 7)
    for stream_id in (1, 3, 5, 7):
        send(frames, stream_id, 4 * MIB)
    assert frames.window_updates().startswith(update(0, 16 * MIB))


def test_all_streams_together_may_use_no_more_than_the_connections_window() -> None:
    frames, _ = reader(1, 3, 5, 7, 9)
    for stream_id in (1, 3, 5, 7):
        send(frames, stream_id, 4 * MIB)
    send(frames, 9, 1)
    with pytest.raises(StreamLost, match="more DATA than the connection's window"):
        frames.window_updates()


def test_the_connection_gets_back_its_window_from_half_of_it_on() -> None:
    frames, _ = reader(1, 3, 5, 7, 9)
    for stream_id in (1, 3, 5, 7):
        send(frames, stream_id, 2 * MIB - 1)
    send(frames, 9, 3)
    assert frames.window_updates() == b""
    send(frames, 9, 1)
    assert frames.window_updates() == update(0, 8 * MIB)


@pytest.mark.parametrize("size", [MAX_FRAME_SIZE - 5, 64 * MAX_FRAME_SIZE - 5])
def test_the_connection_gets_back_what_messages_have_used(size: int) -> None:
    frames, inbounds = reader(1, 3, 5, 7)
    for inbound in inbounds.values():
        inbound.max_message_size = size
    message = grpc_message(bytes(size))
    count = 2 * MIB // len(message)
    for stream_id in (1, 3, 5, 7):
        for part in pieces(message * count, MAX_FRAME_SIZE):
            list(frames.receive(data_frame(stream_id, part)))
        assert inbounds[stream_id].messages == [bytes(size)] * count
    of_streams = [update(stream_id, 2 * MIB) for stream_id in (1, 3, 5, 7)]
    assert frames.window_updates() == b"".join([update(0, 8 * MIB), *of_streams])


# Frames


@pytest.mark.parametrize("pad", [None, 0, 255])
@pytest.mark.parametrize("end", [False, True])
def test_data_of_the_largest_size_is_read(pad: int | None, end: bool) -> None:
    frames, inbounds = reader(1)
    padding = 0 if pad is None else pad + 1
    message = b"a" * (MAX_FRAME_SIZE - 5 - padding)
    data = data_frame(1, grpc_message(message), pad=pad, end=end)
    assert len(data) == 9 + MAX_FRAME_SIZE
    assert list(frames.receive(data)) == [data_frame(1, b"", end=True)] * end
    assert inbounds[1].messages == [message]
    assert inbounds[1].received == MAX_FRAME_SIZE


def test_other_frames_of_the_largest_size_go_to_h2() -> None:
    frames, _ = reader(1)
    frame = raw_frame(0xFA, 0, 1, bytes(MAX_FRAME_SIZE))
    assert list(frames.receive(frame)) == [frame]


@pytest.mark.parametrize("cut", [1, 8, 9, 10, 16])
def test_a_frame_goes_to_h2_once_it_is_whole(cut: int) -> None:
    frames, _ = reader(1)
    ping = wire.PingFrame(0, b"12345678").serialize()
    assert list(frames.receive(ping[:cut])) == []
    assert list(frames.receive(ping[cut:])) == [ping]


def test_a_header_block_of_the_largest_size_goes_to_h2() -> None:
    frames, _ = reader(1)
    frame_header, limit = 9, 65_536
    first = raw_frame(1, 0, 3, bytes(MAX_FRAME_SIZE))
    others = [raw_frame(9, 0, 3, bytes(MAX_FRAME_SIZE))] * 2
    rest = limit - 3 * (frame_header + MAX_FRAME_SIZE) - frame_header
    last = raw_frame(9, 4, 3, bytes(rest))
    block = [first, *others, last]
    assert sum(map(len, block)) == limit
    assert list(frames.receive(b"".join(block))) == block
    longer = [first, *others, raw_frame(9, 4, 3, bytes(rest + 1))]
    with pytest.raises(StreamLost, match="header block"):
        list(frames.receive(b"".join(longer)))


def test_the_end_of_a_stream_does_not_end_its_header_block() -> None:
    frames, inbounds = reader(1)
    first, *_ = header_frames(3, encoded(GRPC), end=True, size=1)
    data = data_frame(1, grpc_message(b"a"))
    assert list(frames.receive(first + data)) == [first, data]
    assert inbounds[1].messages == []


# Closed streams


@pytest.mark.parametrize("reserved", [0, 0x8000_0000])
@pytest.mark.parametrize("stream_id", [1, 3])
def test_data_of_a_closed_stream_is_dropped(stream_id: int, reserved: int) -> None:
    frames, _ = reader(1, 3)
    frames.close(stream_id)
    late = raw_frame(0, 0, stream_id | reserved, b"a")
    assert list(frames.receive(late)) == []


@pytest.mark.parametrize(
    "frame",
    [
        header_frames(1, encoded(GRPC))[0],
        wire.RstStreamFrame(1, 8).serialize(),
        wire.WindowUpdateFrame(1, 5).serialize(),
    ],
    ids=["HEADERS", "RST_STREAM", "WINDOW_UPDATE"],
)
def test_other_frames_of_a_closed_stream_go_to_h2(frame: bytes) -> None:
    # All header blocks of a connection share one state of compression.
    frames, _ = reader(1)
    frames.close(1)
    assert list(frames.receive(frame)) == [frame]


def test_data_before_any_request_goes_to_h2() -> None:
    frames, _ = reader()
    data = data_frame(1, b"a")
    assert list(frames.receive(data)) == [data]


# Plain frames, which no result tells from others: they are not parsed one by one


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the payloads that are parsed one by one."""
    payloads: list[bytes] = []
    parse = Inbound.receive

    def receive(inbound: Inbound, payload: bytes) -> None:
        payloads.append(payload)
        parse(inbound, payload)

    monkeypatch.setattr(Inbound, "receive", receive)
    return payloads


def test_frames_of_whole_messages_are_taken_at_once(one_by_one: list[bytes]) -> None:
    frames, inbounds = reader(1)
    assert list(frames.receive(data_frame(1, grpc_message(b"one")) * 3)) == []
    assert inbounds[1].messages == [b"one"] * 3
    assert one_by_one == []


def test_frames_of_a_large_message_are_taken_at_once(one_by_one: list[bytes]) -> None:
    frames, inbounds = reader(1)
    first, *others = pieces(grpc_message(bytes(50_000)), MAX_FRAME_SIZE)
    read = [data_frame(1, payload) for payload in (first, *others, grpc_message(b"x"))]
    assert list(frames.receive(b"".join(read))) == []
    assert inbounds[1].messages == [bytes(50_000), b"x"]
    assert one_by_one == [first]


# What a large read waits for


def test_what_unfinished_messages_lack_is_the_most_of_any_stream() -> None:
    assert FrameReader().missing == 0
    frames, inbounds = reader(1, 3, 5)
    assert frames.missing == 0
    whole = grpc_message(bytes(100))
    list(frames.receive(data_frame(1, whole[:-3]) + data_frame(3, whole[:-7])))
    assert frames.missing == 7
    list(frames.receive(data_frame(3, whole[-7:])))
    assert frames.missing == 3
    assert inbounds[3].messages == [bytes(100)]


# The first bytes of a connection


@pytest.mark.parametrize(
    ("first", "what"),
    [
        (b"HTTP/1.1 400", ": it answers in HTTP/1; is this etcd's client port?"),
        (b"HTTP", ": it answers in HTTP/1; is this etcd's client port?"),
        (b"\x15\x03\x01\x00\x02\x02\x46", ": it expects TLS"),
        (b"\x15\x03\x03\x00", ": it expects TLS"),
        (b"SSH-2.0", "; is this etcd's client port?"),
    ],
)
def test_what_a_server_of_another_kind_speaks(first: bytes, what: str) -> None:
    frames = FrameReader()
    with pytest.raises(StreamLost) as info:
        list(frames.receive(first))
    assert str(info.value) == f"the server does not speak HTTP/2{what}"


@pytest.mark.parametrize(
    ("frame", "wrong"),
    [
        (wire.PingFrame(0, b"12345678"), 4),
        (wire.SettingsFrame(0, flags=["ACK"]), 5),
    ],
)
def test_a_first_frame_is_refused_at_its_first_wrong_byte(
    frame: wire.Frame, wrong: int
) -> None:
    # The server may send no more than that.
    data = frame.serialize()
    frames = FrameReader()
    assert list(frames.receive(data[: wrong - 1])) == []
    with pytest.raises(StreamLost, match="does not speak HTTP/2"):
        list(frames.receive(data[wrong - 1 : wrong]))


def test_a_server_has_begun_once_the_header_of_its_first_frame_is_there() -> None:
    frames = FrameReader()
    first = wire.SettingsFrame(0, {3: 100}).serialize()
    list(frames.receive(first[:8]))
    assert not frames.started
    list(frames.receive(first[8:9]))
    assert frames.started
