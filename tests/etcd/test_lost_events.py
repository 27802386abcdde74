"""Mirrors of a server that skips events silently: etcd #17529.

Before 3.4.31 and 3.5.13, a watch whose start is compacted gets an error only if the
queue of its stream has room at that moment (mvcc's `chooseAll`). Otherwise it continues
after the newest revision, as if it had received everything. The queue is short, and
many watches that are created at once on one stream fill it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.support.followers import resyncs_noted
from tests.support.helpers import LIMIT, split
from tests.support.proxy import Proxy, open_proxy
from tests.support.ranges import open_reader
from trio_etcd_watch import CompactedError, Mirror, Watcher, open_watcher
from trio_etcd_watch._arguments import key_range
from trio_etcd_watch._follower import Follower
from trio_etcd_watch._snapshot import Range
from trio_etcd_watch.testing import Delete, Etcd, Put, open_etcd

MIRRORS = 20
OTHERS = 300
"""Watches that fill the queue of 128 responses."""

TURNS = 20
"""How often to try. Usually once is enough: in 20 of 20 tries, 3.5.1 and 3.4.23 sent no
error to 60 to 182 of the watches, and to 3 to 16 of the mirrors."""

ALL = Range(*key_range("", prefix=True))


class Temptation:
    """Mirrors and watches of one stream, and a server that they all reconnect to."""

    def __init__(self, etcd: Etcd, proxy: Proxy, watcher: Watcher) -> None:
        self.found = 0
        """How often a mirror was read again without an error from the server."""
        self._etcd = etcd
        self._proxy = proxy
        self._watcher = watcher

    def note(self, follower: Follower, why: str) -> None:
        """Record the reasons for which a mirror is read again."""
        self.found += "compacted" not in why

    async def compact_while_away(self, mirrors: list[Mirror], turn: int) -> int:
        """Return how many of the other watches got no error for the compaction."""
        etcd = self._etcd
        self._proxy.refuse()
        self._proxy.reset_all()
        await etcd.put("a", f"turn {turn}")
        await etcd.txn(Delete(f"b{turn}"), Put(f"b{turn + 1}", ""))
        newest = await etcd.put("c", "")
        await etcd.compact(newest)
        async with trio.open_nursery() as nursery:
            ends: Counter[str] = Counter()
            for _ in range(OTHERS):
                nursery.start_soon(self._ask_for_what_is_gone, ends)
            self._proxy.accept()
            async with open_reader(etcd.endpoint) as reader:
                there = await reader.snapshot(ALL)
            for mirror in mirrors:
                await mirror.wait_for(lambda m: m == there)
            # A watch that got no error gets this as if nothing was missing before it.
            while ends.total() < OTHERS:
                await etcd.put("c", "")
                await trio.sleep(0.1)
        return ends["event"]

    async def _ask_for_what_is_gone(self, ends: Counter[str]) -> None:
        try:
            async with self._watcher.watch("c", start_revision=1) as watch:
                await anext(watch)
        except CompactedError:
            ends["compacted"] += 1
        else:
            ends["event"] += 1


@asynccontextmanager
async def open_mirrors(watcher: Watcher) -> AsyncGenerator[list[Mirror]]:
    mirrors: list[Mirror] = []

    async def show(task_status: trio.TaskStatus[None]) -> None:
        async with watcher.mirror("", prefix=True) as mirror:
            mirrors.append(mirror)
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as opening:
            for _ in range(MIRRORS):
                opening.start_soon(nursery.start, show)
        yield mirrors
        nursery.cancel_scope.cancel(reason="done")


def skips_unsaid(etcd: Etcd) -> bool:
    return etcd.version < (3, 4, 31) or (3, 5, 0) <= etcd.version < (3, 5, 13)


async def test_events_that_the_server_skips_are_found(
    etcd_binary: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    skipped = found = turns = 0
    async with (
        open_etcd(binary=etcd_binary) as etcd,
        open_proxy(*split(etcd.endpoint)) as proxy,
        open_watcher(proxy.endpoint) as watcher,
        open_mirrors(watcher) as mirrors,
    ):
        temptation = Temptation(etcd, proxy, watcher)
        with trio.fail_after(4 * LIMIT), resyncs_noted(temptation.note):
            while turns < TURNS and not (skipped and found):
                skipped += await temptation.compact_while_away(mirrors, turns)
                found = temptation.found
                turns += 1
                if not skips_unsaid(etcd):
                    break
            for mirror in mirrors:
                assert await mirror.verify()
    assert "a mirror differed in" in caplog.text
    assert bool(skipped) == skips_unsaid(etcd)
    if skips_unsaid(etcd):
        assert found
