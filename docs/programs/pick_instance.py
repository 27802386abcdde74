"""Send each request to an instance of a service that is up."""

import random

import trio

from trio_etcd_watch import Mirror, open_watcher


async def pick(instances: Mirror) -> str:
    """Return the address of an instance; wait while there is none."""
    await instances.wait_for(len)
    return random.choice(list(instances.values())).value.decode()


async def main() -> None:
    """Send ten requests a second."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        async with watcher.mirror("/services/mail/", prefix=True) as instances:
            while True:
                print("sending to", await pick(instances))
                await trio.sleep(0.1)  # in place of a request


if __name__ == "__main__":
    trio.run(main)
