"""Use a mirror in an asyncio program: Trio runs in a thread of its own."""

import asyncio
import concurrent.futures
from collections.abc import Callable

import trio

from trio_etcd_watch import open_watcher

Settings = dict[str, str]


async def follow(
    publish: Callable[[Settings], object],
    started: concurrent.futures.Future[Callable[[], None]],
) -> None:
    """Publish each new state of the settings. This runs under Trio, in the thread."""
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        started.set_result(lambda: token.run_sync_soon(scope.cancel))
        async with open_watcher("127.0.0.1:2379") as watcher:
            async with watcher.mirror("/config/", prefix=True) as config:
                async for _ in config.changes():
                    publish({k.decode(): kv.value.decode() for k, kv in config.items()})


async def main() -> None:
    """Run asyncio here, and Trio in a thread."""
    loop = asyncio.get_running_loop()
    states: asyncio.Queue[Settings] = asyncio.Queue()

    def publish(settings: Settings) -> None:
        loop.call_soon_threadsafe(states.put_nowait, settings)

    async def show() -> None:
        while True:
            print(await states.get())

    started: concurrent.futures.Future[Callable[[], None]] = concurrent.futures.Future()
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(trio.run, follow, publish, started))
        stop = await asyncio.wrap_future(started)
        try:
            await show()
        finally:
            stop()


if __name__ == "__main__":
    asyncio.run(main())
