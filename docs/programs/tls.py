"""Watch a cluster over mutual TLS."""

import ssl

import trio

from trio_etcd_watch import Channel, open_watcher


async def main() -> None:
    """Print each change."""
    context = ssl.create_default_context(cafile="ca.pem")
    context.load_cert_chain("client.pem", "client-key.pem")
    channel = Channel("https://127.0.0.1:2379", ssl_context=context)
    async with open_watcher(channel) as watcher:
        async with watcher.watch("/config/", prefix=True) as watch:
            print("watching")
            async for event in watch.events():
                print(event.type.name, event.kv.key, event.kv.value)


if __name__ == "__main__":
    trio.run(main)
