"""Distribute the events of one watch to several workers, in order for each key."""

import zlib

import trio

from trio_etcd_watch import Event, open_watcher

WORKERS = 4


async def work(number: int, events: trio.MemoryReceiveChannel[Event]) -> None:
    """Process the events of some keys, one after the other."""
    async for event in events:
        key = event.kv.key.decode()
        print(f"worker {number}: {key} = {event.kv.value.decode()}")


async def main() -> None:
    """Watch, and distribute the events."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        async with watcher.watch("/jobs/", prefix=True, no_delete=True) as watch:
            print("watching")
            async with trio.open_nursery() as nursery:
                inboxes: list[trio.MemorySendChannel[Event]] = []
                for number in range(WORKERS):
                    inbox, events = trio.open_memory_channel[Event](100)
                    inboxes.append(inbox)
                    nursery.start_soon(work, number, events)
                async for event in watch.events():
                    # One worker for each key, so that its events stay in order.
                    await inboxes[zlib.crc32(event.kv.key) % WORKERS].send(event)


if __name__ == "__main__":
    trio.run(main)
