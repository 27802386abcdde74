"""Misuses that each type checker has to refuse, in each line that says so."""

from __future__ import annotations

from trio_etcd_watch import Channel, KeyValue, Watch, Watcher, open_watcher
from trio_etcd_watch.testing import put_event


def opened() -> None:
    open_watcher(123)  # refused
    open_watcher(None)  # refused
    open_watcher(b"a:2379")  # refused
    Channel(["a:2379"])  # refused
    Channel("a:2379", credentials=("user", "password"))  # refused
    Channel("a:2379", keepalive=5)  # refused


async def watched(watcher: Watcher, watch: Watch) -> None:
    watcher.watch(7)  # refused
    watcher.watch("/a", True)  # refused
    watcher.watch("/a", start_revision="7")  # refused
    await watcher.watch("/a")  # refused
    watch.next_revision = 7  # refused
    watcher.statistics().reconnects = 0  # refused
    snapshot = await watcher.snapshot("/a")
    snapshot[b"/a"] = None  # refused
    async with watcher.mirror("/a") as mirror:
        del mirror[b"/a"]  # refused
        await mirror.wait_for(True)  # refused
        for _ in mirror.changes():  # refused
            pass


def values(kv: KeyValue) -> None:
    kv.value = b""  # refused
    kv.value + "text"  # refused
    put_event("/a")  # refused
