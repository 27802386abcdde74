"""Service discovery: which instances of a service are up.

    python examples/service_discovery.py [ENDPOINT]

Instances write their address under a prefix, with a lease, so that the key goes when
they do. With an endpoint it prints the instances as they come and go; without one it
runs a private etcd and shows itself.
"""

import sys

import trio

from trio_etcd_watch import Mirror, open_watcher
from trio_etcd_watch.testing import Etcd, Put, open_etcd

PREFIX = "/services/mail/"


async def discover(instances: Mirror, *, forever: bool) -> None:
    """Tell who comes and goes, whoever is up to begin with included."""
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
    """Follow the service; `etcd`, if given, is one of our own, with our instances."""
    async with (
        open_watcher(endpoint) as watcher,
        watcher.mirror(PREFIX, prefix=True) as instances,
        trio.open_nursery() as nursery,
    ):
        if etcd is not None:
            nursery.start_soon(stop_instances, etcd)
        await discover(instances, forever=etcd is None)


async def stop_instances(etcd: Etcd) -> None:
    """Stop one instance after the other, in place of leases that end."""
    await etcd.delete(PREFIX + "one")
    # What happens while the connection is away is not missed.
    await etcd.restart()
    await etcd.delete(PREFIX + "two")


async def main(arguments: list[str]) -> None:
    """Run on the endpoint given, or on an etcd of our own."""
    if arguments:
        await run(arguments[0])
        return
    async with open_etcd() as etcd:
        up = Put(PREFIX + "one", "10.0.0.1:25"), Put(PREFIX + "two", "10.0.0.2:25")
        # The history of who is up may be gone: a mirror reads who is there.
        await etcd.compact(await etcd.txn(*up))
        await run(etcd.endpoint, etcd)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
