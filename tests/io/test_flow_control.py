"""Data that has to wait for the windows of both sides, and a slow transport."""

from __future__ import annotations

import contextlib

import h2.events
import h2.exceptions
import pytest
import trio
from hyperframe import frame as wire
from trio.testing import MockClock, lockstep_stream_pair, wait_all_tasks_blocked

from tests.support.connection import (
    INITIAL_WINDOW_SIZE,
    LIMIT,
    Caller,
    connected,
    connection_on,
    lost,
)
from tests.support.peer import SETTINGS, data_frame, grpc_message, pieces, raw_frame
from trio_etcd_watch._grpc.connection import MAX_UNSENT, SEND_AHEAD
from trio_etcd_watch._grpc.frames import CONNECTION_WINDOW, STREAM_WINDOW
from trio_etcd_watch._grpc.reading import RECEIVE_SIZE


async def test_window_opens_for_two_calls(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        ends.peer.gives_window = False
        calls = [await ends.accepted() for _ in range(2)]
        done = []

        async def send(call: Caller) -> None:
            await call.send([bytes(60_000)])
            done.append(call)

        async with trio.open_nursery() as nursery:
            for call, _ in calls:
                nursery.start_soon(send, call)
            await wait_all_tasks_blocked()
            # The window is 65,535 bytes for both calls: one was sent, or none.
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
            # The later call gets its window first, while the earlier one still waits.
            for _, stream_id in reversed(calls):
                if by == "WINDOW_UPDATE":
                    ends.peer.http2.increment_flow_control_window(990, stream_id)
                    await ends.peer.flush()
                assert await ends.peer.message(stream_id) == bytes(995)
        # It did not end because a ping was written.
        assert trio.current_time() < 1


async def test_window_below_nothing(autojump_clock: MockClock) -> None:
    async with connected({INITIAL_WINDOW_SIZE: 100}) as ends:
        await ends.peer.next(h2.events.SettingsAcknowledged)
        ends.peer.gives_window = False
        call, stream_id = await ends.accepted()
        await call.send([bytes(85)])
        assert await ends.peer.message(stream_id) == bytes(85)
        async with trio.open_nursery() as nursery:
            # RFC 9113, 6.9.2: 10 - 90 - 100 + 100.
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
        with trio.move_on_after(1) as limit:
            await call.send([bytes(1000)])
        assert limit.cancelled_caught
        call.reset()
        with trio.fail_after(LIMIT):
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
        # Waits for the window as a server does, so it hangs without updates.
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                for call, stream_id in calls:
                    nursery.start_soon(
                        ends.peer.messages, stream_id, *[payload] * turns
                    )
                    nursery.start_soon(count, call, turns)


async def count(call: Caller, expected: int) -> None:
    while expected:
        expected -= len(await call.receive())


@pytest.mark.parametrize("begun", [True, False])
async def test_data_after_our_own_reset(begun: bool, autojump_clock: MockClock) -> None:
    async with connected() as ends:
        if begun:
            call, stream_id = await ends.accepted()
        else:
            call = ends.call()
            stream_id = await ends.peer.accept()
        neighbour, other = await ends.accepted()
        call.reset()
        await ends.peer.reset_by_client(stream_id)
        ends.peer.events.clear()
        written = bytearray()

        async def note() -> None:
            data = ends.client.send_stream.get_data_nowait()
            written.extend(data)
            ends.server.receive_stream.put_data(data)

        ends.client.send_stream.send_all_hook = note
        frame = data_frame(stream_id, grpc_message(bytes(1000)))
        for _ in range(400):
            await ends.peer.raw(frame * 100)
            await wait_all_tasks_blocked()
        # WINDOW_UPDATEs of the connection, and nothing else.
        update = raw_frame(8, 0, 0, bytes(4))[:9]
        assert all(piece.startswith(update) for piece in pieces(bytes(written), 13))
        given_back = sum(
            int.from_bytes(piece[9:]) for piece in pieces(bytes(written), 13)
        )
        sent = 40_000 * (len(frame) - 9)
        assert sent - CONNECTION_WINDOW // 2 < given_back <= sent
        await ends.peer.messages(other, b"a")
        assert await neighbour.receive() == [b"a"]


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
