"""How a mirror is kept right: faults, lost events, `sync()` and `verify()`."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import trio

from tests.support.helpers import LIMIT, eventually, split
from tests.support.proxy import open_proxy
from tests.support.ranges import open_reader
from trio_etcd_watch import (
    Channel,
    ClusterChangedError,
    Mirror,
    RpcError,
    StatusCode,
    open_watcher,
)
from trio_etcd_watch._arguments import key_range
from trio_etcd_watch._snapshot import Range
from trio_etcd_watch.testing import Delete, Etcd, Put, open_etcd

ALL = Range(*key_range("", prefix=True))


async def check(mirror: Mirror, etcd: Etcd) -> None:
    """Compare with a read at the mirror's revision by another client."""
    async with open_reader(etcd.endpoint) as reader:
        assert dict(mirror) == dict(
            await reader.snapshot(ALL, revision=mirror.revision)
        )


async def test_it_lives_through_cuts_and_restarts(etcd: Etcd) -> None:
    async with (
        open_proxy(*split(etcd.endpoint)) as proxy,
        open_watcher(proxy.endpoint) as watcher,
        watcher.mirror("", prefix=True) as mirror,
    ):
        with trio.fail_after(2 * LIMIT):
            for count in range(5):
                proxy.reset_all()
                await etcd.txn(Put("a", str(count)), Put(f"b{count}", "1"))
                if count % 3 == 0:
                    await etcd.delete(f"b{count}")
                await mirror.sync()
                assert mirror["a"].value == str(count).encode()
                await check(mirror, etcd)
            await etcd.kill()
            await etcd.start()
            await etcd.put("a", "after")
            await mirror.sync()
            assert mirror["a"].value == b"after"
            await check(mirror, etcd)
        assert mirror.statistics().resyncs == 0


async def test_a_compaction_while_away_is_one_update(
    etcd_binary: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        open_etcd(binary=etcd_binary) as etcd,
        open_proxy(*split(etcd.endpoint)) as proxy,
        open_watcher(proxy.endpoint) as watcher,
    ):
        await etcd.txn(Put("a", "1"), Put("b", "1"), Put("c", "1"))
        with trio.fail_after(LIMIT):
            async with watcher.mirror("", prefix=True) as mirror:
                changes = mirror.changes(initial=False)
                proxy.refuse()
                proxy.reset_all()
                await etcd.put("a", "2")
                await etcd.delete("b")
                last = await etcd.put("d", "1")
                await etcd.compact(last)
                proxy.accept()
                update = await anext(changes)
                assert [change.key for change in update.changes] == [b"a", b"b", b"d"]
                assert (update.revision, update.resynced) == (last, True)
                await check(mirror, etcd)
                assert mirror.statistics().resyncs == 1
                # The mirror continues.
                await etcd.put("a", "3")
                assert [change.key for change in (await anext(changes)).changes] == [
                    b"a"
                ]
    assert "read again: the required revision has been compacted" in caplog.text
    assert "differed in 3 keys, such as b'a'" in caplog.text


def drop(mirror: Mirror, key: bytes) -> None:
    """Change the mirror as if the last event of this key had been lost."""
    replica = mirror._follower.replica
    del replica.mapping[key]


