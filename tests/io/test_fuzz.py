"""Whatever a server sends, the stream is resumed or ends with a clean error.

A valid session of frames is broken on purpose, or its bytes are random from the start.
It is split into reads at random.
"""

from __future__ import annotations

import itertools

import hpack
import pytest
import trio
from hyperframe import frame as wire
from hypothesis import event, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.support.connection import Caller
from tests.support.peer import (
    GRPC,
    SETTINGS,
    Peer,
    data_frame,
    encoded,
    grpc_message,
    header_frames,
    pieces,
    raw_frame,
    serve_tcp,
    serve_watches,
    watch_response,
)
from trio_etcd_watch import Channel, WatchError, open_watcher
from trio_etcd_watch._grpc.connection import MAX_UNSENT, Connection
from trio_etcd_watch._grpc.frames import MAX_HEADER_BLOCK
from trio_etcd_watch._grpc.messages import MAX_FRAME_SIZE
from trio_etcd_watch._grpc.reading import MAX_RECEIVE_SIZE
from trio_etcd_watch._grpc.status import Status, StreamLost
from trio_etcd_watch._pb import watch_pb2 as pb

MAX_MESSAGE_SIZE = 2000


def session(streams: list[int], cut: int, pad: int | None) -> list[bytes]:
    """Return the valid frames of a server that answers Watch on these streams."""
    encoder = hpack.Encoder()
    messages = [
        watch_response(0, revision=4, created=True),
        watch_response(0, revision=6, events=[(b"k", 5), (b"k", 6)], fragment=True),
        watch_response(0, revision=6, events=[(b"k2", 6)], value=b"v" * 60),
        watch_response(-1, revision=7),
        watch_response(0, revision=8, events=[(b"k", 8)], value=b"v" * 3000),
        watch_response(0, revision=9),
    ]
    data = b"".join(map(grpc_message, messages))
    frames = [
        SETTINGS,
        wire.SettingsFrame(0, flags=["ACK"]).serialize(),
        wire.WindowUpdateFrame(0, 70_000).serialize(),
    ]
    for stream_id in streams:
        headers = encoder.encode([*GRPC, ("grpc-accept-encoding", "identity")])
        frames += header_frames(stream_id, headers, size=20)
    for piece in pieces(data, cut):
        frames += [data_frame(stream_id, piece, pad=pad) for stream_id in streams]
    frames += [
        wire.PingFrame(0, b"12345678").serialize(),
        wire.SettingsFrame(0, {3: 100, 4: 1000, 5: 20_000}).serialize(),
        raw_frame(0xFA, 0xFF, 1, b"unknown"),
    ]
    for stream_id in streams:
        trailers = encoder.encode([("grpc-status", "14"), ("grpc-message", "etcd%20")])
        frames += header_frames(stream_id, trailers, size=20, end=True)
    return frames


STREAM_IDS = st.sampled_from([0, 1, 2, 3, 5, 2**31 + 1])
FRAMES = st.builds(
    raw_frame,
    st.integers(0, 12),
    st.sampled_from([0, 0x1, 0x4, 0x5, 0x8, 0x20, 0x2D, 0xFF]),
    STREAM_IDS,
    st.binary(max_size=20),
)
HEADER_NAMES = ["grpc-status", "grpc-message", "", "x", "A", ":status"]
HEADER_VALUES: list[str | bytes] = ["0", "", "%ff", b"\xff", "9" * 5000]
HEADER_BLOCKS = st.lists(
    st.tuples(st.sampled_from(HEADER_NAMES), st.sampled_from(HEADER_VALUES)), max_size=2
).map(lambda headers: encoded([*GRPC, *headers]) if headers else b"")
HEADERS = st.builds(
    lambda stream_id, block, end: b"".join(header_frames(stream_id, block, end=end)),
    st.sampled_from([1, 3]),
    HEADER_BLOCKS | st.binary(max_size=20),
    st.booleans(),
)


