"""Print the present keys, and then each change of the state, with a mirror."""

import trio

from trio_etcd_watch import open_watcher


async def main() -> None:
    """Print what each update of the mirror changes."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        async with watcher.mirror("/config/", prefix=True) as config:
            async for update in config.changes():
                for change in update.changes:
                    value = change.new.value.decode() if change.new else "absent"
                    print(change.key.decode(), "is", value)


trio.run(main)
