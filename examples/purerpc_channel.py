"""Watches through the channel of a service that talks to etcd by purerpc.

    python examples/purerpc_channel.py [HOST PORT [CA.pem]]

Only the channel's address and TLS context are taken, so it may be entered or not, and a
watch outlives its connection. Without arguments it runs on a private etcd.
`pip install 'trio-etcd-watch[purerpc]'` brings a purerpc whose channels are known.
"""

import ssl
import sys
from typing import Any

import purerpc
import trio

from trio_etcd_watch import open_watcher
from trio_etcd_watch.testing import open_etcd


async def show(host: str, port: int, context: ssl.SSLContext | None) -> None:
    """Watch through a channel, before it is entered and while it is."""
    channel = purerpc.secure_channel(host, port, context)
    await show_first("not entered", channel)
    async with channel:
        await show_first("entered", channel)


async def show_first(state: str, channel: Any) -> None:  # noqa: ANN401  # purerpc has no types
    """Print the first change of the key `color` that is in the history."""
    async with open_watcher(channel) as watcher:
        async with watcher.watch("color", start_revision=1) as watch:
            async for event in watch.events():
                print(f"{state}: {event.kv.value.decode()}")
                return


async def main(arguments: list[str]) -> None:
    """Run on the server given, or on an etcd of our own."""
    if arguments:
        host, port, *authority = arguments
        context = ssl.create_default_context(cafile=authority[0]) if authority else None
        if context:
            # etcd asks for it, and purerpc leaves it to whoever makes the context.
            context.set_alpn_protocols(["h2"])
        await show(host, int(port), context)
    else:
        async with open_etcd() as etcd:
            await etcd.put("color", "green")
            host, _, port = etcd.endpoint.partition(":")
            await show(host, int(port), None)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
