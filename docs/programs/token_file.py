"""Watch with a JWT from a file, which another program renews."""

import trio

from trio_etcd_watch import Channel, open_watcher


async def read_token() -> str:
    """Return the token that is in the file now."""
    return (await trio.Path("etcd-token").read_text()).strip()


async def main() -> None:
    """Print each change."""
    channel = Channel("127.0.0.1:2379", token=read_token)
    async with open_watcher(channel) as watcher:
        async with watcher.watch("/config/", prefix=True) as watch:
            print("watching")
            async for event in watch.events():
                print(event.type.name, event.kv.key, event.kv.value)


if __name__ == "__main__":
    trio.run(main)
