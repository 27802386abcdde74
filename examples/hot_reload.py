"""Hot reload of configuration: a setting changes while the service runs.

    python examples/hot_reload.py [ENDPOINT]

With an endpoint it serves until interrupted; change a setting with
`etcdctl put /config/limit 5`. Without one it runs a private etcd and shows itself.
"""

import sys

import trio

from trio_etcd_watch import EventType, Watch, open_watcher
from trio_etcd_watch.testing import Etcd, open_etcd

PREFIX = "/config/"


class Config:
    """The settings as they are now."""

    def __init__(self) -> None:
        """Begin without any."""
        self.settings: dict[str, str] = {}
        self.changed = trio.Event()

    async def follow(self, watch: Watch) -> None:
        """Keep the settings as etcd has them."""
        # Responses, not events: what one transaction wrote together takes effect
        # together.
        async for response in watch:
            for event in response.events:
                name = event.kv.key.decode().removeprefix(PREFIX)
                if event.type is EventType.DELETE:
                    self.settings.pop(name, None)
                else:
                    self.settings[name] = event.kv.value.decode()
            self.changed.set()
            self.changed = trio.Event()


async def serve(config: Config, *, changes: int | None = None) -> None:
    """Stand for the service, which uses the settings."""
    while changes is None or changes > 0:
        await config.changed.wait()
        print("now running with", dict(sorted(config.settings.items())))
        if changes is not None:
            changes -= 1


async def run(endpoint: str, etcd: Etcd | None = None) -> None:
    """Serve; `etcd`, if given, is one of our own, in which we change the settings."""
    config = Config()
    async with open_watcher(endpoint) as watcher:
        # From the first revision on: also what was set before we began. In a cluster
        # that compacts, read the prefix first and watch from the revision after it.
        async with (
            watcher.watch(PREFIX, prefix=True, start_revision=1) as watch,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(config.follow, watch)
            if etcd is None:
                await serve(config)
                return
            nursery.start_soon(change, etcd)
            await serve(config, changes=3)
            nursery.cancel_scope.cancel()


async def change(etcd: Etcd) -> None:
    """Change settings, in place of an operator with etcdctl."""
    for setting, value in (("limit", "5"), ("mode", "fast"), ("limit", "7")):
        await etcd.put(PREFIX + setting, value)
        await trio.sleep(0.2)


async def main(arguments: list[str]) -> None:
    """Run on the endpoint given, or on an etcd of our own."""
    if arguments:
        await run(arguments[0])
    else:
        async with open_etcd() as etcd:
            await run(etcd.endpoint, etcd)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
