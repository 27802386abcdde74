"""Read the present state, then follow every change after it."""

import trio

from trio_etcd_watch import CompactedError, Watcher, open_watcher


async def follow(watcher: Watcher) -> None:
    """Print the present keys, and then each event, until history is compacted."""
    jobs = await watcher.snapshot("/jobs/", prefix=True)
    for kv in jobs.values():
        print("there:", kv.key, kv.value)
    async with watcher.watch(
        "/jobs/", prefix=True, start_revision=jobs.revision + 1
    ) as watch:
        async for event in watch.events():
            print(event.type.name, event.kv.key, event.kv.value)


async def main() -> None:
    """Follow the keys, and begin again when history was compacted."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        while True:
            try:
                await follow(watcher)
            except CompactedError as error:
                print("compacted at revision", error.compact_revision)


if __name__ == "__main__":
    trio.run(main)
