"""Cancellation at each checkpoint of a mirror's user loses and leaves nothing."""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.support.helpers import LIMIT, eventually
from trio_etcd_watch import MirrorUpdate, Watcher, open_watcher
from trio_etcd_watch.testing import Etcd


@types.coroutine
def cancelled_at(
    number: int, scope: trio.CancelScope, coroutine: Coroutine[Any, Any, None]
) -> Generator[Any, Any, bool]:
    """Run a coroutine, and cancel the scope when it yields for the n-th time.

    Returns:
        Whether it came so far.
    """
    step: Callable[[], Any] = functools.partial(coroutine.send, None)
    for count in itertools.count(1):
        try:
            trap = step()
        except StopIteration:
            break
        if count == number:
            scope.cancel()
        try:
            step = functools.partial(coroutine.send, (yield trap))
        except BaseException as exc:  # Trio throws this into the coroutine
            step = functools.partial(coroutine.throw, exc)
    return count > number


async def sweep(
    run: Callable[[], Coroutine[Any, Any, None]], check: Callable[[], Awaitable[None]]
) -> int:
    """Cancel at one checkpoint after the other; return how many there are."""
    for number in itertools.count(1):
        tasks = trio.lowlevel.current_statistics().tasks_living
        with trio.fail_after(LIMIT):
            came_so_far = False
            with trio.CancelScope() as scope:
                came_so_far = await cancelled_at(number, scope, run())
            assert trio.lowlevel.current_statistics().tasks_living == tasks
            await check()
        if not (came_so_far or scope.cancelled_caught):
            return number - 1
    raise AssertionError


class Steps(trio.abc.Instrument):
    """Cancels a scope before the n-th step of any task."""

    def __init__(self, number: int, scope: trio.CancelScope) -> None:
        self.remaining = number
        self._scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.remaining -= 1
        if self.remaining == 0:
            self._scope.cancel()


async def no_watch_is_left(etcd: Etcd, watcher: Watcher) -> None:
    """Wait until the server holds as many watches as the watcher has."""

    async def no_surplus() -> bool:
        held = (await etcd.metrics())["etcd_debugging_mvcc_watcher_total"]
        return held == watcher.statistics().live

    await eventually(no_surplus)


async def test_entering_is_cancelled_at_each_step(etcd: Etcd) -> None:
    await etcd.put("a", "1")
    async with open_watcher(etcd.endpoint) as watcher, watcher.mirror("a") as neighbour:
        entered = 0
        for number in itertools.count(1):
            tasks = trio.lowlevel.current_statistics().tasks_living
            with trio.fail_after(LIMIT):
                with trio.CancelScope() as scope:
                    steps = Steps(number, scope)
                    # This counts the steps of all tasks: others read the range and open
                    # the watch.
                    trio.lowlevel.add_instrument(steps)
                    async with watcher.mirror("a") as mirror:
                        assert mirror["a"] == neighbour["a"]
                        entered += 1
                trio.lowlevel.remove_instrument(steps)
                assert trio.lowlevel.current_statistics().tasks_living == tasks
                statistics = watcher.statistics()
                assert (statistics.live, statistics.creating) == (1, 0)
                assert statistics.streams == 1
                await no_watch_is_left(etcd, watcher)
            if steps.remaining > 0:
                break
        # At least the read and the watch, and for each the step after its answer.
        assert number >= 5
        assert 1 <= entered < number
        await etcd.put("a", "2")
        await neighbour.sync()
        assert neighbour["a"].value == b"2"


@asynccontextmanager
async def open_writer(etcd: Etcd) -> AsyncGenerator[Callable[[str, str], None]]:
    """Yield a function that makes one permanent task put a key and value soon."""
    send, receive = trio.open_memory_channel[tuple[str, str]](100)

    async def write() -> None:
        async for key, value in receive:
            await etcd.put(key, value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        yield lambda key, value: send.send_nowait((key, value))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("name", ["sync", "verify", "wait_for"])
async def test_waits_are_cancelled_at_each_checkpoint(
    etcd: Etcd, name: str, *, outside: bool
) -> None:
    await etcd.put("b", "0")
    async with (
        open_watcher(etcd.endpoint) as watcher,
        watcher.mirror("b", prefix=True) as mirror,
        open_writer(etcd) as write,
    ):
        changes = mirror.changes()
        seen = {each.key: each.new for each in (await anext(changes)).changes}
        count = 0

        async def run() -> None:
            nonlocal count
            count += 1
            if name == "sync":
                await mirror.sync()
            elif name == "verify":
                assert await mirror.verify()
            else:
                value = str(count).encode()
                write("b", value.decode())
                await mirror.wait_for(lambda m: m["b"].value == value)

        async def check() -> None:
            # No task waits any longer, and the mirror continues.
            assert mirror._follower.moved.statistics().tasks_waiting == 0
            assert not mirror._asking
            last = await etcd.put("b", "between")
            await mirror.sync()
            assert mirror.revision >= last
            fold(seen, await anext(changes))
            assert seen == dict(mirror)
            # What the user waits for. No event reports a write outside of the range.
            await etcd.put("outside" if outside else "b", "more")

        await check()
        assert await sweep(run, check) >= 1
        assert mirror.statistics().resyncs == 0
        await no_watch_is_left(etcd, watcher)


def fold(seen: dict[bytes, Any], update: MirrorUpdate) -> None:
    """Apply an update; each change must begin with the state of its consumer."""
    for change in update.changes:
        assert seen.pop(change.key, None) == change.old
        if change.new is not None:
            seen[change.key] = change.new


@pytest.mark.parametrize("early", [False, True])
async def test_iterating_is_cancelled_at_each_checkpoint(
    etcd: Etcd, *, early: bool
) -> None:
    async with (
        open_watcher(etcd.endpoint) as watcher,
        watcher.mirror("", prefix=True) as mirror,
        open_writer(etcd) as write,
    ):
        changes = mirror.changes(initial=False)
        seen: dict[bytes, Any] = dict(mirror)
        count = 0

        async def iterate() -> None:
            if not early:
                write(f"k{count}", "2")
            fold(seen, await anext(changes))

        async def check() -> None:
            nonlocal count
            assert mirror._follower.moved.statistics().tasks_waiting == 0
            if count and not early:
                await mirror.wait_for(lambda m: m[f"k{count}"].value == b"2")
            count += 1
            # The next update includes this, and everything that the cancelled one would
            # have.
            await etcd.put(f"k{count}", "1")
            await mirror.sync()
            fold(seen, await anext(changes))
            assert seen == dict(mirror)
            if early:
                # The update is available before the consumer asks for it.
                await etcd.put(f"k{count}", "2")
                await mirror.sync()

        await check()
        assert await sweep(iterate, check) >= 1 + (not early)
