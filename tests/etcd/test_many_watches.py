"""Hundreds of watches that all get each event: delivered in steps, on real servers."""

from __future__ import annotations

import pytest
import trio

from tests.support.helpers import LIMIT, split
from tests.support.proxy import open_proxy
from trio_etcd_watch import Watcher, open_watcher
from trio_etcd_watch._grpc.reading import STEP
from trio_etcd_watch.testing import Etcd

WATCHES = 2 * STEP + 40
PUTS = 30


@pytest.mark.parametrize("fault", ["none", "reset_all"])
async def test_each_of_many_watches_gets_each_event_once(
    etcd: Etcd, fault: str
) -> None:
    revisions: list[int] = []
    seen: list[list[int]] = [[] for _ in range(WATCHES)]
    opened = 0
    all_opened = trio.Event()

    async def read(watcher: Watcher, mine: list[int]) -> None:
        nonlocal opened
        async with watcher.watch("many/", prefix=True) as watch:
            opened += 1
            if opened == WATCHES:
                all_opened.set()
            async for event in watch.events():
                mine.append(event.kv.mod_revision)
                if len(mine) == PUTS:
                    break

    async with (
        open_proxy(*split(etcd.endpoint)) as proxy,
        open_watcher(proxy.endpoint) as watcher,
    ):
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                for mine in seen:
                    nursery.start_soon(read, watcher, mine)
                await all_opened.wait()
                for i in range(PUTS):
                    revisions.append(await etcd.put(f"many/{i % 3}", str(i)))
                    if fault != "none" and i % 10 == 5:
                        getattr(proxy, fault)()
    assert all(mine == revisions for mine in seen)
