"""Service discovery: follow which instances of a service are up.

    python examples/service_discovery.py [ENDPOINT]

Instances write their address under a prefix, with a lease, so that the key is deleted
when an instance ends. With an endpoint the program prints which instances start and
stop; without one it runs a private etcd and does so for two instances there.
"""

import sys

import trio

from trio_etcd_watch import Mirror, open_watcher
from trio_etcd_watch.testing import Etcd, Put, open_etcd

PREFIX = "/services/mail/"


async def discover(instances: Mirror, *, forever: bool) -> None:
    """Print which instances start and stop, beginning with those that are up."""
    async for update in instances.changes():
        for change in update.changes:
            name = change.key.decode().removeprefix(PREFIX)
            if change.new is not None:
                print("up  ", name, change.new.value.decode())
            elif change.old is not None:
                print("down", name, change.old.value.decode())
        if not instances and not forever:
            print("nobody is left")
            return


async def run(endpoint: str, etcd: Etcd | None = None) -> None:
    """Follow the service; if the private `etcd` is given, stop its instances."""
    async with (
        open_watcher(endpoint) as watcher,
        watcher.mirror(PREFIX, prefix=True) as instances,
        trio.open_nursery() as nursery,
    ):
        if etcd is not None:
            nursery.start_soon(stop_instances, etcd)
        await discover(instances, forever=etcd is None)


async def stop_instances(etcd: Etcd) -> None:
    """Delete the keys of the instances, as the end of their leases would."""
    await etcd.delete(PREFIX + "one")
    # The mirror also reports what happens while it is disconnected.
    await etcd.restart()
    await etcd.delete(PREFIX + "two")


async def main(arguments: list[str]) -> None:
    """Run with the given endpoint, or with a private etcd."""
    if arguments:
        await run(arguments[0])
        return
    async with open_etcd() as etcd:
        up = Put(PREFIX + "one", "10.0.0.1:25"), Put(PREFIX + "two", "10.0.0.2:25")
        # A mirror reads the present state, so it does not need the compacted history.
        await etcd.compact(await etcd.txn(*up))
        await run(etcd.endpoint, etcd)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
