"""Print the present keys, and then each change, with trio-etcd-watch."""

import trio

from trio_etcd_watch import open_watcher


async def main() -> None:
    """Print keys and events, across every loss of the stream."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        state = await watcher.snapshot("/config/", prefix=True)
        for kv in state.values():
            print(kv.key.decode(), "is", kv.value.decode())
        async with watcher.watch(
            "/config/", prefix=True, start_revision=state.revision + 1
        ) as watch:
            async for event in watch.events():
                kv = event.kv
                print(event.type.name, kv.key.decode(), kv.value.decode())


trio.run(main)
