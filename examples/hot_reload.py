"""Hot reload of configuration: a setting changes while the service runs.

    python examples/hot_reload.py [ENDPOINT]

With an endpoint the program serves until `etcdctl put /config/mode off`; any other
setting can be changed likewise. Without an endpoint it runs a private etcd and changes
the settings there.
"""

import sys

import trio

from trio_etcd_watch import Mirror, open_watcher
from trio_etcd_watch.testing import Etcd, Put, open_etcd

PREFIX = "/config/"


async def serve(config: Mirror) -> None:
    """Act as the service, which uses the settings."""
    # Each update leads to a complete state: a transaction takes effect at once.
    async for _ in config.changes():
        settings = {
            key.decode().removeprefix(PREFIX): kv.value.decode()
            for key, kv in config.items()
        }
        print("now running with", settings)
        if settings.get("mode") == "off":
            return


async def run(endpoint: str, etcd: Etcd | None = None) -> None:
    """Serve; if the private `etcd` is given, change the settings there."""
    async with (
        open_watcher(endpoint) as watcher,
        watcher.mirror(PREFIX, prefix=True) as config,
        trio.open_nursery() as nursery,
    ):
        if etcd is not None:
            nursery.start_soon(change, etcd)
        await serve(config)


async def change(etcd: Etcd) -> None:
    """Change settings, in place of an operator with etcdctl."""
    await etcd.txn(Put(PREFIX + "limit", "7"), Put(PREFIX + "mode", "fast"))
    await trio.sleep(0.2)
    await etcd.put(PREFIX + "mode", "off")


async def main(arguments: list[str]) -> None:
    """Run with the given endpoint, or with a private etcd."""
    if arguments:
        await run(arguments[0])
        return
    async with open_etcd() as etcd:
        # A mirror reads the present state, so it does not need the compacted history.
        await etcd.compact(await etcd.put(PREFIX + "limit", "5"))
        await run(etcd.endpoint, etcd)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
