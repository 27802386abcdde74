"""Use a mirror in an asyncio program: Trio runs as a guest, in the same thread."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio
from outcome import Outcome

from trio_etcd_watch import open_watcher

Args = TypeVarTuple("Args")


async def run_trio(function: Callable[[*Args], Awaitable[None]], *args: *Args) -> None:
    """Run an async function that needs Trio, from an asyncio task."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Outcome[None]] = loop.create_future()
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await function(*args)

    trio.lowlevel.start_guest_run(
        run,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=ended.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    try:
        outcome = await asyncio.shield(ended)
    except asyncio.CancelledError:
        scope.cancel(reason="cancelled by asyncio")
        # Trio has to finish before asyncio's loop ends.
        (await ended).unwrap()
        raise
    outcome.unwrap()


async def follow(settings: dict[str, str], changed: asyncio.Event) -> None:
    """Keep a dict up to date. This runs under Trio."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        async with watcher.mirror("/config/", prefix=True) as config:
            async for _ in config.changes():
                settings.clear()
                settings |= {k.decode(): kv.value.decode() for k, kv in config.items()}
                changed.set()


async def show(settings: dict[str, str], changed: asyncio.Event) -> None:
    """Print the dict whenever it has changed. This runs under asyncio."""
    while await changed.wait():
        changed.clear()
        print(settings)


async def main() -> None:
    """Run both functions in one thread."""
    settings: dict[str, str] = {}
    changed = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(run_trio(follow, settings, changed))
        group.create_task(show(settings, changed))


if __name__ == "__main__":
    asyncio.run(main())
