"""A watch survives cuts and kills: real servers behind a faulty proxy."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager

import pytest
import trio

from tests.support.helpers import LIMIT, eventually, split, take
from tests.support.proxy import Proxy, open_proxy
from trio_etcd_watch import (
    ClusterChangedError,
    CompactedError,
    Watch,
    Watcher,
    open_watcher,
)
from trio_etcd_watch.testing import Etcd, open_etcd


def proxy_of(etcd: Etcd) -> AbstractAsyncContextManager[Proxy]:
    return open_proxy(*split(etcd.endpoint))


async def write(etcd: Etcd, count: int, key: str = "a") -> list[int]:
    """Put this many values, each at the next revision."""
    return [await etcd.put(key, str(i)) for i in range(count)]


@pytest.mark.parametrize("fault", ["close_all", "reset_all"])
async def test_connection_lost_while_events_flow(etcd: Etcd, fault: str) -> None:
    revisions: list[int] = []

    async def writer() -> None:
        for i in range(300):
            revisions.append(await etcd.put("a", str(i)))
            if i % 50 == 25:
                getattr(proxy, fault)()

    async with proxy_of(etcd) as proxy, open_watcher(proxy.endpoint) as watcher:
        async with watcher.watch("a") as watch, trio.open_nursery() as nursery:
            nursery.start_soon(writer)
            events = await take(watch, 300)
        assert watcher.statistics().reconnects >= 1
    assert [e.kv.mod_revision for e in events] == revisions


async def test_server_killed_and_restarted(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a") as watch:
        await etcd.put("a", "1")
        assert len(await take(watch, 1)) == 1
        await etcd.kill()
        await etcd.start()
        await etcd.put("a", "2")
        await etcd.restart()
        await etcd.put("a", "3")
        assert [e.kv.value for e in await take(watch, 2)] == [b"2", b"3"]


@pytest.mark.parametrize("cut", [0, 100, 5_000, 100_000])
async def test_history_cut_at_any_byte(etcd: Etcd, cut: int) -> None:
    # About 200 kB. creation_moves_nothing: Go's client of 2016 lost all of it that
    # came after the cut.
    value = "x" * 500
    revisions = [await etcd.put("a", value) for _ in range(400)]
    async with proxy_of(etcd) as proxy, open_watcher(proxy.endpoint) as watcher:
        proxy.cut_after(cut)
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end_cuts, proxy)
                async with watcher.watch("a", start_revision=revisions[0]) as watch:
                    events = await take(watch, 400)
    assert [e.kv.mod_revision for e in events] == revisions


async def end_cuts(proxy: Proxy) -> None:
    await proxy.wait_accepted(2)
    proxy.cut_after(None)


async def test_from_now_misses_nothing_while_away(etcd: Etcd) -> None:
    async with proxy_of(etcd) as proxy, open_watcher(proxy.endpoint) as watcher:
        async with watcher.watch("a") as watch:
            proxy.refuse()
            proxy.reset_all()
            revisions = await write(etcd, 10)
            proxy.accept()
            assert [e.kv.mod_revision for e in await take(watch, 10)] == revisions


async def test_compaction_overtakes_a_disconnected_watch(etcd_binary: str) -> None:
    async with (
        open_etcd(binary=etcd_binary) as etcd,
        proxy_of(etcd) as proxy,
        open_watcher(proxy.endpoint) as watcher,
        watcher.watch("a") as watch,
    ):
        received = await write(etcd, 3)
        await eventually(lambda: has_unread(watch, 3))
        proxy.refuse()
        proxy.reset_all()
        missed = await write(etcd, 3)
        await etcd.compact(missed[-1])
        proxy.accept()
        # What was received comes first.
        await eventually(lambda: has_state(watch, "ended"))
        assert [e.kv.mod_revision for e in await take(watch, 3)] == received
        with trio.fail_after(LIMIT), pytest.raises(CompactedError) as caught:
            await anext(watch)
        assert caught.value.compact_revision == missed[-1]
        assert watch.next_revision == received[-1] + 1


async def has_unread(watch: Watch, count: int) -> bool:
    return watch.statistics().unread_events == count


async def has_state(watch: Watch, state: str) -> bool:
    return watch.statistics().state == state


async def test_progress_keeps_an_idle_watch_from_compaction(etcd_binary: str) -> None:
    # progress_always: other keys' events are compacted, of which this watch gets none.
    args = ["--watch-progress-notify-interval", "100ms"]
    async with (
        open_etcd(binary=etcd_binary, args=args) as etcd,
        proxy_of(etcd) as proxy,
        open_watcher(proxy.endpoint) as watcher,
        watcher.watch("a") as watch,
    ):
        last = (await write(etcd, 5, "other"))[-1]

        async def is_past() -> bool:
            return watch.next_revision > last

        await eventually(is_past)
        await etcd.compact(last)
        proxy.reset_all()
        revision = await etcd.put("a", "1")
        assert [e.kv.mod_revision for e in await take(watch, 1)] == [revision]


async def test_another_cluster_answers(etcd_binary: str, etcd: Etcd) -> None:
    async with (
        open_etcd(binary=etcd_binary) as other,
        proxy_of(etcd) as proxy,
        open_watcher(proxy.endpoint) as watcher,
        watcher.watch("a") as watch,
    ):
        await etcd.put("a", "1")
        await eventually(lambda: has_unread(watch, 1))
        proxy._target = split(other.endpoint)
        proxy.reset_all()
        assert len(await take(watch, 1)) == 1
        with trio.fail_after(LIMIT), pytest.raises(ClusterChangedError) as caught:
            await anext(watch)
        assert caught.value.expected == watch.created.header.cluster_id
        # The new cluster can be watched, and the old watch is not created on it.
        async with watcher.watch("a") as fresh:
            assert fresh.created.header.cluster_id == caught.value.actual
            await other.put("a", "2")
            assert [e.kv.value for e in await take(fresh, 1)] == [b"2"]


async def test_watches_come_and_go_while_connections_drop(etcd: Etcd) -> None:
    async def count() -> float:
        return (await etcd.metrics())["etcd_debugging_mvcc_watcher_total"]

    before = await count()
    seen = 0

    async def come_and_go(watcher: Watcher, number: int) -> None:
        nonlocal seen
        for turn in range(5):
            with trio.move_on_after(0.05 * ((number + turn) % 3) + 0.01) as scope:
                async with watcher.watch(f"k{number}"):
                    await trio.sleep_forever()
            assert scope.cancelled_caught
            async with watcher.watch(f"k{number}") as watch:
                revision = await etcd.put(f"k{number}", str(turn))
                events = await take(watch, 1)
                assert [e.kv.mod_revision for e in events] == [revision]
                seen += 1

    async def drop(proxy: Proxy) -> None:
        while True:
            await trio.sleep(0.15)
            proxy.reset_all()

    async with proxy_of(etcd) as proxy, open_watcher(proxy.endpoint) as watcher:
        with trio.fail_after(2 * LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drop, proxy)
                async with trio.open_nursery() as workers:
                    for number in range(40):
                        workers.start_soon(come_and_go, watcher, number)
                nursery.cancel_scope.cancel()
        assert seen == 200
        statistics = watcher.statistics()
        assert (statistics.streams, statistics.live, statistics.unread_events) == (
            0,
            0,
            0,
        )
        assert statistics.reconnects > 0

    async def is_back() -> bool:
        return await count() == before

    await eventually(is_back)


async def test_outage_is_a_few_lines_of_log(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_etcd_watch")

    def logged() -> list[str]:
        return [record.getMessage() for record in caplog.records]

    async def refused() -> bool:
        return any("refused" in line for line in logged())

    async def resumed() -> bool:
        # This is logged once the new stream has lasted longer than the longest wait.
        return "resumed after" in logged()[-1]

    async with proxy_of(etcd) as proxy, open_watcher(proxy.endpoint) as watcher:
        async with watcher.watch("a") as watch:
            proxy.refuse()
            proxy.reset_all()
            await eventually(refused)
            lines = len(logged())
            # Lets it retry a few times; an attempt that is not logged sets no event.
            await trio.sleep(1)
            assert len(logged()) == lines
            proxy.accept()
            await etcd.put("a", "secret value")
            assert len(await take(watch, 1)) == 1
            await eventually(resumed)
    assert ["connected to" in line for line in logged()] == [True, False, False, False]
    assert sum("no watch stream" in line for line in logged()) == 2
    assert "secret" not in caplog.text
