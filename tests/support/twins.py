"""Programs that use the library, to be run on a real etcd and on a scripted one.

Each records what it gets in a form that is the same for both: revisions count from the
one before the program began.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from unittest import mock

import pytest
import trio

from tests.support.helpers import LIMIT, take
from trio_etcd_watch import (
    CompactedError,
    Event,
    FutureRevisionError,
    KeyValue,
    MirrorUpdate,
    Watcher,
    _reads,
)
from trio_etcd_watch.testing import Delete, Etcd, Put, ScriptedEtcd


@dataclass
class Stage:
    """Where a program runs, and what it has recorded."""

    etcd: Etcd | ScriptedEtcd
    watcher: Watcher
    base: int
    log: list[Any] = field(default_factory=list)

    def note(self, *what: object) -> None:
        self.log.append(what)

    def ago(self, revision: int) -> int:
        """Return a revision relative to the first one; 0 means none."""
        return revision and revision - self.base

    def key(self, kv: KeyValue | None) -> object:
        if kv is None:
            return None
        created, put = self.ago(kv.create_revision), self.ago(kv.mod_revision)
        return kv.key, kv.value, created, put, kv.version, kv.lease

    def event(self, event: Event) -> None:
        kinds = event.type.name, event.is_create, event.is_modify
        self.note(*kinds, self.key(event.kv), self.key(event.prev_kv))

    def update(self, update: MirrorUpdate) -> None:
        # The flag `resynced` is left out: a slow server also causes a resync.
        changes = [(c.key, self.key(c.old), self.key(c.new)) for c in update.changes]
        self.note("update", self.ago(update.revision), changes)

    def keys(self, keys: Iterable[KeyValue]) -> None:
        self.note("keys", [self.key(kv) for kv in keys])

    def error(self, error: BaseException) -> None:
        self.note(type(error).__name__)


Program: TypeAlias = Callable[[Stage], Awaitable[None]]


async def run(
    program: Program,
    etcd: Etcd | ScriptedEtcd,
    opened: AbstractAsyncContextManager[Watcher],
) -> list[Any]:
    """Run a program; return what it has recorded."""
    base = await etcd.revision()
    with trio.fail_after(LIMIT):
        async with opened as watcher:
            stage = Stage(etcd, watcher, base)
            await program(stage)
    return stage.log


async def write(etcd: Etcd | ScriptedEtcd) -> None:
    """Write so that there is every kind of event."""
    await etcd.put("k/a", "1")
    await etcd.txn(Put("k/a", "2"), Put("k/b", "1"), Put("l", "1"))
    await etcd.delete("k/a")
    await etcd.delete("absent")
    await etcd.put(b"k/\xff", b"\xfe")
    await etcd.put("k/a", "")
    await etcd.txn(Delete("k/", prefix=True), Put("l", "2"))


async def from_now(stage: Stage) -> None:
    async with stage.watcher.watch(
        "k/", prefix=True, prev_kv=True, created_notify=True
    ) as watch:
        stage.note(stage.ago(watch.created.header.revision), watch.created.created)
        await write(stage.etcd)
        first = await anext(watch)
        stage.note(first.created, list(first.events))
        for event in await take(watch, 9):
            stage.event(event)
        stage.note(stage.ago(watch.next_revision))


async def from_history(stage: Stage) -> None:
    await write(stage.etcd)
    wanted: list[tuple[int, dict[str, Any]]] = [
        (9, {"key": "k/", "prefix": True}),
        (5, {"key": "k/", "prefix": True, "no_delete": True}),
        (4, {"key": "", "prefix": True, "no_put": True}),
        (4, {"key": "k/a"}),
        (11, {"key": "k/", "from_key": True}),
        (5, {"key": "k/", "range_end": "k/b"}),
    ]
    for count, arguments in wanted:
        for start in (1, 3):
            async with stage.watcher.watch(
                **arguments, start_revision=stage.base + start
            ) as watch:
                events = await take(watch, count if start == 1 else 1)
                for event in events:
                    stage.event(event)
                stage.note(stage.ago(watch.next_revision))


async def snapshots(stage: Stage) -> None:
    await write(stage.etcd)
    for revision in (0, 1, 2, 5):
        at = revision and stage.base + revision
        snapshot = await stage.watcher.snapshot("", prefix=True, revision=at)
        stage.keys(snapshot.values())
        stage.note(stage.ago(snapshot.revision), stage.ago(snapshot.header.revision))
    with pytest.raises(FutureRevisionError) as info:
        await stage.watcher.snapshot("k", revision=stage.base + 1_000)
    stage.error(info.value)


async def pages(stage: Stage) -> None:
    for page in range(13):
        await stage.etcd.txn(*(Put(f"p/{page:02}/{key}", "v") for key in range(100)))
    # Otherwise so small a database is read in one page.
    with mock.patch.object(_reads, "WHOLE_SIZE", 0):
        snapshot = await stage.watcher.snapshot("p/", prefix=True)
    stage.keys(snapshot.values())


async def compaction(stage: Stage) -> None:
    await write(stage.etcd)
    compacted = stage.base + 4
    await stage.etcd.compact(compacted)
    with pytest.raises(CompactedError) as info:
        async with stage.watcher.watch("k", start_revision=compacted - 1) as watch:
            await anext(watch)
    stage.error(info.value)
    stage.note(stage.ago(info.value.compact_revision), str(info.value.reason))
    with pytest.raises(CompactedError) as info:
        await stage.watcher.snapshot("k", revision=compacted - 1)
    stage.error(info.value)
    async with stage.watcher.watch(
        "k/", prefix=True, start_revision=compacted
    ) as watch:
        for event in await take(watch, 4):
            stage.event(event)
    snapshot = await stage.watcher.snapshot("k/", prefix=True, revision=compacted)
    stage.keys(snapshot.values())


async def a_kill(stage: Stage) -> None:
    async with stage.watcher.watch("k/", prefix=True) as watch:
        await stage.etcd.put("k/a", "1")
        events = await take(watch, 1)
        await stage.etcd.put("k/a", "2")
        await stage.etcd.kill()
        await stage.etcd.start()
        await write(stage.etcd)
        for event in events + await take(watch, 10):
            stage.event(event)


async def a_mirror(stage: Stage) -> None:
    await write(stage.etcd)
    async with stage.watcher.mirror("", prefix=True) as mirror:
        stage.keys(mirror.values())
        changes = mirror.changes()
        stage.update(await anext(changes))
        await write(stage.etcd)
        await mirror.sync()
        stage.update(await anext(changes))
        stage.keys(mirror.prefix("l").values())
        stage.note(await mirror.verify())
        await stage.etcd.put("k/c", "9")
        await mirror.wait_for(lambda mirror: mirror.get("k/c"))
        stage.update(await anext(changes))
        stage.note(stage.ago(mirror.revision))


async def a_mirror_through_compaction(stage: Stage) -> None:
    await write(stage.etcd)
    async with stage.watcher.mirror("", prefix=True) as mirror:
        changes = mirror.changes(initial=False)
        await stage.etcd.kill()
        await stage.etcd.start()
        await mirror.sync()
        await stage.etcd.put("k/c", "9")
        await mirror.sync()
        stage.update(await anext(changes))
        await stage.etcd.compact(await stage.etcd.revision())
        stage.keys(mirror.copy().values())
        stage.note(await mirror.verify())


async def a_slow_consumer(stage: Stage) -> None:
    async with stage.watcher.watch("k/", prefix=True, max_buffered_events=1) as watch:
        for number in range(20):
            await stage.etcd.put("k/a", str(number))
        for event in await take(watch, 20):
            stage.event(event)


async def progress(stage: Stage) -> None:
    async with stage.watcher.watch("k", progress_notify=True) as watch:
        await stage.etcd.put("k", "1")
        for event in await take(watch, 1):
            stage.event(event)
        await stage.etcd.put("elsewhere", "1")
        # Some servers do not answer while a watch lags behind.
        response = None
        while response is None:
            await stage.watcher.request_progress()
            with trio.move_on_after(1):
                response = await anext(watch)
        stage.note(response.is_progress_notify, stage.ago(response.header.revision))


async def misuse(stage: Stage) -> None:
    async with stage.watcher.watch("k") as watch:
        pass
    attempts: list[Callable[[], Awaitable[object]]] = [
        functools.partial(anext, watch),
        functools.partial(stage.watcher.snapshot, ""),
        functools.partial(stage.watcher.snapshot, 7),
        functools.partial(stage.watcher.snapshot, "k", prefix=True, from_key=True),
    ]
    for attempt in attempts:
        try:
            await attempt()
        except (ValueError, TypeError, trio.ClosedResourceError) as exc:
            stage.note(type(exc).__name__, str(exc))
    async with stage.watcher.watch("k") as watch, trio.open_nursery() as nursery:
        nursery.start_soon(anext, watch)
        await trio.testing.wait_all_tasks_blocked()
        try:
            await anext(watch)
        except trio.BusyResourceError as exc:
            stage.error(exc)
        nursery.cancel_scope.cancel()
    stage.note(stage.watcher.statistics().streams)


PROGRAMS: list[Program] = [
    from_now,
    from_history,
    snapshots,
    pages,
    compaction,
    a_kill,
    a_mirror,
    a_mirror_through_compaction,
    a_slow_consumer,
    progress,
    misuse,
]
