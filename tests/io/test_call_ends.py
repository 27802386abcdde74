"""What ends one call does not affect other calls on the connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import h2.events
import h2.exceptions
import pytest
import trio
from hyperframe import frame as wire
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.connection import H2_4, connected, lost, waits_for
from tests.support.peer import GRPC, Headers, Peer, data_frame, grpc_message, raw_frame
from trio_etcd_watch._grpc.frames import CONNECTION_WINDOW


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
            # This call is waiting already, as that of a watch does.
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


@pytest.mark.parametrize(
    ("payload", "end", "reason"),
    [
        (grpc_message(b"abc"), False, "not gRPC: DATA outside of a response"),
        (b"", True, "the server ended the stream without a status"),
    ],
)
async def test_data_before_headers(
    payload: bytes, end: bool, reason: str, autojump_clock: MockClock
) -> None:
    async with connected() as ends:
        neighbour, other_id = await ends.accepted()
        call = ends.call()
        stream_id = await ends.peer.accept()
        await ends.peer.raw(data_frame(stream_id, payload, end=end))
        if H2_4:
            # For h2 4 it breaks the connection.
            assert "the server broke HTTP/2" in await lost(call.receive())
            assert ends.connection.lost
            return
        assert await lost(call.receive()) == reason
        await ends.peer.messages(other_id, b"still here")
        assert await neighbour.receive() == [b"still here"]


async def test_data_outside_of_responses_does_not_use_up_the_window(
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends:
        # h2 4 ends the connection at the first one.
        for _ in range(1 if H2_4 else 600):
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
        # More than the window that every connection begins with.
        assert opened > CONNECTION_WINDOW or ends.connection.lost


async def test_what_came_before_the_end_is_received(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        call, stream_id = await ends.accepted()
        await ends.peer.raw(
            data_frame(stream_id, grpc_message(b"a") + grpc_message(b"b")),
            wire.RstStreamFrame(stream_id, 2).serialize(),
        )
        assert await call.receive() == [b"a", b"b"]
        assert "reset the stream" in await lost(call.receive())
