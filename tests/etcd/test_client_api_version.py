"""The client API version of our streams and unary calls in the server's metrics."""

from __future__ import annotations

import re
import urllib.request

import pytest
import trio

from tests.support.auth import READER, open_guarded
from tests.support.helpers import LIMIT
from trio_etcd_watch import Channel, open_watcher
from trio_etcd_watch._channel import API_VERSION
from trio_etcd_watch.testing import Etcd

pytestmark = pytest.mark.etcd

REQUESTS = re.compile(
    r'^etcd_server_client_requests_total{client_api_version="(.*)",type="(.*)"} (\d+)$',
    re.MULTILINE,
)


async def requests_of(etcd: Etcd) -> dict[tuple[str, str], int]:
    """Return how many requests there were, by version and kind."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{etcd.endpoint}/metrics") as reply:
            text: str = reply.read().decode()
        return text

    text = await trio.to_thread.run_sync(read)
    return {(ver, kind): int(count) for ver, kind, count in REQUESTS.findall(text)}


async def test_the_server_knows_our_version(etcd_binary: str) -> None:
    ((_, version),) = API_VERSION
    async with open_guarded(etcd_binary) as server:
        channel = Channel(server.etcd.endpoint, credentials=READER)
        with trio.fail_after(LIMIT):
            async with open_watcher(channel) as watcher, watcher.watch("r"):
                pass
        requests = await requests_of(server.etcd)
    # The set-up of the server by its gateway has an unknown version.
    assert requests.pop(("unknown", "unary")) > 0
    assert requests == {(version, "unary"): 1, (version, "stream"): 1}
