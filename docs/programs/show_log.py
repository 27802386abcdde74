"""Show everything that the library logs."""

import logging

import trio

from trio_etcd_watch import open_watcher


async def main() -> None:
    """Print the first event of a key."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        async with watcher.watch("/config/limit", start_revision=1) as watch:
            async for event in watch.events():
                print(event.kv.key, event.kv.value)
                return


logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
logging.getLogger("trio_etcd_watch").setLevel(logging.DEBUG)
trio.run(main)
