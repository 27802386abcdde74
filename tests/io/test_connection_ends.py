"""What ends a connection, and that no task on it waits any longer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import h2.events
import h2.exceptions
import pytest
import trio
from hyperframe import frame as wire
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.support.connection import (
    H2_4,
    LIMIT,
    MAX_CONCURRENT_STREAMS,
    PATH,
    Caller,
    Ends,
    connected,
    connection_on,
    lost,
)
from tests.support.peer import (
    GRPC,
    SETTINGS,
    data_frame,
    encoded,
    grpc_message,
    header_frames,
    raw_frame,
)
from trio_etcd_watch._grpc.status import StreamLost


def response(block: bytes) -> bytes:
    """HEADERS on stream 3, which has no response yet."""
    return b"".join(header_frames(3, block))


BROKE = "the server broke HTTP/2: "
FLOOD = raw_frame(9, 0, 3) * 100
PUSHED = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
CONNECTION_ENDS: dict[str, tuple[bytes, str]] = {
    "HTTP/1": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a frame of 4740180 bytes is over"),
    "frame over the maximum": (raw_frame(0xFA, 0, 0, bytes(16_385))[:9], "is over"),
    "graceful GOAWAY": (
        wire.GoAwayFrame(0, 2**31 - 1, 0).serialize(),
        "the server said GOAWAY (NO_ERROR)",
    ),
    "GOAWAY below our streams": (
        wire.GoAwayFrame(0, 0, 0).serialize(),
        "the server said GOAWAY (NO_ERROR)",
    ),
    "GOAWAY with its reason": (
        wire.GoAwayFrame(0, 3, 11, b"too_many_pings\xff").serialize(),
        r"the server said GOAWAY (ENHANCE_YOUR_CALM) too_many_pings\xff",
    ),
    "GOAWAY of an unknown code": (
        wire.GoAwayFrame(0, 3, 0xABC).serialize(),
        "the server said GOAWAY (2748)",
    ),
    "short GOAWAY": (raw_frame(7, 0, 0, b"1234567"), BROKE),
    "HPACK garbage": (response(b"\xff" * 20), BROKE),
    "HPACK index of nothing": (response(b"\xbf"), BROKE),
    "HPACK cut": (response(b"\x40\x05ab"), BROKE),
    "HPACK table too large": (response(b"\x3f\xff\xff\xff\x0f"), BROKE),
    "HPACK bad Huffman code": (response(b"\x40\x84\xff\xff\xff\xff\x00"), BROKE),
    "HPACK endless integer": (response(b"\x7f" + b"\xff" * 15_000), BROKE),
    "empty header block": (response(b""), BROKE),
    "empty header name": (response(encoded([(":status", "200"), ("", "x")])), BROKE),
    "upper case name": (response(encoded([(":status", "200"), ("A", "x")])), BROKE),
    "no :status": (response(encoded([("content-type", "application/grpc")])), BROKE),
    # A header of 3,000 bytes is put into the table, and referenced 30 times.
    "header list too long": (
        response(
            encoded(GRPC)
            + (b"\x40\x01x\x7f" + bytes([3000 - 127 & 127 | 128, 3000 - 127 >> 7]))
            + b"a" * 3000
            + b"\xbe" * 30
        ),
        BROKE + "DenialOfServiceError",
    ),
    "header block too long": (
        b"".join(header_frames(3, bytes(70_000))),
        "a header block is over 65536 bytes",
    ),
    "CONTINUATION flood": (raw_frame(1, 0, 3) + FLOOD, BROKE),
    "CONTINUATION alone": (raw_frame(9, 4, 3), BROKE),
    "DATA in a header block": (
        raw_frame(1, 0, 3) + data_frame(1, grpc_message(b"a")),
        BROKE,
    ),
    "PUSH_PROMISE": (raw_frame(5, 4, 1, b"\0\0\0\2" + encoded(PUSHED)), BROKE),
    "two responses": (response(encoded(GRPC)) * 2, BROKE),
    "HEADERS of no stream": (b"".join(header_frames(99, encoded(GRPC))), BROKE),
    "DATA of no stream": (data_frame(99, b"x"), BROKE),
    "DATA of an even stream": (data_frame(2, b"x"), BROKE),
    "DATA of the connection": (raw_frame(0, 0, 0, b"x"), BROKE),
    "compressed message": (
        data_frame(1, grpc_message(b"", compressed=1)),
        "compressed",
    ),
    "padding over a frame": (raw_frame(0, 8, 1, b"\xff123"), "padding"),
    "padding over HEADERS": (raw_frame(1, 0xC, 3, b"\xff123"), BROKE),
    "SETTINGS of 5 bytes": (raw_frame(4, 0, 0, b"12345"), BROKE),
    "SETTINGS of a stream": (raw_frame(4, 0, 1), BROKE),
    "window of SETTINGS too large": (
        raw_frame(4, 0, 0, b"\0\4\xff\xff\xff\xff"),
        BROKE,
    ),
    "frame size of SETTINGS too small": (raw_frame(4, 0, 0, b"\0\5\0\0\0\1"), BROKE),
    "WINDOW_UPDATE of nothing": (raw_frame(8, 0, 0, bytes(4)), BROKE),
    "WINDOW_UPDATE beyond the window": (
        raw_frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2,
        BROKE,
    ),
    "WINDOW_UPDATE of 3 bytes": (raw_frame(8, 0, 0, b"123"), BROKE),
    "PING of 7 bytes": (raw_frame(6, 0, 0, b"1234567"), BROKE),
    "RST_STREAM of 3 bytes": (raw_frame(3, 0, 1, b"123"), BROKE),
    "PRIORITY of 4 bytes": (raw_frame(2, 0, 1, b"1234"), BROKE),
    "PRIORITY on itself": (raw_frame(2, 0, 1, b"\0\0\0\1\0"), BROKE),
    "ALTSVC of 1 byte": (raw_frame(10, 0, 0, b"1"), BROKE),
    "grpc-status of 5000 digits": (
        b"".join(
            header_frames(3, encoded([*GRPC, ("grpc-status", "9" * 5000)]), end=True)
        ),
        BROKE,
    ),
}


@pytest.mark.parametrize("end", CONNECTION_ENDS)
async def test_end_of_the_connection(end: str, autojump_clock: MockClock) -> None:
    data, reason = CONNECTION_ENDS[end]
    await check_connection_end(lambda ends: ends.peer.raw(data), reason)


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("HPACK garbage", h2.exceptions.ProtocolError),
        ("PING of 7 bytes", h2.exceptions.FrameDataMissingError),
        ("empty header name", h2.exceptions.ProtocolError if H2_4 else IndexError),
        ("grpc-status of 5000 digits", ValueError),
    ],
)
async def test_what_h2_raises(
    end: str, error: type[Exception], autojump_clock: MockClock
) -> None:
    async with connected() as ends:
        _ = await ends.accepted(), ends.call()
        await ends.peer.raw(CONNECTION_ENDS[end][0])
        await ends.ended.wait()
        assert ends.connection.lost is not None
        assert type(ends.connection.lost.__cause__) is error


async def test_peer_closes(autojump_clock: MockClock) -> None:
    async def close(ends: Ends) -> None:
        await ends.server.send_stream.aclose()

    await check_connection_end(close, "the server closed the connection")


async def test_peer_resets(autojump_clock: MockClock) -> None:
    async def reset(ends: Ends) -> None:
        def fail() -> None:
            raise trio.BrokenResourceError("x") from ConnectionResetError(
                "reset by peer"
            )

        ends.client.receive_stream.receive_some_hook = fail
        await ends.peer.raw(SETTINGS)

    await check_connection_end(reset, "connection broken: reset by peer")


async def test_peer_is_gone_for_writes(autojump_clock: MockClock) -> None:
    async def reset(ends: Ends) -> None:
        def fail() -> None:
            raise trio.BrokenResourceError("no cause")

        ends.client.send_stream.send_all_hook = fail
        ends.call()

    await check_connection_end(reset, "connection broken: no cause")


async def test_closed_by_us(autojump_clock: MockClock) -> None:
    async def close(ends: Ends) -> None:
        await trio.lowlevel.checkpoint()
        ends.connection.close("why")

    await check_connection_end(close, "why")


async def check_connection_end(
    step: Callable[[Ends], Awaitable[None]], reason: str
) -> None:
    """All that wait get the reason, all is closed, and no new call can begin."""
    async with connected() as ends:
        ends.peer.gives_window = False
        receiver, _ = await ends.accepted()
        sender = ends.call()
        reasons: list[str] = []

        async def expect(awaitable: Awaitable[object]) -> None:
            reasons.append(await lost(awaitable))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, receiver.receive())
            nursery.start_soon(expect, sender.receive())
            nursery.start_soon(expect, sender.send([bytes(200_000)]))
            await wait_all_tasks_blocked()
            await step(ends)
            # Anything that the server sends after that is ignored.
            await wait_all_tasks_blocked()
        await ends.ended.wait()
        assert reason in reasons[0]
        assert set(reasons) == {str(ends.connection.lost)}
        assert await lost(receiver.receive()) == reasons[0]
        assert await lost(sender.send([b""])) == reasons[0]
        assert await lost(ends.connection.wait_ready()) == reasons[0]
        assert await lost(ends.connection.unary(PATH, b"", ())) == reasons[0]
        with pytest.raises(StreamLost):
            ends.call()
        with pytest.raises(trio.ClosedResourceError):
            await ends.client.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await ends.client.receive_some()
        assert not ends.connection._calls
        assert not ends.connection._frames._streams


async def test_messages_before_the_end_of_the_connection(
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends:
        call, stream_id = await ends.accepted()
        await ends.peer.raw(
            data_frame(stream_id, grpc_message(b"a")),
            wire.GoAwayFrame(0, 0, 0).serialize(),
            data_frame(stream_id, grpc_message(b"b")),
        )
        assert await call.receive() == [b"a"]
        assert "GOAWAY" in await lost(call.receive())


@pytest.mark.parametrize(
    "first", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\0\2\2\x46", bytes(50)]
)
async def test_server_that_does_not_speak_http2(
    first: bytes, autojump_clock: MockClock
) -> None:
    client, server = memory_stream_pair()
    connection = connection_on(client)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            await server.send_all(first)
            reason = await lost(connection.wait_ready())
    assert reason.startswith("the server does not speak HTTP/2")
    assert trio.current_time() < 1


async def test_ready_waits_for_the_servers_settings(autojump_clock: MockClock) -> None:
    client, server = memory_stream_pair()
    connection = connection_on(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        await server.send_all(SETTINGS[:8])
        with trio.move_on_after(50) as scope:
            await connection.wait_ready()
        assert scope.cancelled_caught
        await server.send_all(SETTINGS[8:])
        await connection.wait_ready()
        nursery.cancel_scope.cancel()


async def test_cancelled_from_outside(autojump_clock: MockClock) -> None:
    client, server = memory_stream_pair()
    connection = connection_on(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        await server.send_all(SETTINGS)
        await connection.wait_ready()
        call = Caller(connection)
        nursery.cancel_scope.cancel()
    assert await lost(call.receive()) == "closed"
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"x")


async def test_no_more_streams_than_the_server_allows(
    autojump_clock: MockClock,
) -> None:
    async with connected({MAX_CONCURRENT_STREAMS: 1}) as ends:
        call = ends.call()
        with pytest.raises(StreamLost, match="no new stream"):
            ends.call()
        call.reset()
        ends.call()
