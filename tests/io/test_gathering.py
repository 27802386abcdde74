"""Messages for many consumers: delivered in steps, and gathered before, for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.connection import PATH, Ends, connected
from tests.support.peer import data_frame, grpc_message
from trio_etcd_watch._grpc.connection import Call
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._grpc.reading import (
    MAX_GATHER_TIME,
    MAX_GATHERED,
    MOMENT,
    RECEIVE_SIZE,
    SEVERAL,
    STEP,
)
from trio_etcd_watch._grpc.status import CallEnd, StreamLost

WANTED = SEVERAL * STEP
"""How many messages are gathered after a delivery in one whole step."""
STEPS = 1000
"""How many steps a long delivery has."""


class Stepwise:
    """A call whose receiver takes its messages in steps.

    Attributes:
        taken: the sizes of the messages, for each time that there were any.
        times: when that was.
        done: how many steps were made.
        steps: how many a delivery has.
        after: what is done in each step.
    """

    def __init__(self, ends: Ends, steps: int = 1) -> None:
        self.taken: list[list[int]] = []
        self.times: list[float] = []
        self.done = 0
        self.steps = steps
        self.after: Callable[[], object] = lambda: None
        self.call: Call = ends.connection.open_call(PATH, (), self._deliver)

    def _deliver(self, messages: list[bytes | Oversized]) -> Iterator[None]:
        self.taken.append([len(each) for each in messages if isinstance(each, bytes)])
        self.times.append(trio.current_time())
        for _ in range(self.steps):
            self.done += 1
            self.after()
            yield

    async def end(self) -> CallEnd:
        return await self.call.wait_end()


async def begin(ends: Ends, steps: int = 1) -> tuple[Stepwise, int]:
    """Return a call that has had a delivery of this many steps."""
    stepwise = Stepwise(ends, steps)
    stream_id = await ends.peer.accept_call()
    await ends.peer.raw(data_frame(stream_id, grpc_message(b"1")))
    await wait_all_tasks_blocked()
    assert stepwise.taken == [[1]]
    stepwise.taken.clear()
    stepwise.times.clear()
    return stepwise, stream_id


async def begin_steps(
    ends: Ends, after: Callable[[], object] = lambda: None
) -> Stepwise:
    """Return a call within a delivery of `STEPS`, of which the first is done."""
    stepwise, stream_id = await begin(ends, steps=0)
    stepwise.steps, stepwise.after = STEPS, after
    await send(ends, stream_id, [2])
    while not stepwise.done:
        await trio.lowlevel.checkpoint()
    return stepwise


async def send(ends: Ends, stream_id: int, sizes: list[int]) -> None:
    await ends.peer.raw(
        *(data_frame(stream_id, grpc_message(bytes(size))) for size in sizes)
    )


async def test_messages_wait_a_moment_for_others(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        stepwise, stream_id = await begin(ends)
        began = trio.current_time()
        await send(ends, stream_id, [2])
        await wait_all_tasks_blocked()
        assert stepwise.taken == []
        await trio.sleep(MOMENT / 2)
        await send(ends, stream_id, [3])
        await trio.sleep(MOMENT * 3 / 4)
        assert stepwise.taken == []
        await trio.sleep(MOMENT)
        assert stepwise.taken == [[2, 3]]
        assert stepwise.times == [pytest.approx(began + MOMENT * 3 / 2)]


async def test_messages_that_trickle_in(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        stepwise, stream_id = await begin(ends)
        began = trio.current_time()
        while not stepwise.taken:
            await send(ends, stream_id, [2])
            await trio.sleep(MOMENT / 2)
        assert stepwise.times[0] - began <= MAX_GATHER_TIME + MOMENT


async def test_several_messages_for_each_do_not_wait(
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends:
        stepwise, stream_id = await begin(ends)
        began = trio.current_time()
        await send(ends, stream_id, [2] * (WANTED - 1))
        await wait_all_tasks_blocked()
        assert stepwise.taken == []
        await send(ends, stream_id, [3])
        await wait_all_tasks_blocked()
        assert stepwise.taken == [[2] * (WANTED - 1) + [3]]
        assert stepwise.times == [began]


async def test_large_messages_do_not_wait_for_long(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        stepwise, stream_id = await begin(ends)
        size = 16_000
        await send(ends, stream_id, [size] * (MAX_GATHERED // size + 1))
        await wait_all_tasks_blocked()
        assert MAX_GATHERED - 2 * size < sum(stepwise.taken[0])
        assert sum(stepwise.taken[0]) <= MAX_GATHERED + RECEIVE_SIZE


async def test_after_a_delivery_of_less_than_a_step_nothing_waits(
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends:
        stepwise, stream_id = await begin(ends, steps=0)
        began = trio.current_time()
        await send(ends, stream_id, [2])
        await wait_all_tasks_blocked()
        assert stepwise.taken == [[2]]
        assert stepwise.times == [began]


async def test_other_tasks_run_between_steps(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        stepwise, stream_id = await begin(ends, steps=0)
        stepwise.steps = 20
        seen = set()
        await send(ends, stream_id, [2])
        while stepwise.done < 20:
            seen.add(stepwise.done)
            await trio.lowlevel.checkpoint()
        assert len(seen) > 10


async def test_the_rest_is_abandoned_once_the_call_has_ended(
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends:
        stepwise = await begin_steps(ends)
        stepwise.call.reset("enough")
        done = stepwise.done
        assert str(await stepwise.end()) == "enough"
        await wait_all_tasks_blocked()
        assert stepwise.done == done


async def test_the_rest_is_delivered_if_the_connection_is_lost(
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends:
        stepwise = await begin_steps(ends)
        assert stepwise.done < STEPS
        ends.connection.close("enough")
        assert stepwise.done == STEPS
        assert str(await stepwise.end()) == "enough"
        await wait_all_tasks_blocked()
        assert stepwise.done == STEPS


async def test_a_step_that_closes_the_connection(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        done = 0

        def deliver(messages: list[bytes | Oversized]) -> Iterator[None]:
            nonlocal done
            yield
            ends.connection.close("enough")
            yield
            done += 1

        call = ends.connection.open_call(PATH, (), deliver)
        stream_id = await ends.peer.accept_call()
        await send(ends, stream_id, [2])
        assert str(await call.wait_end()) == "enough"
        assert done == 0


async def test_a_long_delivery_is_no_silence(autojump_clock: MockClock) -> None:
    async with connected(keepalive_time=0.1, keepalive_timeout=0.05) as ends:
        stepwise = await begin_steps(ends, after=lambda: autojump_clock.jump(0.01))
        while stepwise.done < STEPS:
            await trio.lowlevel.checkpoint()
        # If it were lost, the rest would have been delivered at once.
        assert not ends.connection.lost


async def test_a_call_that_ends_while_another_makes_its_steps(
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends:
        first, first_id = await begin(ends, steps=0)
        second, second_id = await begin(ends, steps=0)
        first.steps = 1000
        await ends.peer.raw(
            data_frame(first_id, grpc_message(b"1")),
            data_frame(second_id, grpc_message(b"2")),
        )
        while not first.done:
            await trio.lowlevel.checkpoint()
        second.call.reset("enough")
        await wait_all_tasks_blocked()
        assert first.done == 1000
        assert second.taken == []


async def test_a_receiver_that_fails_at_a_later_step(autojump_clock: MockClock) -> None:
    async with connected() as ends:

        def deliver(messages: list[bytes | Oversized]) -> Iterator[None]:
            yield
            raise StreamLost("that is no message")

        call = ends.connection.open_call(PATH, (), deliver)
        stream_id = await ends.peer.accept_call()
        await send(ends, stream_id, [2])
        assert str(await call.wait_end()) == "that is no message"
        assert not ends.connection.lost


async def test_what_was_gathered_is_delivered_if_the_connection_breaks(
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends:
        stepwise, stream_id = await begin(ends)
        await send(ends, stream_id, [2, 3])
        await wait_all_tasks_blocked()
        assert stepwise.taken == []
        await ends.server.send_eof()
        assert "closed" in str(await stepwise.end())
        assert stepwise.taken == [[2, 3]]
        assert stepwise.done == 2


async def test_what_was_gathered_is_delivered_if_the_call_ends(
    autojump_clock: MockClock,
) -> None:
    async with connected() as ends:
        stepwise, stream_id = await begin(ends, steps=5)
        await send(ends, stream_id, [2, 3])
        await ends.peer.status(stream_id)
        await stepwise.end()
        assert stepwise.taken == [[2, 3]]
        assert stepwise.done == 10
