"""Watch as a user of etcd's auth."""

import os
import sys

import trio

from trio_etcd_watch import (
    AuthenticationError,
    Channel,
    Credentials,
    PermissionDeniedError,
    open_watcher,
)


async def main() -> None:
    """Print each change."""
    credentials = Credentials("reader", os.environ["READER_PASSWORD"])
    channel = Channel("127.0.0.1:2379", credentials=credentials)
    async with open_watcher(channel) as watcher:
        try:
            async with watcher.watch("/config/", prefix=True) as watch:
                print("watching")
                async for event in watch.events():
                    print(event.type.name, event.kv.key, event.kv.value)
        except AuthenticationError as error:
            sys.exit(f"wrong user or password: {error}")
        except PermissionDeniedError as error:
            sys.exit(f"the user may not read /config/: {error.reason}")


if __name__ == "__main__":
    trio.run(main)
