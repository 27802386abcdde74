"""Requests of a watch and their results on real servers, as in Go's client."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from tests.support.helpers import LIMIT, brief, eventually, take
from trio_etcd_watch import (
    Channel,
    CompactedError,
    EventType,
    Watch,
    WatchCanceledError,
    Watcher,
    open_watcher,
)
from trio_etcd_watch._requests import WatchSpec
from trio_etcd_watch._watch import WatchManager
from trio_etcd_watch.testing import Delete, Etcd, Put, open_etcd


async def test_key(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a") as watch:
        await etcd.put("b", "other")
        first = await etcd.put("a", "1")
        second = await etcd.delete("a")
        events = await take(watch, 2)
    assert brief(events) == [("PUT", b"a", b"1", first), ("DELETE", b"a", b"", second)]
    assert [e.type for e in events] == [EventType.PUT, EventType.DELETE]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"key": "b", "prefix": True}, [b"b", b"ba", b"bb"]),
        ({"key": b"b", "range_end": b"bb"}, [b"b", b"ba"]),
        ({"key": "", "range_end": "b"}, [b"a"]),
        ({"key": "b", "from_key": True}, [b"b", b"ba", b"bb", b"c", b"\xff\xff"]),
        ({"key": "", "prefix": True}, [b"a", b"b", b"ba", b"bb", b"c", b"\xff\xff"]),
        ({"key": "", "from_key": True}, [b"a", b"b", b"ba", b"bb", b"c", b"\xff\xff"]),
        ({"key": b"\xff", "prefix": True}, [b"\xff\xff"]),
    ],
)
async def test_ranges(
    etcd: Etcd, options: dict[str, object], expected: list[bytes]
) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        async with watcher.watch(**options) as watch:  # type: ignore[call-overload]  # a table
            keys = [b"a", b"b", b"ba", b"bb", b"c", b"\xff\xff"]
            await etcd.txn(*(Put(key, b"x") for key in keys))
            last = await etcd.txn(*(Delete(key) for key in keys))
            events = await take(watch, 2 * len(expected))
    assert [e.kv.key for e in events if e.type is EventType.PUT] == expected
    assert {e.kv.mod_revision for e in events} == {last - 1, last}


async def test_filters(etcd: Etcd) -> None:
    async with (
        open_watcher(etcd.endpoint) as watcher,
        watcher.watch("a", no_put=True) as deletes,
        watcher.watch("a", no_delete=True) as puts,
    ):
        for value in ("1", "2"):
            await etcd.put("a", value)
            await etcd.delete("a")
        assert [e.type for e in await take(deletes, 2)] == [EventType.DELETE] * 2
        assert [e.kv.value for e in await take(puts, 2)] == [b"1", b"2"]


async def test_prev_kv_create_and_modify(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        async with (
            watcher.watch("a", prev_kv=True) as watch,
            watcher.watch("a") as plain,
        ):
            created = await etcd.put("a", "1")
            await etcd.put("a", "2")
            await etcd.delete("a")
            create, modify, delete = await take(watch, 3)
            assert [e.prev_kv for e in await take(plain, 3)] == [None] * 3
    assert (create.is_create, modify.is_create, delete.is_create) == (
        True,
        False,
        False,
    )
    assert (create.is_modify, modify.is_modify, delete.is_modify) == (
        False,
        True,
        False,
    )
    assert create.prev_kv is None
    assert modify.prev_kv is not None
    assert modify.prev_kv.value == b"1"
    assert delete.prev_kv is not None
    assert (delete.prev_kv.value, delete.prev_kv.version) == (b"2", 2)
    assert modify.kv.create_revision == created
    assert (modify.kv.version, modify.kv.lease) == (2, 0)


async def test_a_revision_is_one_response(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        async with watcher.watch("k", prefix=True) as watch:
            revision = await etcd.txn(*(Put(f"k{i}", "x") for i in range(100)))
            with trio.fail_after(LIMIT):
                response = await anext(watch)
    assert [e.kv.mod_revision for e in response.events] == [revision] * 100
    assert response.header.revision == revision
    assert response.header.cluster_id
    assert response.header.member_id
    assert response.header.raft_term


async def test_from_now_is_exactly_after_created(etcd: Etcd) -> None:
    before = await etcd.put("a", "before")
    async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a") as watch:
        assert watch.created.created
        assert watch.created.header.revision == before
        assert watch.next_revision == before + 1
        after = await etcd.put("a", "after")
        assert brief(await take(watch, 1)) == [("PUT", b"a", b"after", after)]
        assert watch.next_revision == after + 1


async def test_history(etcd: Etcd) -> None:
    first = await etcd.put("a", "0")
    for i in range(1, 5):
        await etcd.put("a", str(i))
    async with open_watcher(etcd.endpoint) as watcher:
        async with watcher.watch("a", start_revision=first) as watch:
            # Past and new events do not differ.
            last = await etcd.put("a", "5")
            events = await take(watch, 6)
    assert [e.kv.value for e in events] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert [e.kv.mod_revision for e in events] == list(range(first, last + 1))


async def test_future_revision_waits(etcd: Etcd) -> None:
    now = await etcd.put("a", "0")
    async with open_watcher(etcd.endpoint) as watcher:
        async with watcher.watch("a", start_revision=now + 3) as watch:
            assert watch.next_revision == now + 3
            for i in range(1, 4):
                await etcd.put("a", str(i))
            assert brief(await take(watch, 1)) == [("PUT", b"a", b"3", now + 3)]


async def test_created_notify(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        async with watcher.watch("a", created_notify=True) as watch:
            with trio.fail_after(LIMIT):
                response = await anext(watch)
            assert response is watch.created
            assert not response.is_progress_notify
            await etcd.put("a", "1")
            assert len(await take(watch, 1)) == 1


async def test_progress_notify(etcd_binary: str) -> None:
    args = ["--watch-progress-notify-interval", "100ms"]
    async with open_etcd(binary=etcd_binary, args=args) as etcd:
        async with (
            open_watcher(etcd.endpoint) as watcher,
            watcher.watch("a", progress_notify=True) as watch,
            watcher.watch("a") as silent,
        ):
            last = await etcd.put("other", "1")
            with trio.fail_after(LIMIT):
                async for response in watch:
                    assert response.is_progress_notify
                    if response.header.revision == last:
                        break
            assert watch.next_revision == last + 1

            # The watch that did not ask gets none, and yet its bookmark moves.
            async def moved() -> bool:
                return silent.next_revision == last + 1

            await eventually(moved)
            await etcd.put("a", "1")
            with trio.fail_after(LIMIT):
                assert (await anext(silent)).events


async def test_request_progress(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        await watcher.request_progress()  # without a stream: nothing to ask
        watcher.request_progress_nowait()
        async with watcher.watch("a") as one, watcher.watch("b") as two:
            revision = await etcd.put("other", "1")
            for watch in (one, two):
                if watch is one:  # later `two` might have the answer to that already
                    watcher.request_progress_nowait()
                else:
                    await watcher.request_progress()
                with trio.fail_after(LIMIT):
                    response = await anext(watch)
                assert response.is_progress_notify
                assert response.header.revision == revision
            # Old servers guarantee nothing with it, so it moves nothing.
            assert one.next_revision == one.created.header.revision + 1


async def test_compacted(etcd_binary: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        for i in range(5):
            last = await etcd.put("a", str(i))
        await etcd.compact(last - 1)
        async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a") as other:
            async with watcher.watch("a", start_revision=2) as watch:
                with trio.fail_after(LIMIT):
                    with pytest.raises(CompactedError) as caught:
                        await anext(watch)
                    assert caught.value.compact_revision == last - 1
                    assert caught.value.response.header.revision == 0
                    with pytest.raises(CompactedError):
                        await anext(watch)
            async with watcher.watch("a", start_revision=last - 1) as watch:
                assert [e.kv.mod_revision for e in await take(watch, 2)] == [
                    last - 1,
                    last,
                ]
            # The other watch continues, and the stream still gets progress
            # notifications.
            await etcd.put("a", "news")
            assert [e.kv.value for e in await take(other, 1)] == [b"news"]
            await watcher.request_progress()
            with trio.fail_after(LIMIT):
                assert (await anext(other)).is_progress_notify


async def open_raw(watcher: Watcher, spec: WatchSpec) -> Watch:
    """Open a watch that `Watcher.watch()` would refuse before the server can."""
    async with WatchManager(partial(watcher._open, spec, ((), False))) as watch:
        with trio.fail_after(LIMIT):
            await anext(watch)
    return watch


async def test_refused_creation_fails_alone(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a") as other:
        with pytest.raises(WatchCanceledError, match="range is empty") as caught:
            await open_raw(watcher, WatchSpec(key=b"b", range_end=b"a"))
        assert caught.value.reason == "mvcc: watcher range is empty"
        assert caught.value.response.created
        assert caught.value.response.canceled
        await etcd.put("a", "1")
        assert len(await take(other, 1)) == 1


async def test_negative_start(etcd: Etcd) -> None:
    spec = WatchSpec(key=b"a", range_end=b"", start_revision=-5)
    async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a") as other:
        with pytest.raises(CompactedError) as caught:
            await open_raw(watcher, spec)
        await etcd.put("a", "1")
        assert len(await take(other, 1)) == 1
    # Since 3.4.38, 3.5.24 and 3.6.6 the creation is refused; earlier the watch began,
    # and was canceled like one that is behind a compaction.
    refuses = etcd.version >= (3, 5, 24) or (3, 4, 38) <= etcd.version < (3, 5, 0)
    assert caught.value.compact_revision == (0 if refuses else -1)


async def test_two_hundred_watches_on_one_connection(etcd: Etcd) -> None:
    got: list[bytes] = []

    async def follow(watcher: Watcher, key: str, ready: trio.Semaphore) -> None:
        async with watcher.watch(key) as watch:
            ready.release()
            got.extend(e.kv.key for e in await take(watch, 1))

    ready = trio.Semaphore(0)
    keys = [f"k{i:03}" for i in range(200)]
    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                for key in keys:
                    nursery.start_soon(follow, watcher, key, ready)
                for _ in keys:
                    await ready.acquire()
                statistics = watcher.statistics()
                for start in range(0, 200, 100):
                    await etcd.txn(*(Put(k, "x") for k in keys[start : start + 100]))
        assert watcher.statistics().connections_made == 1
    assert (statistics.live, statistics.streams) == (200, 1)
    assert sorted(got) == [key.encode() for key in keys]


async def test_leaving_lowers_the_servers_own_count(etcd: Etcd) -> None:
    async def count() -> float:
        return (await etcd.metrics())["etcd_debugging_mvcc_watcher_total"]

    async def is_back() -> bool:
        return await count() == before

    async def is_one_more() -> bool:
        return await count() == before + 1

    before = await count()
    async with open_watcher(etcd.endpoint) as watcher:
        async with watcher.watch("a"):
            async with watcher.watch("b"):
                assert await count() == before + 2
            # The watch is canceled by a request, and the stream stays open.
            await eventually(is_one_more)
        # The last watch closes the stream; the connection stays open.
        await eventually(is_back)
        async with watcher.watch("c"):
            assert await count() == before + 1
        await eventually(is_back)
        assert watcher.statistics().connections_made == 1


async def test_one_stream_per_metadata(etcd: Etcd) -> None:
    async def count() -> float:
        started = 'grpc_server_started_total{grpc_method="Watch",'
        metrics = await etcd.metrics()
        return sum(v for k, v in metrics.items() if k.startswith(started))

    channel = Channel(etcd.endpoint, metadata={"from": "test"})
    before = await count()
    async with open_watcher(channel) as watcher:
        async with (
            watcher.watch("a"),
            watcher.watch("b"),
            watcher.watch("c", metadata={"x": "1"}),
            watcher.watch("d", metadata=[("x", "1")]),
            watcher.watch("e", metadata={"x": "2"}),
            watcher.watch("f", require_leader=True),
            watcher.watch("g", require_leader=True) as last,
        ):
            assert watcher.statistics().streams == 4
            await etcd.put("g", "1")
            assert len(await take(last, 1)) == 1
        assert watcher.statistics().streams == 0
        assert watcher.statistics().connections_made == 1
    assert await count() - before == 4
