"""Bounded memory: parking, huge revisions, and the limit for one response."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest
import trio

from tests.support.helpers import LIMIT, eventually, split, take
from tests.support.proxy import open_proxy
from trio_etcd_watch import (
    Channel,
    CompactedError,
    RpcError,
    StatusCode,
    Watch,
    open_watcher,
)
from trio_etcd_watch.testing import Etcd, Put, open_etcd


async def has_state(watch: Watch, state: str) -> bool:
    return watch.statistics().state == state


async def test_parked_and_woken(etcd: Etcd) -> None:
    async with (
        open_watcher(etcd.endpoint) as watcher,
        watcher.watch("a", max_buffered_events=10) as slow,
        watcher.watch("a") as quick,
    ):
        revisions = [await etcd.put("a", str(i)) for i in range(50)]
        assert [e.kv.mod_revision for e in await take(quick, 50)] == revisions
        assert slow.statistics().state == "parked"
        assert slow.statistics().unread_events == 11
        assert watcher.statistics().parked == 1
        assert [e.kv.mod_revision for e in await take(slow, 50)] == revisions
        await eventually(lambda: has_state(slow, "live"))
        revisions = [await etcd.put("a", "news")]
        assert [e.kv.mod_revision for e in await take(slow, 1)] == revisions


async def test_parked_across_a_reconnect(etcd: Etcd) -> None:
    async with (
        open_proxy(*split(etcd.endpoint)) as proxy,
        open_watcher(proxy.endpoint) as watcher,
        watcher.watch("a", max_buffered_events=10, no_delete=True) as slow,
        watcher.watch("a") as quick,
    ):
        revisions = [await etcd.put("a", str(i)) for i in range(30)]
        await take(quick, 30)
        proxy.reset_all()
        revisions.append(await etcd.put("a", "news"))
        await take(quick, 1)
        assert watcher.statistics().reconnects == 1
        # Not resumed, because it holds all that it may.
        assert slow.statistics().state == "parked"
        assert slow.statistics().unread_events == 11
        assert [e.kv.mod_revision for e in await take(slow, 31)] == revisions


async def test_parked_under_compaction(etcd_binary: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        async with (
            open_watcher(etcd.endpoint) as watcher,
            watcher.watch("a", max_buffered_events=10) as slow,
            watcher.watch("a") as quick,
        ):
            revisions = [await etcd.put("a", str(i)) for i in range(50)]
            await take(quick, 50)
            await etcd.compact(revisions[-1])
            # What it holds comes first.
            assert [e.kv.mod_revision for e in await take(slow, 11)] == revisions[:11]
            with trio.fail_after(LIMIT), pytest.raises(CompactedError):
                await anext(slow)


async def test_left_while_parked(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a") as quick:
        async with watcher.watch("a", max_buffered_events=1) as slow:
            for i in range(10):
                await etcd.put("a", str(i))
            await take(quick, 10)
            assert slow.statistics().state == "parked"
        assert watcher.statistics().live == 1
        await etcd.put("a", "news")
        assert len(await take(quick, 1)) == 1


async def test_bound_below_one_response(etcd: Etcd) -> None:
    # Each revision alone exceeds the bound: it is parked at every one, and loses none.
    async with open_watcher(etcd.endpoint) as watcher:
        async with watcher.watch("k", prefix=True, max_buffered_events=1) as watch:
            for _ in range(5):
                await etcd.txn(*(Put(f"k{i}", "x") for i in range(10)))
            events = await take(watch, 50)
    assert [e.kv.key for e in events] == [b"k%d" % i for i in range(10)] * 5


def test_one_consumer_stuck_while_60_mb_flow(etcd_binary: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.stuck", etcd_binary],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    result = json.loads(done.stdout)
    assert result["state"] == "parked"
    assert result["unread"] == 101
    assert result["grown"] < 25e6
    assert result["in_order"]
    assert result["neighbour"] == 600


BIG = ["--max-request-bytes=20000000"]


async def test_one_transaction_of_10_mb_is_one_response(etcd_binary: str) -> None:
    async with open_etcd(binary=etcd_binary, args=BIG) as etcd:
        async with open_watcher(etcd.endpoint) as watcher:
            async with watcher.watch("k", prefix=True) as watch:
                value = "x" * 100_000
                revision = await etcd.txn(*(Put(f"k{i:02}", value) for i in range(100)))
                with trio.fail_after(LIMIT):
                    response = await anext(watch)
    assert [e.kv.key for e in response.events] == [b"k%02d" % i for i in range(100)]
    assert {e.kv.mod_revision for e in response.events} == {revision}
    assert {len(e.kv.value) for e in response.events} == {100_000}


async def test_fragments(etcd_binary: str) -> None:
    # Requested once a response was too large. Above 1.5 MiB + 512 KiB the server then
    # splits it anywhere, here within one of five revisions of 1 MB.
    async with open_etcd(binary=etcd_binary) as etcd:
        value = "x" * 10_000
        for _ in range(5):
            last = await etcd.txn(*(Put(f"k{i:03}", value) for i in range(100)))
        counts: Counter[int] = Counter()
        channel = Channel(etcd.endpoint, max_message_size=2_500_000)
        async with open_watcher(channel) as watcher:
            async with watcher.watch("k", prefix=True, start_revision=2) as watch:
                while len(counts) < 5:
                    with trio.fail_after(LIMIT):
                        response = await anext(watch)
                    here = Counter(e.kv.mod_revision for e in response.events)
                    assert set(here.values()) == {100}
                    counts += here
    assert counts == dict.fromkeys(range(last - 4, last + 1), 100)


@pytest.mark.parametrize("max_message_size", [128 * 2**20, 16 * 2**20])
async def test_a_history_of_64_mb(etcd_binary: str, max_message_size: int) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        revisions = [await etcd.put("a", "x" * 1_000_000) for _ in range(64)]
        channel = Channel(etcd.endpoint, max_message_size=max_message_size)
        async with open_watcher(channel) as watcher:
            async with watcher.watch("a", start_revision=revisions[0]) as watch:
                events = await take(watch, 64)
            assert watcher.statistics().bytes_received > 64_000_000
    assert [e.kv.mod_revision for e in events] == revisions


async def test_a_response_over_the_limit_fails_its_watch_alone(etcd: Etcd) -> None:
    channel = Channel(etcd.endpoint, max_message_size=100_000)
    async with open_watcher(channel) as watcher, watcher.watch("small") as small:
        async with watcher.watch("big") as big:
            first = await etcd.put("big", "fits")
            await etcd.put("big", "x" * 200_000)
            assert [e.kv.mod_revision for e in await take(big, 1)] == [first]
            with trio.fail_after(LIMIT), pytest.raises(RpcError) as caught:
                await anext(big)
            assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
            assert "200" in caught.value.message
            assert "max_message_size" in caught.value.message
        await etcd.put("small", "1")
        assert len(await take(small, 1)) == 1
        assert watcher.statistics().connections_made == 1


async def test_statistics(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        empty = watcher.statistics()
        assert (empty.streams, empty.live, empty.connections_made) == (0, 0, 0)
        assert empty.last_loss is None
        async with watcher.watch("a") as watch:
            for i in range(3):
                await etcd.put("a", str(i))
            await eventually(lambda: has_unread(watch, 3))
            statistics = watch.statistics()
            assert (statistics.state, statistics.events_received) == ("live", 3)
            assert (statistics.events_delivered, statistics.lag) == (0, 3)
            await take(watch, 3)
            statistics = watch.statistics()
            assert (statistics.events_delivered, statistics.unread_events) == (3, 0)
            assert statistics.lag == 0
        after = watcher.statistics()
        assert (after.events_received, after.events_delivered) == (3, 3)
        assert after.bytes_received > 0
        with pytest.raises(AttributeError):
            after.live = 1  # type: ignore[misc]  # frozen


async def has_unread(watch: Watch, count: int) -> bool:
    return watch.statistics().unread_events == count
