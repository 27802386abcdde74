"""Misuses of the library: type checkers have to refuse each line marked `refused`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from trio_etcd_watch import (
    Changes,
    Channel,
    Event,
    Events,
    KeyValue,
    Mirror,
    PrefixView,
    ResponseHeader,
    Snapshot,
    Watch,
    Watcher,
    WatchOptions,
    WatchResponse,
    WatchState,
    open_watcher,
)
from trio_etcd_watch.testing import Etcd, put_event


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
    await watcher.request_progress_nowait()  # refused
    watch.next_revision = 7  # refused
    watcher.statistics().reconnects = 0  # refused
    snapshot = await watcher.snapshot("/a")
    snapshot[b"/a"] = None  # refused
    async with watcher.mirror("/a") as mirror:
        del mirror[b"/a"]  # refused
        await mirror.wait_for(True)  # refused
        for _ in mirror.changes():  # refused
            pass


def ranges(watcher: Watcher, flag: bool, end: str | None) -> None:
    watcher.watch("/a", prefix=True, range_end="/b")  # refused
    watcher.watch("/a", prefix=True, range_end=end)  # refused
    watcher.watch("/a", prefix=flag, range_end="/b")  # refused
    watcher.watch("/a", prefix=True, from_key=True)  # refused
    watcher.watch("/a", range_end="/b", from_key=True)  # refused
    watcher.watch("/a", range_end="/b", from_key=flag, prev_kv=True)  # refused
    watcher.watch("/a", prefix="/a")  # refused
    watcher.watch("/a", range_end=7)  # refused
    watcher.watch("/a", revision=7)  # refused
    watcher.watch("/a", prefix=True, prev_kv="yes")  # refused
    watcher.mirror("/a", prefix=True, range_end="/b")  # refused
    watcher.mirror("/a", prefix=True, from_key=True)  # refused
    watcher.mirror("/a", range_end="/b", from_key=True)  # refused
    watcher.mirror("/a", start_revision=7)  # refused


async def reads(watcher: Watcher) -> None:
    await watcher.snapshot("/a", prefix=True, range_end="/b")  # refused
    await watcher.snapshot("/a", prefix=True, from_key=True)  # refused
    await watcher.snapshot("/a", range_end="/b", from_key=True)  # refused
    await watcher.snapshot("/a", start_revision=7)  # refused


def constructed(watcher: Watcher, watch: Watch, mirror: Mirror) -> None:
    Watcher()  # refused
    Watcher(watcher, None)  # refused
    Watch()  # refused
    Watch(None)  # refused
    Events()  # refused
    Events(None)  # refused
    Mirror()  # refused
    Mirror({})  # refused
    PrefixView()  # refused
    PrefixView(mirror, b"/a")  # refused
    Changes()  # refused
    Changes(mirror, None)  # refused
    Snapshot()  # refused
    Snapshot(ResponseHeader(1, 1, 1, 1), 1, {}, None)  # refused
    WatchResponse()  # refused
    WatchResponse(None, [])  # refused
    KeyValue()  # refused
    KeyValue(b"/a", b"", 1, 1, 1, 0)  # refused
    Event()  # refused
    Event(1)  # refused
    Etcd()  # refused
    Etcd(None, [], directory=Path(), resources=ExitStack())  # refused


def state() -> WatchState:
    return "asleep"  # refused


def options() -> WatchOptions:
    return {"prefix": True}  # refused


def values(kv: KeyValue) -> None:
    kv.value = b""  # refused
    kv.value + "text"  # refused
    put_event("/a")  # refused
