"""One gRPC call: what is sent and received, and how it ends or is abandoned."""

from __future__ import annotations

import h2.events
import h2.exceptions
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.connection import (
    INITIAL_WINDOW_SIZE,
    PATH,
    Caller,
    Ends,
    connected,
    drain,
    lost,
    waits_for,
)
from tests.support.peer import (
    GRPC,
    OK,
    Headers,
    data_frame,
    encoded,
    grpc_message,
    header_frames,
    pieces,
    raw_frame,
)
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._grpc.reading import MAX_RECEIVE_SIZE, RECEIVE_SIZE
from trio_etcd_watch._grpc.status import Status, StatusCode, StreamLost


async def test_request(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        metadata = (("token", "t"), ("trace-bin", b"\0\xff"))
        call = Caller(ends.connection, metadata)
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
        # After the end by the server, it must not wait for the client's side.
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
    unknown: Headers = (
        ("grpc-status-details-bin", "!"),
        ("grpc-new", "x"),
        ("grpc-new", "y"),
        ("not-utf-8", b"\xff\xfe"),
    )
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


def sizes_asked(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many bytes each read may return, from now on."""
    asked: list[int] = []
    stream = ends.connection._stream
    receive_some = stream.receive_some

    async def receive(max_bytes: int) -> bytes | bytearray:
        asked.append(max_bytes)
        return await receive_some(max_bytes)

    monkeypatch.setattr(stream, "receive_some", receive)
    return asked


async def test_reads_are_larger_while_a_large_message_comes(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(max_message_size=2**22) as ends:
        asked = sizes_asked(ends, monkeypatch)
        call, stream_id = await ends.accepted()
        for size, most in (
            (RECEIVE_SIZE - 100, RECEIVE_SIZE),
            (4 * RECEIVE_SIZE, 2 * RECEIVE_SIZE),
            (3 * 2**20, MAX_RECEIVE_SIZE),
        ):
            asked.clear()
            parts = pieces(grpc_message(bytes(size)), 16_384)
            frames = [data_frame(stream_id, part) for part in parts]
            await ends.peer.raw(*frames)
            assert await call.receive() == [bytes(size)]
            await wait_all_tasks_blocked()
            # A frame counts only once it is complete.
            assert most <= max(asked) < most + 2**15
            assert max(asked) <= MAX_RECEIVE_SIZE
            assert asked[-1] == RECEIVE_SIZE
        # While data comes in small pieces, reads do not ask for more.
        asked.clear()
        for frame in frames:
            await ends.peer.raw(frame)
            await wait_all_tasks_blocked()
        assert await call.receive() == [bytes(size)]
        assert set(asked) == {RECEIVE_SIZE}


async def test_a_flood_beside_a_message_that_does_not_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(max_message_size=2**22) as ends:
        _, stream_id = await ends.accepted()
        begun = data_frame(stream_id, grpc_message(bytes(2**21))[:1000])
        asked = sizes_asked(ends, monkeypatch)
        await ends.peer.raw(begun, raw_frame(0xFA, 0, 0, b"") * (2**20 // 9))
        await wait_all_tasks_blocked()
        assert len(asked) > 2**20 // RECEIVE_SIZE
        assert set(asked) == {RECEIVE_SIZE}


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


class RefusingCaller(Caller):
    """A call whose messages require that it ends."""

    def _deliver(self, messages: list[bytes | Oversized]) -> None:
        super()._deliver(messages)
        raise StreamLost("unusable")


@pytest.mark.parametrize("follows", ["nothing", "status", "broken connection"])
async def test_what_takes_the_messages_may_end_the_call(
    follows: str, autojump_clock: MockClock
) -> None:
    async with connected() as ends:
        neighbour, other_id = await ends.accepted()
        call = RefusingCaller(ends.connection)
        stream_id = await ends.peer.accept_call()
        await ends.peer.raw(
            data_frame(stream_id, grpc_message(b"a")),
            *{
                "nothing": [],
                "status": header_frames(stream_id, encoded(OK), end=True),
                "broken connection": [raw_frame(0, 0, stream_id, b"\0" * 20_000)],
            }[follows],
        )
        assert str(await call.call.wait_end()) == "unusable"
        assert await lost(call.send([b"x"])) == "unusable"
        await ends.peer.messages(stream_id, b"late")
        assert await call.receive() == [b"a"]
        assert await lost(call.receive()) == "unusable"
        if follows == "broken connection":
            assert "20000 bytes" in await lost(neighbour.receive())
        else:
            await ends.peer.messages(other_id, b"b")
            assert await neighbour.receive() == [b"b"]
            await ends.peer.reset_by_client(stream_id)


async def test_those_woken_run_before_more_is_read(autojump_clock: MockClock) -> None:
    steps: list[str] = []

    class Recorded(Caller):
        def _deliver(self, messages: list[bytes | Oversized]) -> None:
            super()._deliver(messages)
            steps.append("delivered")

    async with connected() as ends:
        call = Recorded(ends.connection)
        stream_id = await ends.peer.accept_call()
        await wait_all_tasks_blocked()
        read = ends.client.receive_some

        async def receive_some(max_bytes: int) -> bytes:
            steps.append("reading")
            return bytes(await read(max_bytes))

        ends.client.receive_some = receive_some

        async def use() -> None:
            while True:
                await call._arrived.wait()
                call._arrived = trio.Event()
                steps.append("used")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            # Trio runs the tasks of one pass in random order, so one success may be
            # luck.
            for _ in range(20):
                await wait_all_tasks_blocked()
                await ends.peer.messages(stream_id, b"a")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel(reason="seen enough")
    assert steps == ["delivered", "used", "reading"] * 20


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
        # Both sides have ended it, so no reset is needed.
        assert ends.peer.resets() == []


@pytest.mark.parametrize("began", [True, False])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (StatusCode.INVALID_ARGUMENT, "etcdserver: authentication failed"),
        (StatusCode.UNAVAILABLE, "etcdserver: leader changed"),
    ],
)
async def test_unary_refused(
    began: bool,
    code: StatusCode,
    message: str,
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends, trio.open_nursery() as nursery:

        async def serve() -> None:
            stream_id = await ends.peer.accept()
            trailers = (("grpc-status", str(int(code))), ("grpc-message", message))
            if began:
                await ends.peer.headers(stream_id, GRPC)
                await ends.peer.headers(stream_id, trailers, end=True)
            else:
                await ends.peer.headers(stream_id, (*GRPC, *trailers), end=True)

        nursery.start_soon(serve)
        end = await ends.connection.unary(PATH, b"ask", ())
        assert end == Status(code, message)


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
            end = await ends.connection.unary(PATH, b"ask", ())
            assert end == Status(StatusCode.PERMISSION_DENIED, "")


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
        # A message that was in transit has no receiver any more.
        await ends.peer.raw(
            data_frame(stream_id, grpc_message(b"late")),
            *header_frames(stream_id, encoded(OK), end=True),
        )
        await ends.peer.messages(other_id, b"a")
        assert await neighbour.receive() == [b"a"]
        await ends.peer.reset_by_client(stream_id)
