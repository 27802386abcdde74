"""Run with settings that change while the program runs."""

import trio

from trio_etcd_watch import Mirror, open_watcher

PREFIX = "/config/"


def settings(config: Mirror) -> dict[str, str]:
    """Return the settings as they are now."""
    return {
        key.decode().removeprefix(PREFIX): kv.value.decode()
        for key, kv in config.items()
    }


async def main() -> None:
    """Act as a service that needs a limit, and then follows its settings."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        async with watcher.mirror(PREFIX, prefix=True) as config:
            print("found", settings(config))
            await config.wait_for(lambda config: config.get(PREFIX + "limit"))
            async for update in config.changes():
                changed = [change.key.decode() for change in update.changes]
                print("changed:", *changed)
                print("running with", settings(config))


if __name__ == "__main__":
    trio.run(main)
