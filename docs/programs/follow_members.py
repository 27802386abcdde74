"""Reach a cluster whose members come and go, and show which are known."""

import trio

from trio_etcd_watch import Channel, open_watcher


async def main() -> None:
    """Print what changes, and the endpoints that are known then."""
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
