"""Uses that each type checker has to accept, with the types that it has to see."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import assert_type

from trio_etcd_watch import (
    Change,
    Channel,
    CompactedError,
    Credentials,
    Event,
    EventType,
    KeyValue,
    Mirror,
    MirrorUpdate,
    Snapshot,
    Watch,
    Watcher,
    WatcherStatistics,
    WatchResponse,
    open_watcher,
)
from trio_etcd_watch.testing import Etcd, ScriptedEtcd, open_etcd, put_event


async def watches(watcher: Watcher) -> None:
    async with watcher.watch(b"/a", range_end="/b", start_revision=7) as watch:
        assert_type(watch, Watch)
        assert_type(watch.next_revision, int)
        async for response in watch:
            assert_type(response, WatchResponse)
            for event in response.events:
                assert_type(event, Event)
                assert_type(event.type, EventType)
                assert_type(event.kv.value, bytes)
                assert_type(event.prev_kv, KeyValue | None)
        async for event in watch.events():
            assert_type(event.is_create, bool)


async def reads(watcher: Watcher) -> None:
    snapshot = await watcher.snapshot("/a", prefix=True)
    assert_type(snapshot, Snapshot)
    as_mapping: Mapping[bytes, KeyValue] = snapshot
    assert_type(as_mapping[b"/a/b"].mod_revision, int)
    async with watcher.mirror("/a", prefix=True) as mirror:
        assert_type(mirror, Mirror)
        await mirror.wait_for(lambda mirror: b"/a/b" in mirror)
        async for update in mirror.changes(initial=False):
            assert_type(update, MirrorUpdate)
            assert_type(update.changes, tuple[Change, ...])


async def opened() -> None:
    secure = Channel(
        "a:2379",
        "https://b:2379",
        ssl_context=ssl.create_default_context(),
        credentials=Credentials("user", "password"),
        metadata={"name": "value"},
        keepalive_time=5,
    )
    for channel in ("a:2379", ["a:2379", "b:2379"], secure):
        async with open_watcher(channel) as watcher:
            assert_type(watcher, Watcher)
            assert_type(watcher.statistics(), WatcherStatistics)
    try:
        await watches(watcher)
    except CompactedError as error:
        assert_type(error.compact_revision, int)


async def tested() -> None:
    async with open_etcd() as etcd:
        assert_type(etcd, Etcd)
        assert_type(etcd.endpoint, str)
    assert_type(put_event("/a", "1", mod_revision=2), Event)
    async with ScriptedEtcd().open_watcher() as watcher:
        assert_type(watcher, Watcher)