async def test_verify_mends_what_nothing_else_shows(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    await etcd.put("a", "1")
    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.mirror("", prefix=True) as mirror:
                assert await mirror.verify()
                await etcd.txn(Put("b", "1"), Put("c", "1"))
                await mirror.sync()
                drop(mirror, b"b")
                assert not await mirror.verify()
                await check(mirror, etcd)
                assert list(mirror) == [b"a", b"b", b"c"]
                assert await mirror.verify()
                assert mirror.statistics().resyncs == 1
    assert "b'b' is version 1" in caplog.text


async def test_a_broken_chain_is_mended(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    await etcd.put("a", "1")
    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.mirror("", prefix=True) as mirror:
                drop(mirror, b"a")
                await etcd.put("a", "2")
                await mirror.wait_for(lambda m: b"a" in m)
                await check(mirror, etcd)
                assert mirror.statistics().resyncs == 1
    assert "an event of b'a'" in caplog.text
    assert "was lost" in caplog.text


async def test_a_resume_is_proved(etcd: Etcd, caplog: pytest.LogCaptureFixture) -> None:
    await etcd.put("a", "1")
    async with (
        open_proxy(*split(etcd.endpoint)) as proxy,
        open_watcher(proxy.endpoint) as watcher,
    ):
        with trio.fail_after(LIMIT):
            async with watcher.mirror("", prefix=True) as mirror:
                await etcd.put("b", "1")
                await mirror.sync()
                drop(mirror, b"b")
                proxy.refuse()
                proxy.reset_all()
                await etcd.put("c", "1")
                proxy.accept()
                await mirror.wait_for(lambda m: {b"a", b"b", b"c"} == m.keys())
    assert "b'b'" in caplog.text


async def test_what_is_to_be_proved_may_be_compacted(etcd_binary: str) -> None:
    async with (
        open_etcd(binary=etcd_binary) as etcd,
        open_watcher(etcd.endpoint) as watcher,
    ):
        await etcd.put("a", "1")
        with trio.fail_after(LIMIT):
            async with watcher.mirror("a") as mirror:
                for count in range(3):
                    last = await etcd.put("outside", str(count))
                    await etcd.compact(last)
                    assert await mirror.verify()
                    assert mirror.revision >= last
                assert mirror.statistics().resyncs == 0


async def test_sync_shows_what_was_written_before_it(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.mirror("b", prefix=True) as mirror:
                for count in range(100):
                    value = str(count)
                    match count % 4:
                        case 0:
                            last = await etcd.put("b", value)
                        case 1:
                            last = await etcd.txn(Put("b", value), Put("outside", ""))
                        case 2:
                            last = await etcd.txn(Delete("b"), Put("outside", ""))
                        case _:
                            # A key that no longer exists afterwards.
                            await etcd.put("b2", "came")
                            last = await etcd.delete("b2")
                    await mirror.sync()
                    assert mirror.revision >= last
                    if count % 4 < 2:
                        assert mirror["b"].value == value.encode()
                    elif count % 4 == 2:
                        assert b"b" not in mirror
                assert mirror.statistics().resyncs == 0


async def test_sync_reads_anew_what_the_watch_does_not_bring(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.mirror("b", prefix=True) as mirror:
                await etcd.put("b", "1")
                await mirror.wait_for(len)
                drop(mirror, b"b")
                await etcd.put("outside", "1")
                await mirror.sync()
                assert mirror["b"].value == b"1"
                assert mirror.statistics().resyncs == 1


async def test_a_log_line_names_no_value(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await etcd.put("a", "secret value")
    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.mirror("a") as mirror:
                drop(mirror, b"a")
                assert not await mirror.verify()
    assert "a mirror" in caplog.text
    assert "secret" not in caplog.text


async def test_lost_history_sets_it_back(
    etcd_binary: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backup = tmp_path / "backup"
    async with (
        open_etcd(binary=etcd_binary) as etcd,
        open_watcher(etcd.endpoint) as watcher,
    ):
        first = await etcd.put("a", "1")
        await etcd.stop()
        await trio.to_thread.run_sync(shutil.copytree, etcd.data_dir, backup)
        await etcd.start()
        for count in range(20):
            last = await etcd.put("a", str(count))
        await etcd.put("b", "1")
        with trio.fail_after(LIMIT):
            async with watcher.mirror("", prefix=True) as mirror:
                changes = mirror.changes(initial=False)
                assert mirror.revision > last
                await etcd.kill()
                shutil.rmtree(etcd.data_dir)
                shutil.copytree(backup, etcd.data_dir)
                await etcd.start()
                update = await anext(changes)
                assert [change.key for change in update.changes] == [b"a", b"b"]
                assert update.resynced
                assert mirror.revision == update.revision < last
                assert mirror["a"].value == b"1"
                assert mirror["a"].mod_revision == first
                await etcd.put("a", "again")
                await mirror.sync()
                assert mirror["a"].value == b"again"
                await check(mirror, etcd)
                assert await mirror.verify()


async def test_another_cluster_ends_the_block(etcd_binary: str, etcd: Etcd) -> None:
    async with (
        open_etcd(binary=etcd_binary) as other,
        open_proxy(*split(etcd.endpoint)) as proxy,
        open_watcher(proxy.endpoint) as watcher,
    ):
        with trio.fail_after(LIMIT), pytest.raises(ClusterChangedError):
            async with watcher.mirror("a"):
                proxy._target = split(other.endpoint)
                proxy.reset_all()
                await trio.sleep_forever()


async def test_a_value_that_is_too_large_ends_the_block(etcd: Etcd) -> None:
    channel = Channel(etcd.endpoint, max_message_size=10_000)
    await etcd.put("a", "1")
    async with open_watcher(channel) as watcher:
        with trio.fail_after(LIMIT), pytest.raises(RpcError) as caught:
            async with watcher.mirror("a"):
                await etcd.put("a", bytes(20_000))
                await trio.sleep_forever()
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


async def test_waits_end_where_they_are_cancelled(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher, watcher.mirror("a") as mirror:
        for wait in (mirror.sync, mirror.verify):
            with trio.CancelScope() as scope:
                scope.cancel()
                await wait()
            assert scope.cancelled_caught
        assert await mirror.verify()
    for steps in range(60):
        # Cancels after this many checkpoints, anywhere in entering and leaving.
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel(scope: trio.CancelScope, steps: int) -> None:
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel, scope, steps)
                async with open_watcher(etcd.endpoint) as watcher:
                    async with watcher.mirror("a") as mirror:
                        await mirror.sync()

    async def nothing_is_left() -> bool:
        return (await etcd.metrics())["etcd_debugging_mvcc_watcher_total"] == 0

    await eventually(nothing_is_left)
