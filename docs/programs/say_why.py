"""Wait for a watch for a limited time, and print why there is none."""

import trio

from trio_etcd_watch import open_watcher


async def main() -> None:
    """Print events once the watch is open."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        try:
            with trio.fail_after(2) as opening:
                async with watcher.watch("/config/", prefix=True) as watch:
                    # The watch is open: events may take any time.
                    opening.deadline = float("inf")
                    async for event in watch.events():
                        print(event.type.name, event.kv.key)
        except trio.TooSlowError:
            reason = watcher.statistics().last_loss
            print(f"No watch within 2 s: {reason}")


trio.run(main)
