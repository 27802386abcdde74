"""Restart a service whenever its settings change to other valid settings."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import trio

from trio_etcd_watch import Mirror, MirrorUpdate, open_watcher


@dataclass(frozen=True)
class Settings:
    """The settings of the service."""

    limit: int
    mode: str


def parse(config: Mirror) -> Settings:
    """Return the settings; raise KeyError or ValueError if they are not valid."""
    limit = int(config["/config/limit"].value)
    if limit < 1:
        raise ValueError(f"limit must be positive, got {limit}")
    return Settings(limit, config["/config/mode"].value.decode())


async def next_settings(
    updates: AsyncIterator[MirrorUpdate], config: Mirror, current: Settings | None
) -> Settings:
    """Wait for valid settings that differ from the current ones."""
    async for _ in updates:
        try:
            settings = parse(config)
        except (KeyError, ValueError) as error:
            print("ignored:", error)
        else:
            if settings != current:
                return settings
    raise AssertionError("changes() never ends")


async def serve(settings: Settings) -> None:
    """Stand in for the service, which runs until it is cancelled."""
    print("serving with", settings)
    await trio.sleep_forever()


async def main() -> None:
    """Serve with the newest valid settings."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        async with watcher.mirror("/config/", prefix=True) as config:
            updates = config.changes()
            settings = await next_settings(updates, config, None)
            while True:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(serve, settings)
                    settings = await next_settings(updates, config, settings)
                    nursery.cancel_scope.cancel(reason="the settings have changed")


if __name__ == "__main__":
    trio.run(main)
