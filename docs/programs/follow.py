"""Print each change below /config/, from now on."""

import trio

from trio_etcd_watch import open_watcher


async def main() -> None:
    """Watch until Ctrl-C."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        async with watcher.watch("/config/", prefix=True) as watch:
            print("watching from revision", watch.next_revision)
            async for event in watch.events():
                print(event.type.name, event.kv.key, event.kv.value)


if __name__ == "__main__":
    trio.run(main)
