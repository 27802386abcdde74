"""Service discovery: which instances of a service are up.

    python examples/service_discovery.py [ENDPOINT]

Instances write their address under a prefix, with a lease, so that the key goes when
they do. With an endpoint it prints the instances as they come and go; without one it
runs a private etcd and shows itself.
"""

import sys

import trio

from trio_etcd_watch import EventType, Watch, open_watcher
from trio_etcd_watch.testing import Etcd, open_etcd

PREFIX = "/services/mail/"


async def discover(watch: Watch, instances: dict[str, str]) -> None:
    """Keep the instances that are up, by name; ends once the last one has gone."""
    async for event in watch.events():
        name = event.kv.key.decode().removeprefix(PREFIX)
        if event.type is EventType.PUT:
            instances[name] = event.kv.value.decode()
            print("up  ", name, instances[name])
        elif name in instances:
            # With prev_kv a deletion tells what is gone.
            address = event.prev_kv.value.decode() if event.prev_kv else "?"
            del instances[name]
            print("down", name, address)
            if not instances:
                print("nobody is left")
                return


async def run(endpoint: str, etcd: Etcd | None = None) -> None:
    """Follow the service; `etcd`, if given, is one of our own, with our instances."""
    async with open_watcher(endpoint) as watcher:
        # From the first revision on: also those that were up before we began. In a
        # cluster that compacts, read the prefix first and watch from the revision after.
        async with (
            watcher.watch(PREFIX, prefix=True, start_revision=1, prev_kv=True) as watch,
            trio.open_nursery() as nursery,
        ):
            if etcd is not None:
                nursery.start_soon(play, etcd)
            while True:
                await discover(watch, {})
                if etcd is not None:
                    return


async def play(etcd: Etcd) -> None:
    """Start and stop instances, in place of real ones with leases."""
    await etcd.put(PREFIX + "one", "10.0.0.1:25")
    await etcd.put(PREFIX + "two", "10.0.0.2:25")
    await etcd.delete(PREFIX + "one")
    # What happens while the connection is away is not missed.
    await etcd.restart()
    await etcd.delete(PREFIX + "two")


async def main(arguments: list[str]) -> None:
    """Run on the endpoint given, or on an etcd of our own."""
    if arguments:
        await run(arguments[0])
    else:
        async with open_etcd() as etcd:
            await run(etcd.endpoint, etcd)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