@st.composite
def broken(draw: st.DrawFn, streams: list[int]) -> bytes:
    """Draw the bytes of a session with wrong frames or wrong bits."""
    cut = draw(st.sampled_from([30, 200, MAX_FRAME_SIZE]))
    frames = session(streams, cut, draw(st.sampled_from([None, 0, 7])))
    # Without it the connection does not become ready, which is a case of its own.
    keep = 0 if draw(st.integers(0, 9)) == 0 else 1
    places = st.integers(keep, len(frames) - 1)
    for _ in range(draw(st.integers(0, 5))):
        i, j = (draw(places) % len(frames) for _ in range(2))
        kinds = ["cut", "repeat", "move", "swap", "flip", "frame", "headers"]
        match draw(st.sampled_from(kinds)):
            case "cut":
                del frames[i : i + 2]
            case "repeat":
                frames[j:j] = [frames[i]] * draw(st.sampled_from([1, 2, 100]))
            case "move":
                frames.insert(j, frames.pop(i))
            case "swap":
                frames[i], frames[j] = frames[j], frames[i]
            case "flip":
                frame = bytearray(frames[i])
                place = draw(st.integers(0, max(0, len(frame) - 1)))
                frame[place : place + 1] = bytes([draw(st.integers(0, 255))])
                frames[i] = bytes(frame)
            case "frame":
                frames.insert(i, draw(FRAMES))
            case "headers":
                # Before the valid ones, while no response has begun.
                frames.insert(min(i, 1), draw(HEADERS))
        frames = frames or [b""]
    data = b"".join(frames)
    if draw(st.booleans()):
        return data
    return data[: draw(st.integers(0, len(data)))]


def junk() -> st.SearchStrategy[bytes]:
    """Draw random bytes."""
    anything = st.binary(max_size=300)
    frames = st.lists(FRAMES | HEADERS, max_size=20).map(b"".join)
    return anything | st.builds(lambda data: SETTINGS + data, anything | frames)


