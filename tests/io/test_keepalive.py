"""A silent peer gets a PING, and is given up without an answer."""

from __future__ import annotations

import socket

import h2.events
import h2.exceptions
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.connection import PATH, connected, connection_on, lost
from tests.support.peer import Peer, data_frame
from trio_etcd_watch._grpc.messages import Oversized

PING = b"\0\0\x08\x06\0\0\0\0\0"
"""The first bytes of the frame."""
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


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
        # etcd does not allow more than one in 5 s.
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


async def test_an_answer_that_came_while_the_application_blocked(
    mock_clock: MockClock,
) -> None:
    ours, theirs = socket.socketpair()
    connection = connection_on(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        theirs.sendall(SETTINGS)
        await connection.wait_ready()
        connection.open_call(PATH, (), list[bytes | Oversized]().extend)
        theirs.setblocking(False)
        for _ in range(20):
            await wait_all_tasks_blocked()
            theirs.recv(10_000)
            mock_clock.jump(10)
            await wait_all_tasks_blocked()
            assert PING in theirs.recv(10_000)
            # All this happens while no task of the client runs.
            theirs.sendall(SETTINGS)
            mock_clock.jump(10)
            for _ in range(5):
                await wait_all_tasks_blocked()
                mock_clock.jump(1)
            assert not connection.lost
        nursery.cancel_scope.cancel(reason="the test is over")
    theirs.close()


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


async def test_a_timeout_longer_than_the_time(autojump_clock: MockClock) -> None:
    async with connected(keepalive_time=2.0, keepalive_timeout=20.0) as ends:
        call, stream_id = await ends.accepted()
        await trio.sleep(100)
        # Each silence has its PING, and the answer ends the wait for it.
        assert 48 <= pings(ends.peer) <= 50
        await ends.peer.messages(stream_id, b"a")
        await call.receive()
        ends.peer.mute = True
        began = trio.current_time()
        assert await lost(call.receive()) == "no answer to a ping within 20 s"
        # The time counts from the last data, not from the PING before.
        assert trio.current_time() - began == pytest.approx(22)


async def test_each_ping_is_judged_by_its_own_answer(autojump_clock: MockClock) -> None:
    async with connected(keepalive_time=1.0, keepalive_timeout=4.0) as ends:
        call, stream_id = await ends.accepted()
        ends.peer.mute = True
        # Some data comes 3 s after each PING, which is late but in time.
        for n in range(1, 20):
            await trio.sleep(4)
            await ends.peer.raw(data_frame(stream_id, b""))
            await wait_all_tasks_blocked()
            assert pings(ends.peer) == n
        began = trio.current_time()
        assert await lost(call.receive()) == "no answer to a ping within 4 s"
        assert trio.current_time() - began == pytest.approx(5)
