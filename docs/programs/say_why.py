"""Wait for a watch, but not for ever, and say why there is none."""

import trio

from trio_etcd_watch import open_watcher


async def main() -> None:
    """Print events, once there is a watch."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        try:
            with trio.fail_after(2) as opening:
                async with watcher.watch("/config/", prefix=True) as watch:
                    # From here on it may take as long as it likes.
                    opening.deadline = float("inf")
                    async for event in watch.events():
                        print(event.type.name, event.kv.key)
        except trio.TooSlowError:
            reason = watcher.statistics().last_loss
            print(f"No watch within 2 s: {reason}")


trio.run(main)
