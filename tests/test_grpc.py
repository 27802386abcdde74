"""One HTTP/2 connection: what each thing that a server can do means for its calls.

Time is `MockClock`'s: whatever would hang jumps to the end of `LIMIT` and fails.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import h2.events
import h2.exceptions
import purerpc
import pytest
import trio
from hyperframe import frame as wire
from trio.testing import (
    MockClock,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from tests.peer import (
    GRPC,
    OK,
    SETTINGS,
    Headers,
    Peer,
    data_frame,
    encoded,
    grpc_message,
    header_frames,
    raw_frame,
)
from trio_etcd_watch._errors import (
    RpcError,
    Status,
    StatusCode,
    StreamLost,
    TokenExpired,
)
from trio_etcd_watch._frames import CONNECTION_WINDOW, STREAM_WINDOW, Oversized
from trio_etcd_watch._grpc import (
    MAX_UNSENT,
    RECEIVE_SIZE,
    SEND_AHEAD,
    Call,
    Connection,
)
from trio_etcd_watch._http2 import address_of, check_metadata

LIMIT = 1000.0
PATH = "/etcdserverpb.Watch/Watch"
INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS = 4, 3


def connection_on(
    stream: trio.abc.Stream, *, max_message_size: int = 100_000
) -> Connection:
    return Connection(
        stream,
        authority="etcd:2379",
        scheme="http",
        max_message_size=max_message_size,
        keepalive_time=10.0,
        keepalive_timeout=5.0,
    )


@dataclass
class Ends:
    """Both ends of a connection; `ended` is set when its `run()` has returned."""

    connection: Connection
    peer: Peer
    client: Any
    server: Any
    ended: trio.Event = field(default_factory=trio.Event)

    def call(self) -> Call:
        return self.connection.open_call(PATH, ())

    async def accepted(self) -> tuple[Call, int]:
        """A call whose response has begun."""
        call = self.call()
        return call, await self.peer.accept_call()


@asynccontextmanager
async def connected(
    settings: dict[int, int] | None = None, **options: int
) -> AsyncGenerator[Ends]:
    client, server = memory_stream_pair()
    ends = Ends(
        connection_on(client, **options), Peer(server, settings), client, server
    )

    async def serve() -> None:
        await ends.connection.run()
        ends.ended.set()

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            nursery.start_soon(ends.peer.run)
            await ends.connection.wait_ready()
            yield ends
            nursery.cancel_scope.cancel(reason="the test is over")


async def lost(awaitable: Awaitable[object]) -> str:
    """The reason of the StreamLost that this must raise."""
    with pytest.raises(StreamLost) as info:
        await awaitable
    return str(info.value)


async def drain(call: Call) -> list[bytes | Oversized]:
    """All messages up to the end of a call."""
    messages: list[bytes | Oversized] = []
    while batch := await call.receive():
        messages += batch
    return messages


# A call


async def test_request(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        metadata = (("token", "t"), ("trace-bin", b"\0\xff"))
        call = ends.connection.open_call(PATH, metadata)
        request = await ends.peer.next(h2.events.RequestReceived)
        headers = dict(request.headers)
        assert headers.pop("user-agent") == "trio-etcd-watch"
        assert headers == {
            ":method": "POST",
            ":scheme": "http",
            ":authority": "etcd:2379",
            ":path": PATH,
            "te": "trailers",
            "content-type": "application/grpc",
            "token": "t",
            "trace-bin": "AP8",
        }
        await call.send([b"one", b"", b"three"])
        received = [await ends.peer.message(request.stream_id) for _ in range(3)]
        assert received == [b"one", b"", b"three"]


async def test_messages_then_status(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        call, stream_id = await ends.accepted()
        await ends.peer.messages(stream_id, b"a", b"b" * 50_000, b"", size=1000)
        await ends.peer.status(stream_id, 0)
        assert await drain(call) == [b"a", b"b" * 50_000, b""]
        assert call.status == Status(StatusCode.OK, "")
        # A server that has ended it must not go on waiting for our side.
        await ends.peer.reset_by_client(stream_id)
        assert await call.receive() == []
        assert await lost(call.send([b"x"])) == "the server has ended the call"
        assert not ends.connection.lost


@pytest.mark.parametrize(
    ("code", "text", "status"),
    [
        ("0", "", Status(StatusCode.OK, "")),
        ("14", "etcdserver: no leader", Status(StatusCode.UNAVAILABLE, "…")),
        ("2", "50%25 %C3%A9", Status(StatusCode.UNKNOWN, "50% é")),
        ("13", "%ff%zz%", Status(StatusCode.INTERNAL, "\N{REPLACEMENT CHARACTER}%zz%")),
        ("99", "new", Status(StatusCode.UNKNOWN, "new")),
    ],
)
@pytest.mark.parametrize("headers_only", [True, False])
async def test_status(
    code: str, text: str, status: Status, headers_only: bool, autojump_clock: MockClock
) -> None:
    async with connected() as ends:
        call = ends.call()
        stream_id = await ends.peer.accept()
        trailers = (("grpc-status", code), ("grpc-message", text))
        if headers_only:
            await ends.peer.headers(stream_id, (*GRPC, *trailers), end=True)
        else:
            await ends.peer.headers(stream_id, GRPC)
            await ends.peer.headers(stream_id, trailers, end=True)
        assert await call.receive() == []
        assert call.status == Status(status.code, status.message.replace("…", text))
        assert not ends.connection.lost


async def test_unknown_grpc_headers_mean_nothing(autojump_clock: MockClock) -> None:
    unknown = (("grpc-status-details-bin", "!"), ("grpc-new", "x"), ("grpc-new", "y"))
    async with connected() as ends:
        call = ends.call()
        stream_id = await ends.peer.accept()
        await ends.peer.headers(stream_id, (*GRPC, *unknown))
        await ends.peer.messages(stream_id, b"a")
        await ends.peer.headers(stream_id, (*OK, *unknown), end=True)
        assert await drain(call) == [b"a"]
        assert call.status == Status(StatusCode.OK, "")


async def test_informational_response_means_nothing(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        call = ends.call()
        stream_id = await ends.peer.accept()
        await ends.peer.headers(stream_id, [(":status", "103"), ("link", "x")])
        await ends.peer.headers(stream_id, GRPC)
        await ends.peer.messages(stream_id, b"a")
        assert await call.receive() == [b"a"]


async def test_message_over_the_limit(autojump_clock: MockClock) -> None:
    async with connected(max_message_size=100) as ends:
        call, stream_id = await ends.accepted()
        payloads = [b"a" * 100, b"b" * 101, b"c", b"d" * 50_000, b"e"]
        await ends.peer.messages(stream_id, *payloads)
        await ends.peer.status(stream_id)
        assert await drain(call) == [
            payloads[0],
            Oversized(101, b"b" * 64),
            b"c",
            Oversized(50_000, b"d" * 64),
            b"e",
        ]


async def test_several_calls_at_once(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        calls = [await ends.accepted() for _ in range(20)]
        for turn in range(5):
            for _, stream_id in calls:
                await ends.peer.messages(stream_id, b"%d %d" % (stream_id, turn))
        for _, stream_id in calls[1::2]:
            await ends.peer.status(stream_id)
        for call, stream_id in calls:
            await wait_all_tasks_blocked()
            batch = await call.receive()
            assert batch == [b"%d %d" % (stream_id, turn) for turn in range(5)]
        for call, stream_id in calls[::2]:
            await ends.peer.messages(stream_id, b"more")
            assert await call.receive() == [b"more"]


# Ends of one call: its neighbour goes on


async def no_status(peer: Peer, stream_id: int) -> None:
    await peer.headers(stream_id, GRPC)
    await peer.headers(stream_id, [("grpc-message", "x")], end=True)


async def end_on_data(peer: Peer, stream_id: int) -> None:
    await peer.headers(stream_id, GRPC)
    await peer.data(stream_id, b"", end=True)


async def end_within_a_message(peer: Peer, stream_id: int) -> None:
    await peer.headers(stream_id, GRPC)
    await peer.data(stream_id, grpc_message(b"abc")[:7], end=True)


async def reset_by_server(peer: Peer, stream_id: int) -> None:
    await peer.reset(stream_id, 8)


async def reset_within_a_message(peer: Peer, stream_id: int) -> None:
    await peer.headers(stream_id, GRPC)
    await peer.data(stream_id, grpc_message(b"abc")[:7])
    await peer.reset(stream_id, 0xABC)


async def window_overflow(peer: Peer, stream_id: int) -> None:
    await peer.raw(raw_frame(8, 0, stream_id, b"\x7f\xff\xff\xff"))


async def data_first(peer: Peer, stream_id: int) -> None:
    await peer.raw(data_frame(stream_id, grpc_message(b"abc")))


async def end_first(peer: Peer, stream_id: int) -> None:
    await peer.raw(data_frame(stream_id, b"", end=True))


def answer(headers: Headers, body: bytes = b"") -> Callable[[Peer, int], Any]:
    async def step(peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, headers, end=not body)
        if body:
            await peer.data(stream_id, body, end=True)

    return step


HTML = (("content-type", "text/html"),)
Step: TypeAlias = Callable[[Peer, int], Awaitable[None]]
CALL_ENDS: dict[str, tuple[Step, str]] = {
    "RST_STREAM": (reset_by_server, "the server reset the stream (CANCEL)"),
    "RST_STREAM in a message": (
        reset_within_a_message,
        "the server reset the stream (2748)",
    ),
    "WINDOW_UPDATE beyond the window": (
        window_overflow,
        "the server reset the stream (FLOW_CONTROL_ERROR)",
    ),
    "no grpc-status": (no_status, "the server ended the stream without a status"),
    "END_STREAM on DATA": (end_on_data, "the server ended the stream without a status"),
    "END_STREAM in a message": (
        end_within_a_message,
        "the server ended the stream without a status",
    ),
    "DATA before HEADERS": (data_first, "not gRPC: DATA outside of a response"),
    "END_STREAM before HEADERS": (
        end_first,
        "the server ended the stream without a status",
    ),
    "503": (
        answer([(":status", "503"), *HTML], b"<h1>upstream connect error</h1>"),
        "not gRPC: the server answers HTTP status 503",
    ),
    "502 without a body": (
        answer([(":status", "502")]),
        "not gRPC: the server answers HTTP status 502",
    ),
    "status that is no number": (
        answer([(":status", "²")]),
        "not gRPC: the server answers HTTP status ²",
    ),
    "HTML": (
        answer([(":status", "200"), *HTML], b"<h1>It works!</h1>"),
        "not gRPC: the server answers content-type 'text/html'",
    ),
    "no content-type": (
        answer([(":status", "200")]),
        "not gRPC: the server answers content-type ''",
    ),
    "headers-only without grpc-status": (
        answer(GRPC),
        "the server ended the stream without a status",
    ),
    **{
        f"grpc-status {text!r}": (
            answer((*GRPC, ("grpc-status", text))),
            "the server ended the stream without a status",
        )
        for text in ("", "-1", "OK", "²", "1e1")
    },
}


@pytest.mark.parametrize("end", CALL_ENDS)
async def test_end_of_one_call(end: str, autojump_clock: MockClock) -> None:
    step, reason = CALL_ENDS[end]
    async with connected() as ends:
        neighbour, other_id = await ends.accepted()
        call = ends.call()
        stream_id = await ends.peer.accept()
        async with trio.open_nursery() as nursery:
            # Waiting already, as a watch does.
            nursery.start_soon(waits_for, call, reason)
            await wait_all_tasks_blocked()
            await step(ends.peer, stream_id)
        assert await lost(call.receive()) == reason
        assert await lost(call.send([b"x"])) == reason
        assert call.status is None
        await ends.peer.messages(other_id, b"still here")
        assert await neighbour.receive() == [b"still here"]
        assert not ends.connection.lost
        assert not ends.connection._frames._streams.keys() - {other_id}
        assert ends.connection._calls.keys() == {other_id}


async def waits_for(call: Call, reason: str) -> None:
    assert await lost(call.receive()) == reason


async def test_data_outside_of_responses_does_not_use_up_the_window(
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends:
        for _ in range(600):
            call = ends.call()
            stream_id = await ends.peer.accept()
            await ends.peer.raw(data_frame(stream_id, bytes(16_384)))
            await lost(call.receive())
        await wait_all_tasks_blocked()
        opened = sum(
            event.delta
            for event in ends.peer.events
            if type(event) is h2.events.WindowUpdated and event.stream_id == 0
        )
        # Beyond what every connection begins with.
        assert opened > CONNECTION_WINDOW


async def test_what_came_before_the_end_is_received(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        call, stream_id = await ends.accepted()
        await ends.peer.raw(
            data_frame(stream_id, grpc_message(b"a") + grpc_message(b"b")),
            wire.RstStreamFrame(stream_id, 2).serialize(),
        )
        assert await call.receive() == [b"a", b"b"]
        assert "reset the stream" in await lost(call.receive())


# Ends of the connection


def response(block: bytes) -> bytes:
    """HEADERS on stream 3, whose response has not begun."""
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
    "header value that is not UTF-8": (
        response(encoded([*GRPC, ("x", b"\xff\xfe")])),
        BROKE,
    ),
    # A header of 3,000 bytes put into the table, and 30 references to it.
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
        ("header value that is not UTF-8", UnicodeDecodeError),
        ("empty header name", IndexError),
        ("grpc-status of 5000 digits", ValueError),
    ],
)
async def test_what_purerpc_and_h2_raise(
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
    """Whatever waits is told why, all is closed, and nothing more can be begun."""
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
            # Whatever it says after that is not heard.
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
    assert reason == "the server does not speak HTTP/2"
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
        call = connection.open_call(PATH, ())
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


# Unary calls


async def test_unary(autojump_clock: MockClock) -> None:
    async with connected() as ends, trio.open_nursery() as nursery:

        async def serve() -> None:
            stream_id = await ends.peer.accept()
            assert await ends.peer.message(stream_id) == b"ask"
            await ends.peer.next(h2.events.StreamEnded, stream_id)
            await ends.peer.headers(stream_id, GRPC)
            await ends.peer.messages(stream_id, b"reply")
            await ends.peer.status(stream_id)

        nursery.start_soon(serve)
        assert await ends.connection.unary(PATH, b"ask", ()) == b"reply"
        await wait_all_tasks_blocked()
        # Both sides have ended it.
        assert ends.peer.resets() == []


@pytest.mark.parametrize("began", [True, False])
@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        (3, "etcdserver: authentication failed", RpcError),
        (16, "etcdserver: invalid auth token", TokenExpired),
        (14, "etcdserver: leader changed", StreamLost),
        (8, "etcdserver: too many requests", RpcError),
    ],
)
async def test_unary_refused(
    began: bool,
    code: int,
    message: str,
    error: type[Exception],
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends, trio.open_nursery() as nursery:

        async def serve() -> None:
            stream_id = await ends.peer.accept()
            trailers = (("grpc-status", str(code)), ("grpc-message", message))
            if began:
                await ends.peer.headers(stream_id, GRPC)
                await ends.peer.headers(stream_id, trailers, end=True)
            else:
                await ends.peer.headers(stream_id, (*GRPC, *trailers), end=True)

        nursery.start_soon(serve)
        with pytest.raises(error, match=message):
            await ends.connection.unary(PATH, b"ask", ())


async def test_unary_refused_before_it_could_be_sent(
    autojump_clock: MockClock,
) -> None:
    async with connected({INITIAL_WINDOW_SIZE: 0}) as ends:
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                stream_id = await ends.peer.accept()
                await ends.peer.headers(
                    stream_id, (*GRPC, ("grpc-status", "7")), end=True
                )

            nursery.start_soon(serve)
            with pytest.raises(RpcError) as info:
                await ends.connection.unary(PATH, b"ask", ())
            assert info.value.code is StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("payloads", [[], [b"a", b"b"], [bytes(100_001)]])
async def test_unary_without_a_single_response(
    payloads: list[bytes], autojump_clock: MockClock
) -> None:
    async with connected() as ends, trio.open_nursery() as nursery:

        async def serve() -> None:
            stream_id = await ends.peer.accept_call()
            await ends.peer.messages(stream_id, *payloads)
            await ends.peer.status(stream_id)

        nursery.start_soon(serve)
        reason = await lost(ends.connection.unary(PATH, b"ask", ()))
        assert reason == f"{PATH} gave no single response"


async def test_unary_cancelled_is_reset(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        with trio.move_on_after(1) as scope:
            await ends.connection.unary(PATH, b"ask", ())
        assert scope.cancelled_caught
        await ends.peer.reset_by_client(await ends.peer.accept())
        assert not ends.connection._calls
        assert not ends.connection.lost


async def test_reset(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        call, stream_id = await ends.accepted()
        neighbour, other_id = await ends.accepted()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits_for, call, "reset")
            await wait_all_tasks_blocked()
            call.reset()
            call.reset()
        # What was on its way belongs to nobody.
        await ends.peer.raw(
            data_frame(stream_id, grpc_message(b"late")),
            *header_frames(stream_id, encoded(OK), end=True),
        )
        await ends.peer.messages(other_id, b"a")
        assert await neighbour.receive() == [b"a"]
        await ends.peer.reset_by_client(stream_id)


# Flow control


async def test_window_opens_for_two_calls(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        ends.peer.gives_window = False
        calls = [await ends.accepted() for _ in range(2)]
        done = []

        async def send(call: Call) -> None:
            await call.send([bytes(60_000)])
            done.append(call)

        async with trio.open_nursery() as nursery:
            for call, _ in calls:
                nursery.start_soon(send, call)
            await wait_all_tasks_blocked()
            # 65,535 bytes for both: one has gone, or none.
            assert len(done) <= 1
            ends.peer.http2.increment_flow_control_window(60_000)
            await ends.peer.flush()
        for _, stream_id in calls:
            assert await ends.peer.message(stream_id) == bytes(60_000)
        assert trio.current_time() < 1


@pytest.mark.parametrize("by", ["WINDOW_UPDATE", "SETTINGS"])
async def test_window_of_a_stream(by: str, autojump_clock: MockClock) -> None:
    async with connected({INITIAL_WINDOW_SIZE: 10}) as ends:
        ends.peer.gives_window = False
        calls = [await ends.accepted() for _ in range(2)]
        async with trio.open_nursery() as nursery:
            for call, _ in calls:
                nursery.start_soon(call.send, [bytes(995)])
            await wait_all_tasks_blocked()
            assert [len(ends.peer.received[id_]) for _, id_ in calls] == [10, 10]
            if by == "SETTINGS":
                ends.peer.http2.update_settings({INITIAL_WINDOW_SIZE: 1000})
                await ends.peer.flush()
            # The later one first: the one before it goes on waiting.
            for _, stream_id in reversed(calls):
                if by == "WINDOW_UPDATE":
                    ends.peer.http2.increment_flow_control_window(990, stream_id)
                    await ends.peer.flush()
                assert await ends.peer.message(stream_id) == bytes(995)
        # Not because a ping was written.
        assert trio.current_time() < 1


async def test_window_below_nothing(autojump_clock: MockClock) -> None:
    async with connected({INITIAL_WINDOW_SIZE: 100}) as ends:
        await ends.peer.next(h2.events.SettingsAcknowledged)
        ends.peer.gives_window = False
        call, stream_id = await ends.accepted()
        await call.send([bytes(85)])
        assert await ends.peer.message(stream_id) == bytes(85)
        async with trio.open_nursery() as nursery:
            # 6.9.2: 10 - 90 - 100 + 100.
            ends.peer.http2.update_settings({INITIAL_WINDOW_SIZE: 10})
            await ends.peer.flush()
            await ends.peer.next(h2.events.SettingsAcknowledged)
            nursery.start_soon(call.send, [b"12345"])
            ends.peer.http2.increment_flow_control_window(80, stream_id)
            await ends.peer.flush()
            await wait_all_tasks_blocked()
            assert ends.peer.received[stream_id] == b""
            ends.peer.http2.increment_flow_control_window(10, stream_id)
            await ends.peer.flush()
            assert await ends.peer.message(stream_id) == b"12345"


async def test_frames_no_larger_than_the_server_takes(
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends:
        call, stream_id = await ends.accepted()
        await call.send([bytes(40_000)])
        assert await ends.peer.message(stream_id) == bytes(40_000)
        frames = [e for e in ends.peer.events if type(e) is h2.events.DataReceived]
        assert max(len(event.data) for event in frames) == 16_384


@pytest.mark.parametrize("by", ["server", "us", "status"])
async def test_sender_waiting_while_its_call_ends(
    by: str, autojump_clock: MockClock
) -> None:
    async with connected({INITIAL_WINDOW_SIZE: 10}) as ends:
        call, stream_id = await ends.accepted()
        ends.peer.gives_window = False
        reasons = []

        async def send() -> None:
            reasons.append(await lost(call.send([bytes(1000)])))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            match by:
                case "server":
                    await ends.peer.reset(stream_id)
                case "us":
                    call.reset()
                case "status":
                    await ends.peer.status(stream_id, 14)
        assert len(reasons) == 1
        assert not ends.connection.lost


async def test_sender_cancelled_between_two_frames(autojump_clock: MockClock) -> None:
    async with connected({INITIAL_WINDOW_SIZE: 10}) as ends:
        call, stream_id = await ends.accepted()
        ends.peer.gives_window = False
        with trio.move_on_after(1):
            await call.send([bytes(1000)])
        call.reset()
        await ends.peer.reset_by_client(stream_id)


async def test_senders_wait_for_a_slow_transport(autojump_clock: MockClock) -> None:
    async with connected({INITIAL_WINDOW_SIZE: 2**30}) as ends:
        ends.peer.http2.increment_flow_control_window(2**30)
        await ends.peer.flush()
        sizes = []

        async def slow() -> None:
            await trio.sleep(1)
            data = ends.client.send_stream.get_data_nowait()
            sizes.append(len(data))
            ends.server.receive_stream.put_data(data)

        ends.client.send_stream.send_all_hook = slow
        call, stream_id = await ends.accepted()
        await call.send([bytes(3 * SEND_AHEAD)])
        assert await ends.peer.message(stream_id) == bytes(3 * SEND_AHEAD)
    assert SEND_AHEAD <= max(sizes) <= SEND_AHEAD + 16_384 + 9


async def test_received_bytes_open_the_window_again(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        calls = [await ends.accepted() for _ in range(2)]
        payload = bytes(90_000)
        turns = 3 * STREAM_WINDOW // len(payload)
        # Waits for the window as a server does: without updates it would hang.
        async with trio.open_nursery() as nursery:
            for call, stream_id in calls:
                nursery.start_soon(ends.peer.messages, stream_id, *[payload] * turns)
                nursery.start_soon(count, call, turns)


async def count(call: Call, expected: int) -> None:
    while expected:
        expected -= len(await call.receive())


async def test_peer_that_sends_but_does_not_read(autojump_clock: MockClock) -> None:
    client, server = lockstep_stream_pair()
    connection = connection_on(client)
    ping = wire.PingFrame(0, b"12345678").serialize()
    largest = 0
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            await server.send_all(SETTINGS)
            # 17 MB at most.
            for _ in range(1000):
                if connection.lost:
                    break
                with contextlib.suppress(trio.BrokenResourceError):
                    await server.send_all(ping * 1000)
                largest = max(largest, len(connection._unsent))
            nursery.cancel_scope.cancel(reason="the test is over")
    assert str(connection.lost) == "the server sends, but does not read"
    assert MAX_UNSENT // 2 < largest <= MAX_UNSENT + RECEIVE_SIZE


# Keepalive


def pings(peer: Peer) -> int:
    return sum(type(e) is h2.events.PingReceived for e in peer.events)


async def test_silence_is_answered_by_a_ping(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        await ends.accepted()
        await trio.sleep(9.9)
        assert pings(ends.peer) == 0
        await trio.sleep(0.2)
        assert pings(ends.peer) == 1
        await trio.sleep(1000 - 15)
        assert not ends.connection.lost
        # etcd counts more than one in 5 s.
        assert 90 <= pings(ends.peer) <= 100


async def test_no_answer_to_a_ping(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        call, _ = await ends.accepted()
        ends.peer.mute = True
        began = trio.current_time()
        assert await lost(call.receive()) == "no answer to a ping within 5 s"
        assert trio.current_time() - began == pytest.approx(15)
        await ends.ended.wait()
        assert pings(ends.peer) == 1


async def test_any_byte_answers_a_ping(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        _, stream_id = await ends.accepted()
        ends.peer.mute = True
        for _ in range(5):
            await trio.sleep(14)
            # The first byte of a frame.
            await ends.peer.raw(b"")
            assert not ends.connection.lost
            await ends.server.send_all(data_frame(stream_id, b"")[:9])
            await wait_all_tasks_blocked()


async def test_no_ping_without_a_call(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        call, _ = await ends.accepted()
        call.reset()
        await trio.sleep(500)
        assert pings(ends.peer) == 0


async def test_no_ping_while_data_flows(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        _, stream_id = await ends.accepted()
        for _ in range(50):
            await trio.sleep(9)
            await ends.peer.messages(stream_id, b"a")
        assert pings(ends.peer) == 0


async def test_call_on_a_connection_that_died_unnoticed(
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends:
        ends.peer.mute = True
        await trio.sleep(333)
        call, began = ends.call(), trio.current_time()
        assert await lost(call.receive()) == "no answer to a ping within 5 s"
        assert trio.current_time() - began <= 15


# Cancellation


async def test_receive_cancelled_loses_nothing(autojump_clock: MockClock) -> None:
    received: list[bytes | Oversized] = []
    async with connected() as ends:
        call, stream_id = await ends.accepted()

        async def serve() -> None:
            for i in range(100):
                await trio.sleep(0.7)
                await ends.peer.messages(stream_id, b"%d" % i)
            await ends.peer.status(stream_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            while not call.status:
                with trio.move_on_after(0.3):
                    received += await call.receive()
            received += await call.receive()
    assert received == [b"%d" % i for i in range(100)]


@pytest.mark.parametrize("steps", range(8))
async def test_receive_cancelled_as_a_message_comes(
    steps: int, autojump_clock: MockClock
) -> None:
    received: list[bytes | Oversized] = []
    async with connected() as ends:
        call, stream_id = await ends.accepted()
        data = data_frame(stream_id, grpc_message(b"a"))

        async def receive(scope: trio.CancelScope) -> None:
            with scope:
                received.extend(await call.receive())

        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, scope)
            await wait_all_tasks_blocked()
            ends.client.receive_stream.put_data(data)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            scope.cancel()
        if not received:
            received += await call.receive()
    assert received == [b"a"]


# Metadata


@pytest.mark.parametrize(
    "pairs",
    [
        [("token", "s3cret\r\nx: y")],
        [("token", "s3cret\n")],
        [("token", "s3cret\0")],
        [("token", "s3crét")],
        [("Token", "s3cret")],
        [("", "s3cret")],
        [("to ken", "s3cret")],
        [("token\n", "s3cret")],
        [("to:ken", "s3cret")],
        [(":authority", "s3cret")],
        [("grpc-timeout", "s3cret")],
        [("töken", "s3cret")],
        [("ok", "fine"), ("Token", "s3cret")],
    ],
)
def test_metadata_that_http2_cannot_carry(pairs: list[tuple[Any, Any]]) -> None:
    with pytest.raises(ValueError, match="metadata") as info:
        check_metadata(pairs)
    assert "s3cr" not in str(info.value)
    assert repr(pairs[-1][0]) in str(info.value)


@pytest.mark.parametrize(
    "pairs",
    [
        [("token", b"s3cret")],
        [("token-bin", "s3cret")],
        [("token", None)],
        [(b"token", "s3cret")],
        [(1, "s3cret")],
    ],
)
def test_metadata_of_a_wrong_type(pairs: list[tuple[Any, Any]]) -> None:
    with pytest.raises(TypeError, match="metadata") as info:
        check_metadata(pairs)
    assert "s3cr" not in str(info.value)


def test_metadata_that_is_fine() -> None:
    check_metadata([("a.b_c-9", " ~"), ("x-bin", b"\0\r\n\xff"), ("e", "")])


# Where it is not ours


def test_address_of_purerpc_channels() -> None:
    context = ssl.create_default_context()
    assert address_of(purerpc.insecure_channel("h", 1)) == ("h", 1, None)
    assert address_of(purerpc.secure_channel("h", 1, context)) == ("h", 1, context)
    assert address_of("h:1") is None


async def test_tokens_are_not_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with connected() as ends:
        ends.connection.open_call(PATH, [("token", "s3cret")])
        await ends.peer.accept_call()
    ours = [r for r in caplog.records if "s3cret" in r.getMessage()]
    assert ours == []
