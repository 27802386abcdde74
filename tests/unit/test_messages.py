"""Messages from the DATA of one stream, however it is split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.peer import data_frame, grpc_message, pieces, raw_frame
from trio_etcd_watch._grpc.messages import MAX_FRAME_SIZE, Inbound, Oversized
from trio_etcd_watch._grpc.status import StreamLost

WHOSE = bytes([0, 0, 0, 0, 1])
"""The beginning of frames on stream 1 without flags."""


def received(inbound: Inbound, data: bytes, size: int) -> list[bytes | Oversized]:
    for piece in pieces(data, size):
        inbound.receive(piece)
    return inbound.messages


@given(
    sizes=st.lists(st.integers(0, 400), max_size=8),
    limit=st.integers(1, 300),
    cut=st.integers(1, 500),
)
@example(sizes=[300, 301, 302], limit=301, cut=69)
def test_oversized_messages_are_skipped(sizes: list[int], limit: int, cut: int) -> None:
    payloads = [bytes(i % 256 for i in range(k, k + s)) for k, s in enumerate(sizes)]
    inbound = Inbound(limit)
    messages = received(inbound, b"".join(map(grpc_message, payloads)), cut)
    expected = [p if len(p) <= limit else Oversized(len(p), p[:64]) for p in payloads]
    assert messages == expected
    assert inbound.whole


def test_oversized_message_is_not_kept() -> None:
    inbound = Inbound(1000)
    inbound.receive(grpc_message(bytes(2**20))[: 2**19])
    assert inbound.messages == [Oversized(2**20, bytes(64))]
    assert inbound._partial.getvalue() == b""


def test_largest_message_size_of_the_prefix() -> None:
    inbound = Inbound(1000)
    inbound.receive(b"\0\xff\xff\xff\xff" + bytes(100))
    assert inbound.messages == [Oversized(2**32 - 1, bytes(64))]


@pytest.mark.parametrize("flag", [1, 2, 255])
@pytest.mark.parametrize("cut", [1, 5, 100])
def test_compressed_message(flag: int, cut: int) -> None:
    inbound = Inbound(1000)
    with pytest.raises(StreamLost, match="compressed"):
        received(inbound, grpc_message(b"x" * 10, compressed=flag), cut)
    assert inbound.messages == []


# Frames that are a message


def test_frames_that_are_one_whole_message_each_are_taken_at_once() -> None:
    inbound = Inbound(100)
    frames = [data_frame(1, grpc_message(text)) for text in (b"one", b"", b"two")]
    part = data_frame(1, grpc_message(b"three")[:-1])
    buffer = b"before" + b"".join(frames) + part
    end = inbound.receive_whole(buffer, len(b"before"), WHOSE)
    assert buffer[end:] == part
    assert inbound.messages == [b"one", b"", b"two"]
    # The prefixes of messages are flow-controlled, and the headers of frames are not.
    assert inbound.consumed == len(b"onetwo") + 3 * len(grpc_message(b""))


@pytest.mark.parametrize("message", [b"", b"message"])
def test_a_whole_message_that_nothing_follows_is_taken_at_once(message: bytes) -> None:
    inbound = Inbound(100)
    frame = data_frame(1, grpc_message(message))
    assert inbound.receive_whole(frame, 0, WHOSE) == len(frame)
    assert inbound.messages == [message]


@pytest.mark.parametrize(
    "other",
    [
        data_frame(3, grpc_message(b"of another stream")),
        data_frame(1, grpc_message(b"padded"), pad=2),
        data_frame(1, grpc_message(b"the end"), end=True),
        data_frame(1, grpc_message(b"compressed", compressed=1)),
        raw_frame(9, 0, 1, grpc_message(b"of another kind")),
        data_frame(1, grpc_message(bytes(101))),
        data_frame(1, grpc_message(b"two") * 2),
        data_frame(1, grpc_message(b"begun")[:-1]) + b"next",
        data_frame(1, grpc_message(b"cut"))[:-1],
        data_frame(1, grpc_message(b""))[:-1],
    ],
    ids=[
        *("stream", "padded", "end", "compressed", "kind", "limit"),
        *("two", "begun", "cut", "cut prefix"),
    ],
)
def test_a_frame_that_is_no_whole_message_is_left(other: bytes) -> None:
    inbound = Inbound(100)
    before = data_frame(1, grpc_message(bytes(100)))
    assert inbound.receive_whole(before + other, 0, WHOSE) == len(before)
    assert inbound.messages == [bytes(100)]
    assert inbound.consumed == len(grpc_message(bytes(100)))


# Frames that continue a message


def begun(message: bytes, first: int) -> Inbound:
    """Return an Inbound that has received the first bytes of a message."""
    inbound = Inbound(2**20)
    inbound.receive(grpc_message(message)[: 5 + first])
    return inbound


def test_a_message_that_is_not_there_yet() -> None:
    assert Inbound(100).whole
    assert not begun(b"message", 3).whole


def test_a_message_over_the_limit_whose_rest_is_not_there_yet() -> None:
    inbound = Inbound(100)
    data = grpc_message(bytes(200))
    inbound.receive(data[:-1])
    assert inbound.messages == [Oversized(200, bytes(64))]
    assert not inbound.whole
    inbound.receive(data[-1:])
    assert inbound.whole


def test_what_has_come_was_given_back_or_will_be() -> None:
    inbound = begun(b"message", 3)
    assert inbound.received == 0
    inbound.receive_rest(data_frame(1, b"sa"), 0, WHOSE)
    assert (inbound.returned, inbound.consumed, inbound.received) == (0, 2, 2)
    inbound.returned, inbound.consumed = 2, 1
    assert inbound.received == 3


@given(
    message=st.binary(min_size=1, max_size=400),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    read=st.integers(1, 300),
)
def test_the_rest_of_a_message_in_frames(
    message: bytes, cuts: list[int], read: int
) -> None:
    edges = [0, *sorted(min(cut, len(message)) for cut in cuts), len(message)]
    parts = [message[a:b] for a, b in itertools.pairwise(edges)]
    frames = b"".join(data_frame(1, part) for part in parts)
    inbound, rest = begun(message, 0), b""
    for piece in pieces(frames, read):
        buffer = rest + piece
        end = inbound.receive_rest(buffer, 0, WHOSE) if inbound.missing else 0
        rest = buffer[end:]
        assert inbound.missing + inbound.consumed == len(message)
    assert inbound.messages == [message]
    # Empty frames after the last data.
    assert rest.strip(b"\0\1") == b""


@pytest.mark.parametrize(
    "other",
    [
        data_frame(3, b"of another stream"),
        data_frame(1, b"padded", pad=2),
        data_frame(1, b"the end", end=True),
        raw_frame(9, 0, 1, b"of another kind"),
        data_frame(1, b"x" * 31),
        raw_frame(0, 0, 1, bytes(MAX_FRAME_SIZE + 1)),
        data_frame(1, b"cut")[:-1],
        data_frame(1, b"cut")[:8],
    ],
    ids=["stream", "flags", "end", "kind", "more", "size", "cut", "cut header"],
)
def test_a_frame_that_has_something_else_is_left(other: bytes) -> None:
    size = 40 if len(other) < MAX_FRAME_SIZE else 2 * MAX_FRAME_SIZE
    inbound = begun(bytes(size), 0)
    before = data_frame(1, bytes(10))
    assert inbound.receive_rest(before + other, 0, WHOSE) == len(before)
    assert (inbound.missing, inbound.consumed) == (size - 10, 10)
    assert inbound.messages == []


def test_a_frame_without_data_is_taken_where_it_is_the_last() -> None:
    inbound = begun(b"message", 3)
    frames = data_frame(1, b"sa") + data_frame(1, b"")
    assert inbound.receive_rest(frames, 0, WHOSE) == len(frames)


def test_what_follows_the_rest_is_left() -> None:
    inbound = begun(b"message", 3)
    frames = data_frame(1, b"sage"), data_frame(1, grpc_message(b"next"))
    assert inbound.receive_rest(b"".join(frames), 0, WHOSE) == len(frames[0])
    assert inbound.messages == [b"message"]
    assert inbound.whole
