"""Print the present keys, and then each change, with aetcd."""

import asyncio

import aetcd

ENDPOINT = "127.0.0.1:2379"


async def main() -> None:
    """Print keys and events until the stream is lost."""
    host, port = ENDPOINT.split(":")
    async with aetcd.Client(host, int(port)) as client:
        state = await client.get_prefix(b"/config/")
        for kv in state:
            print(kv.key.decode(), "is", kv.value.decode())
        start = state.header.revision + 1
        watch = await client.watch_prefix(b"/config/", start_revision=start)
        async for event in watch:
            print(event.kind, event.kv.key.decode(), event.kv.value.decode())


asyncio.run(main())
