"""A name with several addresses, where etcd listens at one of them."""

from __future__ import annotations

import pytest
import trio

from tests.support.helpers import LIMIT, take
from tests.support.names import Resolver
from tests.support.peer import serve_listeners
from trio_etcd_watch import Channel, open_watcher
from trio_etcd_watch.testing import Etcd

pytestmark = pytest.mark.etcd


@pytest.mark.parametrize("first", ["silent", "closing", "http1"])
async def test_the_first_address_is_no_etcd(etcd: Etcd, first: str) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        if first == "http1":
            await stream.send_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
        while await stream.receive_some() and first == "silent":
            pass

    port = int(etcd.endpoint.partition(":")[2])
    [listener] = await trio.open_tcp_listeners(port, host="127.0.0.2")
    Resolver("127.0.0.2", "127.0.0.1").use()
    async with serve_listeners([(serve, listener)]):
        # Longer than the test may take, so it is not this timeout that leads to the
        # next.
        channel = Channel(f"etcd:{port}", connect_timeout=10 * LIMIT)
        async with open_watcher(channel) as watcher:
            with trio.fail_after(LIMIT):
                async with watcher.watch("a") as watch:
                    await etcd.put("a", "1")
                    assert len(await take(watch, 1)) == 1
            assert watcher.statistics().last_loss is None
