"""Helpers of several test files: waiting for events, and comparing them."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from trio_etcd_watch import Event, Watch

LIMIT = 30.0
"""Seconds after which a test counts as stuck; nothing measures time with it."""


async def take(watch: Watch, count: int) -> list[Event]:
    """Return this many of the next events; fail rather than wait forever."""
    events: list[Event] = []
    with trio.fail_after(LIMIT):
        async for event in watch.events():
            events.append(event)
            if len(events) == count:
                break
    return events


def brief(events: list[Event]) -> list[tuple[str, bytes, bytes, int]]:
    """Return events as plain tuples."""
    return [(e.type.name, e.kv.key, e.kv.value, e.kv.mod_revision) for e in events]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a state that no event reports, such as a server's counters."""
    with trio.fail_after(LIMIT):
        while not await condition():  # noqa: ASYNC110  # a server has no event for us
            await trio.sleep(0.02)


@asynccontextmanager
async def limit_in_real_time() -> AsyncGenerator[None]:
    """Fail after LIMIT, for tests whose clock is frozen."""
    over = threading.Event()

    async def wait() -> None:
        if not await trio.to_thread.run_sync(over.wait, LIMIT, abandon_on_cancel=True):
            raise AssertionError(f"stuck for {LIMIT:g} s")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        try:
            yield
        finally:
            over.set()
            nursery.cancel_scope.cancel(reason="the test is over")


def split(endpoint: str) -> tuple[str, int]:
    """Return host and port of an endpoint."""
    host, port = endpoint.split(":")
    return host, int(port)