@st.composite
def reads(draw: st.DrawFn, streams: list[int]) -> list[bytes]:
    """Draw the pieces to send, in order."""
    data = draw(broken(streams) | broken(streams) | junk())
    # First only SETTINGS, so that the client begins its calls before the rest comes.
    places = draw(st.lists(st.integers(0, len(data)), max_size=8))
    edges = [0, *sorted({9, *places} - {0}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


# (a) One connection, without time passing


async def play(pieces: list[bytes], *, close: bool) -> None:
    """Send this to a connection with two calls; all must have ended soon afterwards."""
    client, server = memory_stream_pair()
    connection = Connection(
        client,
        authority="etcd",
        scheme="http",
        max_message_size=MAX_MESSAGE_SIZE,
        keepalive_time=10.0,
        keepalive_timeout=5.0,
    )
    inbounds = []

    async def watch() -> None:
        try:
            await connection.wait_ready()
            call = Caller(connection)
            inbounds.append(call.call._inbound)
            await call.send([b"create"])
            while await call.receive():
                pass
            assert isinstance(call.status, Status)
        except StreamLost:
            return

    def check_bounds() -> None:
        http2 = connection._http2._h2
        unfinished = http2.incoming_buffer._headers_buffer
        # h2 4 renamed this attribute.
        held = vars(http2.incoming_buffer).get("_data") or vars(
            http2.incoming_buffer
        ).get("data")
        assert not held or connection.lost
        assert sum(len(frame.data) for frame in unfinished) <= MAX_HEADER_BLOCK
        assert len(connection._frames._rest) < MAX_FRAME_SIZE + 9
        assert len(connection._unsent) <= MAX_UNSENT + MAX_RECEIVE_SIZE
        for inbound in inbounds:
            assert inbound._partial.tell() <= MAX_MESSAGE_SIZE

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            async with trio.open_nursery() as calls:
                calls.start_soon(watch)
                calls.start_soon(watch)
                for piece in pieces:
                    await wait_all_tasks_blocked()
                    check_bounds()
                    if connection.lost:
                        break
                    await server.send_all(piece)
                await wait_all_tasks_blocked()
                check_bounds()
                if close:
                    await server.send_stream.aclose()
                elif not connection._frames.started:
                    # Channel(connect_timeout=...) is what detects this.
                    connection.close("not ready in time")
            nursery.cancel_scope.cancel(reason="all calls have ended")
    assert isinstance(connection.lost, StreamLost)
    assert not connection._calls
    # Shown by --hypothesis-show-statistics.
    event(str(connection.lost).split("(")[0])


@settings(max_examples=600)
@given(reads([1, 3]), st.booleans())
def test_connection(pieces: list[bytes], close: bool) -> None:
    trio.run(lambda: play(pieces, close=close), clock=MockClock(autojump_threshold=0))


def test_the_unbroken_session_is_understood() -> None:
    received: list[int] = []

    async def watch(connection: Connection) -> None:
        await connection.wait_ready()
        call = Caller(connection)
        while batch := await call.receive():
            received.append(len(batch))
        assert str(call.status) == "UNAVAILABLE: etcd "

    async def main() -> None:
        client, server = memory_stream_pair()
        connection = Connection(
            client,
            authority="etcd",
            scheme="http",
            max_message_size=MAX_MESSAGE_SIZE,
            keepalive_time=10.0,
            keepalive_timeout=5.0,
        )
        frames = session([1, 3], 30, 7)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run)
                async with trio.open_nursery() as calls:
                    calls.start_soon(watch, connection)
                    calls.start_soon(watch, connection)
                    await server.send_all(frames[0])
                    await wait_all_tasks_blocked()
                    await server.send_all(b"".join(frames[1:]))
                assert not connection.lost
                nursery.cancel_scope.cancel(reason="all calls have ended")

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert sum(received) == 2 * 6


# (b) A whole watcher


async def watch_through(pieces: list[bytes], *, close: bool) -> str:
    """Watch while the first connection plays this, and each later one is an etcd's.

    Returns:
        "resumed", or the name of the error.
    """
    connections = itertools.count()

    async def serve(stream: trio.SocketStream) -> None:
        if next(connections):
            await serve_watches(stream, revision=20, value=b"at last")
            return
        peer = Peer(stream)
        peer.mute = True
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                await peer.listen()
                nursery.cancel_scope.cancel(reason="the client closed")

            nursery.start_soon(listen)
            first, *rest = pieces or [b""]
            await stream.send_all(first)
            with trio.move_on_after(0.05):
                await peer.accept()
            for piece in rest:
                await stream.send_all(piece)
                # Usually lets the client read this piece separately.
                await trio.lowlevel.checkpoint()
            if close:
                await stream.send_eof()

    with trio.fail_after(20):
        async with serve_tcp(serve) as endpoint:
            channel = Channel(
                endpoint,
                connect_timeout=0.2,
                keepalive_time=0.1,
                keepalive_timeout=0.1,
                max_message_size=MAX_MESSAGE_SIZE,
            )
            try:
                async with open_watcher(channel) as watcher:
                    async with watcher.watch("k", start_revision=5) as watch:
                        async for response in watch:
                            values = [
                                e.kv.value for e in response.events if e.type in (0, 1)
                            ]
                            if b"at last" in values:
                                return "resumed"
            except WatchError as exc:
                return type(exc).__name__
    raise AssertionError("the watch ended without an error")


@settings(max_examples=50)
@given(reads([1]), st.booleans())
def test_watcher(pieces: list[bytes], close: bool) -> None:
    event(trio.run(lambda: watch_through(pieces, close=close)))


# Sessions of valid messages that no etcd sends


def said(*messages: bytes) -> list[bytes]:
    """Return a session of these messages."""
    headers = header_frames(1, hpack.Encoder().encode(GRPC))
    data = [data_frame(1, grpc_message(message)) for message in messages]
    return [SETTINGS, b"".join([*headers, *data])]


CREATED = watch_response(0, revision=4, created=True)


@pytest.mark.parametrize(
    ("messages", "outcome"),
    [
        ([b"\xff\xff\xff"], "resumed"),
        ([b""], "resumed"),
        ([CREATED, CREATED], "resumed"),
        ([CREATED, watch_response(7, revision=5, events=[(b"k", 5)])], "resumed"),
        ([CREATED, watch_response(2**63 - 1, events=[(b"k", 5)])], "resumed"),
        ([CREATED, watch_response(0, revision=-5, events=[(b"k", -5)])], "resumed"),
        ([CREATED, watch_response(0, events=[(b"k", 5)], fragment=True)], "resumed"),
        ([CREATED, *[watch_response(0, fragment=True)] * 2000], "resumed"),
        ([CREATED, watch_response(0, cancel_reason="x" * 3000)], "resumed"),
        ([watch_response(0, created=True, canceled=True)], "FutureRevisionError"),
        ([CREATED, watch_response(0, canceled=True)], "FutureRevisionError"),
        ([CREATED, watch_response(0, compact_revision=-1)], "CompactedError"),
    ],
)
def test_messages_that_make_no_sense(messages: list[bytes], outcome: str) -> None:
    assert trio.run(lambda: watch_through(said(*messages), close=True)) == outcome


@pytest.mark.parametrize(
    "message",
    [
        watch_response(0, revision=9, events=[(b"k", 2**63 - 1)]),
        watch_response(0, revision=2**63 - 1),
    ],
    ids=["event", "progress"],
)
def test_the_last_of_all_revisions(message: bytes) -> None:
    outcome = trio.run(lambda: watch_through(said(CREATED, message), close=True))
    assert outcome == "resumed"


def test_event_of_an_unknown_type() -> None:
    response = pb.WatchResponse.FromString(
        watch_response(0, revision=5, events=[(b"k", 5)])
    )
    response.events[0].type = 7  # type: ignore[assignment]
    message = response.SerializeToString()
    outcome = trio.run(lambda: watch_through(said(CREATED, message), close=True))
    assert outcome == "resumed"
