"""The commands of a scripted etcd that a real one cannot follow; without a server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.helpers import brief
from trio_etcd_watch import (
    AuthenticationError,
    ClusterChangedError,
    CompactedError,
    HistoryLostError,
    NoLeaderError,
    PermissionDeniedError,
    StatusCode,
    WatchCanceledError,
    Watcher,
)
from trio_etcd_watch.testing import (
    Delete,
    EtcdRequestError,
    Put,
    ScriptedEtcd,
    delete_event,
    put_event,
    watch_response,
)

LIMIT = 20_000.0
"""Virtual seconds after which a test counts as stuck."""


@asynccontextmanager
async def watcher_on(etcd: ScriptedEtcd) -> AsyncGenerator[Watcher]:
    with trio.fail_after(LIMIT):
        async with etcd.open_watcher() as watcher:
            yield watcher


async def test_it_is_a_watcher(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd({"a": "1", "b": "2"})
    async with watcher_on(etcd) as watcher:
        assert isinstance(watcher, Watcher)
        snapshot = await watcher.snapshot("", prefix=True)
        assert {key: kv.mod_revision for key, kv in snapshot.items()} == {
            b"a": 2,
            b"b": 3,
        }
    with pytest.raises(trio.ClosedResourceError):
        await watcher.snapshot("a")


async def test_two_watchers_on_one(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd()
    async with watcher_on(etcd) as one, watcher_on(etcd) as two:
        async with one.watch("a") as first, two.watch("a") as second:
            await etcd.put("a", "1")
            assert brief(list((await anext(first)).events)) == [("PUT", b"a", b"1", 2)]
            assert brief(list((await anext(second)).events)) == [("PUT", b"a", b"1", 2)]


async def test_responses_of_the_tests_own_making(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd()
    async with (
        watcher_on(etcd) as watcher,
        watcher.watch("a", progress_notify=True) as watch,
        watcher.watch("b") as other,
    ):
        etcd.respond(
            watch_response(
                put_event("a", "1", mod_revision=5),
                put_event("b", "1", mod_revision=5),
                delete_event("a", mod_revision=7),
                revision=9,
            )
        )
        response = await anext(watch)
        assert brief(list(response.events)) == [
            ("PUT", b"a", b"1", 5),
            ("DELETE", b"a", b"", 7),
        ]
        assert response.header.revision == 9
        assert [e.kv.key for e in (await anext(other)).events] == [b"b"]
        # By now the put is part of the history.
        assert list(await watcher.snapshot("", prefix=True)) == [b"b"]
        assert await etcd.put("a", "2") == 10
        assert [e.kv.version for e in (await anext(watch)).events] == [1]
        with pytest.raises(ValueError, match="above revision 10, got 10"):
            etcd.respond(watch_response(put_event("a", mod_revision=10)))
        etcd.respond(watch_response(revision=20))
        progress = await anext(watch)
        assert (progress.is_progress_notify, progress.header.revision) == (True, 20)
        assert watch.next_revision == 21


async def test_a_mirror_of_responses(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd({"a": "1"})
    async with (
        watcher_on(etcd) as watcher,
        watcher.mirror("", prefix=True) as mirror,
    ):
        changes = mirror.changes(initial=False)
        before = mirror["a"]
        etcd.respond(
            watch_response(put_event("a", "2", mod_revision=3, prev_kv=before))
        )
        update = await anext(changes)
        assert (update.revision, update.resynced) == (3, False)
        # An event that does not continue its key: the range is read again.
        etcd.respond(
            watch_response(
                put_event("a", "9", mod_revision=9, create_revision=2, version=9)
            )
        )
        update = await anext(changes)
        assert update.resynced
        assert mirror["a"].version == 9
        assert await mirror.verify()


@pytest.mark.parametrize("reason", ["because", "etcdserver: permission denied"])
async def test_watches_that_are_canceled(
    autojump_clock: MockClock, reason: str
) -> None:
    etcd = ScriptedEtcd({"a": "1"})
    async with watcher_on(etcd) as watcher, watcher.watch("a") as watch:
        await etcd.put("a", "2")
        etcd.respond(watch_response(canceled=True, cancel_reason=reason))
        # Earlier events come first.
        assert (await anext(watch)).events
        with pytest.raises(WatchCanceledError, match=f"^{reason}") as info:
            await anext(watch)
        assert isinstance(info.value, PermissionDeniedError) == ("denied" in reason)
        assert etcd.watches == 0


async def test_compaction_under_a_watch(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd({"a": "1"})
    async with watcher_on(etcd) as watcher, watcher.watch("a") as watch:
        etcd.respond(watch_response(compact_revision=9))
        with pytest.raises(CompactedError) as info:
            await anext(watch)
        assert info.value.compact_revision == 9


async def test_compaction_while_it_is_away(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd()
    async with watcher_on(etcd) as watcher, watcher.watch("a") as watch:
        etcd.disconnect()
        await etcd.put("a", "1")
        await etcd.compact(await etcd.put("a", "2"))
        with pytest.raises(CompactedError) as info:
            await anext(watch)
        assert info.value.compact_revision == 3


async def test_down(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd()
    with pytest.raises(RuntimeError, match="is running"):
        await etcd.start()
    async with watcher_on(etcd) as watcher, watcher.watch("a") as watch:
        await etcd.kill()
        with pytest.raises(ConnectionRefusedError):
            await etcd.put("a", "1")
        with trio.move_on_after(3600) as scope:
            await anext(watch)
        assert scope.cancelled_caught
        assert "is down" in str(watcher.statistics().last_loss)
        await etcd.start()
        await etcd.wait_watched()
        await etcd.put("a", "1")
        assert (await anext(watch)).events
        assert watcher.statistics().reconnects == 1


async def test_denied(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd({"s": "1", "a": "1"})
    etcd.deny("s")
    async with watcher_on(etcd) as watcher, watcher.watch("a") as neighbour:
        with pytest.raises(
            PermissionDeniedError, match="etcdserver: permission denied"
        ):
            await watcher.watch("s").__aenter__()
        with pytest.raises(PermissionDeniedError):
            await watcher.snapshot("", prefix=True)
        with pytest.raises(PermissionDeniedError):
            await watcher.mirror("s").__aenter__()
        await etcd.put("a", "2")
        assert (await anext(neighbour)).events
        etcd.allow()
        assert list(await watcher.snapshot("s")) == [b"s"]


async def test_a_status_that_passes(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd()
    async with watcher_on(etcd) as watcher, watcher.watch("a") as watch:
        etcd.end_streams(StatusCode.UNAVAILABLE, "etcdserver: no leader")
        await etcd.put("a", "1")
        assert (await anext(watch)).events


async def test_a_status_that_does_not(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd()
    async with watcher_on(etcd) as watcher:
        async with watcher.watch("a", require_leader=True) as watch:
            etcd.end_streams(StatusCode.UNAVAILABLE, "etcdserver: no leader")
            with pytest.raises(NoLeaderError):
                await anext(watch)
        async with watcher.watch("a") as watch:
            etcd.end_streams(
                StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token"
            )
            with pytest.raises(AuthenticationError):
                await anext(watch)
        async with watcher.watch("a") as watch:
            # Without a creation to refuse it is an ordinary loss.
            etcd.end_streams(StatusCode.INVALID_ARGUMENT, "no")
            await etcd.put("a", "1")
            assert (await anext(watch)).events


async def test_another_cluster(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd({"a": "1"})
    async with watcher_on(etcd) as watcher, watcher.watch("a") as watch:
        etcd.change_cluster()
        with pytest.raises(ClusterChangedError):
            await anext(watch)
        assert len(await watcher.snapshot("", prefix=True)) == 0


async def test_lost_history(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd({"a": "1"})
    async with watcher_on(etcd) as watcher, watcher.watch("a") as watch:
        await etcd.put("a", "2")
        assert (await anext(watch)).events
        etcd.lose_history(2)
        with pytest.raises(HistoryLostError) as info:
            await anext(watch)
        assert (info.value.expected, info.value.actual) == (3, 2)
        assert (await watcher.snapshot("a"))["a"].value == b"1"


async def test_requests_are_refused_as_by_etcd(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd()
    with pytest.raises(EtcdRequestError, match="duplicate key given"):
        await etcd.txn(Put("a", "1"), Delete("a"))
    with pytest.raises(EtcdRequestError, match="future revision"):
        await etcd.compact(9)
    await etcd.compact(1)
    with pytest.raises(EtcdRequestError, match="has been compacted"):
        await etcd.compact(1)


async def test_who_waits_for_watches(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd()
    async with watcher_on(etcd) as watcher, trio.open_nursery() as nursery:

        async def use() -> None:
            async with watcher.watch("a") as watch:
                await anext(watch)

        assert etcd.watches == 0
        nursery.start_soon(use)
        nursery.start_soon(use)
        await etcd.wait_watched(2)
        assert etcd.watches == 2
        await etcd.put("a", "1")
        await trio.testing.wait_all_tasks_blocked()
        assert etcd.watches == 0


async def test_everything_is_a_checkpoint(autojump_clock: MockClock) -> None:
    etcd = ScriptedEtcd({"a": "1"})
    for call in (
        lambda: etcd.put("a", "1"),
        lambda: etcd.delete("a"),
        lambda: etcd.txn(),
        lambda: etcd.revision(),
        lambda: etcd.compact(2),
        lambda: etcd.wait_watched(0),
        lambda: etcd.kill(),
        lambda: etcd.start(),
    ):
        with trio.testing.assert_checkpoints():
            await call()
