"""Uses of the library that type checkers have to accept, with the types expected."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Literal, Unpack, assert_type

from trio_etcd_watch import (
    Change,
    Changes,
    Channel,
    CompactedError,
    Credentials,
    Event,
    Events,
    EventType,
    KeyValue,
    Metadata,
    MetadataLike,
    Mirror,
    MirrorUpdate,
    PrefixView,
    Snapshot,
    TokenSource,
    Watch,
    Watcher,
    WatcherStatistics,
    WatchOptions,
    WatchResponse,
    WatchState,
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
        events = watch.events()
        assert_type(events, Events)
        async for event in events:
            assert_type(event.is_create, bool)
        state: WatchState = watch.statistics().state
        as_text: str = state
        assert as_text
        assert_type(state, Literal["creating", "live", "parked", "resuming", "ended"])
    await watcher.request_progress()
    assert_type(watcher.request_progress_nowait(), None)


async def ranges(
    watcher: Watcher, flag: bool, end: str | bytes | None, keys: dict[str, Any]
) -> None:
    async with (
        watcher.watch("/a") as plain,
        watcher.watch("/a", prefix=True) as by_prefix,
        watcher.watch(b"/a", prefix=flag, prev_kv=flag),
        watcher.watch("/a", range_end=end),
        watcher.watch("/a", range_end=None, from_key=True),
        watcher.watch("/a", from_key=flag),
        watcher.watch("/a", prefix=False, range_end=b"/b", from_key=False) as by_end,
        watcher.watch("/a", prefix=flag, range_end=None, from_key=False),
        watcher.watch("/a", **keys) as by_any,
    ):
        for watch in (plain, by_prefix, by_end, by_any):
            assert_type(watch, Watch)
    assert_type(await watcher.snapshot("/a", prefix=flag, revision=7), Snapshot)
    assert_type(await watcher.snapshot("/a", range_end=end), Snapshot)
    assert_type(await watcher.snapshot("/a", from_key=flag), Snapshot)
    assert_type(await watcher.snapshot("/a", prefix=False, range_end="/b"), Snapshot)
    for opened in (
        watcher.mirror("/a", prefix=flag),
        watcher.mirror("/a", range_end=end, metadata={"name": "value"}),
        watcher.mirror("/a", from_key=flag),
        watcher.mirror("/a", prefix=False, range_end=None, from_key=True),
    ):
        async with opened as mirror:
            assert_type(mirror, Mirror)


async def follow(watcher: Watcher, **options: Unpack[WatchOptions]) -> None:
    """A user's own function that passes options on."""
    async with watcher.watch("/a", prefix=True, **options) as watch:
        assert_type(watch, Watch)


async def follows(watcher: Watcher, metadata: MetadataLike) -> None:
    await follow(watcher)
    await follow(watcher, start_revision=7, metadata=metadata, prev_kv=True)
    options: WatchOptions = {"progress_notify": True}
    await follow(watcher, **options)


async def reads(watcher: Watcher) -> None:
    snapshot = await watcher.snapshot("/a", prefix=True)
    assert_type(snapshot, Snapshot)
    as_mapping: Mapping[bytes, KeyValue] = snapshot
    assert_type(as_mapping[b"/a/b"].mod_revision, int)
    async with watcher.mirror("/a", prefix=True) as mirror:
        assert_type(mirror, Mirror)
        await mirror.wait_for(lambda mirror: b"/a/b" in mirror)
        assert_type(mirror.get("/a"), KeyValue | None)
        assert_type(mirror.get(b"/a", 7), KeyValue | int)
        assert_type(mirror.prefix("/a/"), PrefixView)
        changes = mirror.changes(initial=False)
        assert_type(changes, Changes)
        async for update in changes:
            assert_type(update, MirrorUpdate)
            assert_type(update.changes, tuple[Change, ...])


async def token() -> str:
    return ""


async def opened() -> None:
    source: TokenSource = token
    with_token = Channel("unix:///etcd", token=source)
    assert_type(with_token.metadata, Metadata)
    secure = Channel(
        "a:2379",
        "https://b:2379",
        ssl_context=ssl.create_default_context(),
        credentials=Credentials("user", "password"),
        metadata={"name": "value"},
        keepalive_time=5,
    )
    for channel in ("a:2379", ["a:2379", "b:2379"], ("a:2379",), secure):
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
