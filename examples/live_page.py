"""A page that shows etcd's keys as they change, served over HTTP/2 by Hypercorn.

    python examples/live_page.py [ENDPOINT]
    curl --http2-prior-knowledge --no-buffer URL     # the URL is printed

The watch and the server share a process, an event loop and a nursery. Without an
endpoint the program runs a private etcd, in which a key counts the seconds. Ctrl-C ends
the program. It needs `pip install hypercorn quart-trio`.
"""

import html
import signal
import sys
from collections.abc import AsyncIterator, Mapping

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response
from quart_trio import QuartTrio

from trio_etcd_watch import EventType, Watch, open_watcher
from trio_etcd_watch.testing import Etcd, open_etcd

PREFIX = "/config/"


class Page:
    """The present keys and values."""

    def __init__(self) -> None:
        """Begin without keys."""
        self.values: dict[str, str] = {}
        self.changed = trio.Event()

    async def follow(self, watch: Watch) -> None:
        """Keep the values equal to those in etcd."""
        async for response in watch:
            for event in response.events:
                name = event.kv.key.decode().removeprefix(PREFIX)
                if event.type is EventType.DELETE:
                    self.values.pop(name, None)
                else:
                    self.values[name] = event.kv.value.decode()
            self.changed.set()
            self.changed = trio.Event()

    async def rows(self) -> AsyncIterator[str]:
        """Yield a row for each state; a slow reader skips intermediate states."""
        while True:
            changed = self.changed
            yield row(self.values)
            await changed.wait()


def row(values: Mapping[str, str]) -> str:
    """Return the values as a line of HTML."""
    text = ", ".join(f"{name} = {value}" for name, value in sorted(values.items()))
    return f"<p>{html.escape(text) or 'nothing yet'}</p>\n"


def application(page: Page) -> QuartTrio:
    """Return the web application: one page, which never ends."""
    app = QuartTrio(__name__)

    @app.get("/")
    async def live() -> Response:
        response = Response(page.rows(), mimetype="text/html")
        response.timeout = None
        return response

    return app


async def run(endpoint: str) -> None:
    """Serve the page until SIGINT or SIGTERM."""
    page = Page()
    config = Config()
    config.bind = ["127.0.0.1:0"]
    async with (
        open_watcher(endpoint) as watcher,
        # The watch starts at revision 1, to include what was set before.
        watcher.watch(PREFIX, prefix=True, start_revision=1) as watch,
        trio.open_nursery() as nursery,
    ):
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            nursery.start_soon(page.follow, watch)
            (url,) = await nursery.start(serve, application(page), config)
            print(url, flush=True)
            async for _ in signals:
                nursery.cancel_scope.cancel(reason="shutdown requested")
                return


async def count(etcd: Etcd) -> None:
    """Change a key every second."""
    for seconds in range(sys.maxsize):
        await etcd.put(f"{PREFIX}seconds", str(seconds))
        await trio.sleep(1)


async def main(arguments: list[str]) -> None:
    """Run with the given endpoint, or with a private etcd."""
    if arguments:
        await run(arguments[0])
    else:
        async with open_etcd() as etcd, trio.open_nursery() as nursery:
            nursery.start_soon(count, etcd)
            await run(etcd.endpoint)
            nursery.cancel_scope.cancel(reason="shutdown requested")


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
