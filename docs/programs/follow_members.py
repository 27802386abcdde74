"""Follow a cluster whose members change, and show which endpoints are known."""

import trio

from trio_etcd_watch import Channel, open_watcher


async def main() -> None:
    """Print each change, and the endpoints that are known at that time."""
    channel = Channel("127.0.0.1:2379", follow_members=True)
    async with open_watcher(channel) as watcher:
        async with watcher.watch("/config/", prefix=True) as watch:
            print("watching")
            async for event in watch.events():
                print(event.type.name, event.kv.key.decode())
                for each in watcher.statistics().endpoints:
                    mark = "*" if each.in_use else " "
                    print(mark, each.endpoint, each.source)


if __name__ == "__main__":
    trio.run(main)
