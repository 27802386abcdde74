"""Watch through the channel of a service that talks to etcd by purerpc.

    python examples/purerpc_channel.py [HOST PORT [CA.pem]]

Only the address and the TLS context of the channel are used, so it need not be entered,
and a watch outlives the channel's connection. Without arguments the program runs a
private etcd. `pip install 'trio-etcd-watch[purerpc]'` installs a version of purerpc
whose channels are supported.
"""

import ssl
import sys
from typing import Any

import purerpc
import trio

from trio_etcd_watch import open_watcher
from trio_etcd_watch.testing import open_etcd


async def show(host: str, port: int, context: ssl.SSLContext | None) -> None:
    """Watch through a channel, before it is entered and while it is entered."""
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
    """Run with the given server, or with a private etcd."""
    if arguments:
        host, port, *authority = arguments
        context = ssl.create_default_context(cafile=authority[0]) if authority else None
        if context:
            # etcd requires ALPN, and purerpc does not set it in the context.
            context.set_alpn_protocols(["h2"])
        await show(host, int(port), context)
    else:
        async with open_etcd() as etcd:
            await etcd.put("color", "green")
            host, _, port = etcd.endpoint.partition(":")
            await show(host, int(port), None)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
