"""`Watcher.snapshot()` on real servers, with faults that make a read retry."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from tests.support.auth import READER, open_guarded
from tests.support.helpers import LIMIT, brief, split, take
from tests.support.proxy import open_proxy
from trio_etcd_watch import (
    AuthenticationError,
    Channel,
    CompactedError,
    Credentials,
    FutureRevisionError,
    KeyValue,
    PermissionDeniedError,
    Snapshot,
    _reads,
    open_watcher,
)
from trio_etcd_watch._snapshot import PagedRead, page_read
from trio_etcd_watch.testing import Etcd, Put, open_cluster, open_etcd


async def fill(etcd: Etcd, keys: int, size: int = 1) -> int:
    """Put this many keys, and return the revision."""
    revision = 0
    for first in range(0, keys, 100):
        numbers = range(first, min(first + 100, keys))
        revision = await etcd.txn(*(Put(f"{n:05}", "x" * size) for n in numbers))
    return revision


async def test_a_watch_goes_on_where_a_snapshot_ends(etcd: Etcd) -> None:
    await etcd.put("b1", "1")
    last = await etcd.put("outside", "1")
    async with open_watcher(etcd.endpoint) as watcher:
        snapshot = await watcher.snapshot("b", prefix=True)
        assert (snapshot.revision, list(snapshot)) == (last, [b"b1"])
        first = await etcd.put("b1", "2")
        await etcd.put("outside", "2")
        second = await etcd.put("b2", "1")
        start = snapshot.revision + 1
        async with watcher.watch("b", prefix=True, start_revision=start) as watch:
            assert brief(await take(watch, 2)) == [
                ("PUT", b"b1", b"2", first),
                ("PUT", b"b2", b"1", second),
            ]
        # The earlier state can be read again.
        assert await watcher.snapshot("b", prefix=True, revision=last) == snapshot
        assert isinstance(snapshot["b1"], KeyValue)
        assert snapshot.header.cluster_id


async def test_a_given_revision_may_be_gone_or_to_come(etcd_binary: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        first = await etcd.put("a", "1")
        last = await etcd.put("a", "2")
        await etcd.compact(last)
        async with open_watcher(etcd.endpoint) as watcher:
            with pytest.raises(CompactedError):
                await watcher.snapshot("a", revision=first)
            with pytest.raises(FutureRevisionError):
                await watcher.snapshot("a", revision=last + 1)
            assert (await watcher.snapshot("a", revision=last))["a"].value == b"2"


async def test_a_small_database_is_read_in_one_page(
    etcd_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reads, "PagedRead", partial(PagedRead, first_page=1))
    pages: list[int] = []
    async with open_guarded(etcd_binary) as server:
        for key in ("r1", "r2", "r3"):
            await server.put(key, "1")
        # Any user may ask how large the database is.
        channel = Channel(server.etcd.endpoint, credentials=READER)
        async with open_watcher(channel) as watcher:
            page_read.set(lambda received, _count: pages.append(received))
            whole = await watcher.snapshot("r", prefix=True)
            assert (len(whole), pages) == (3, [])
            monkeypatch.setattr(_reads, "WHOLE_SIZE", 4_096)
            assert await watcher.snapshot("r", prefix=True) == whole
            assert pages == [1, 3]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("cut", [1, 100, 20_000, 70_000, 300_000])
async def test_a_read_survives_a_cut_connection(
    etcd: Etcd, cut: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr(_reads, "WHOLE_SIZE", 0)
    last = await fill(etcd, 3_000, size=100)
    async with (
        open_proxy(*split(etcd.endpoint)) as proxy,
        open_watcher(proxy.endpoint) as watcher,
    ):
        proxy.cut_after(cut)
        async with trio.open_nursery() as nursery:

            async def heal() -> None:
                await proxy.wait_accepted(3)
                proxy.cut_after(None)

            nursery.start_soon(heal)
            with trio.fail_after(LIMIT):
                snapshot = await watcher.snapshot("", prefix=True)
            nursery.cancel_scope.cancel()
    assert (len(snapshot), snapshot.revision) == (3_000, last)


async def test_a_read_survives_a_killed_server(etcd: Etcd) -> None:
    last = await fill(etcd, 100)
    async with open_watcher(etcd.endpoint) as watcher:
        await watcher.snapshot("", prefix=True)
        await etcd.kill()
        snapshots: list[Snapshot] = []

        async def read() -> None:
            snapshots.append(await watcher.snapshot("", prefix=True))

        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await etcd.start()
    assert [len(snapshot) for snapshot in snapshots] == [100]
    assert snapshots[0].revision == last


async def test_a_stuck_member_is_left(etcd_binary: str) -> None:
    async with open_cluster(3, binary=etcd_binary) as cluster:
        members = cluster.members
        last = await members[0].put("a", "1")
        await members[2].pause()
        try:
            for endpoints in (cluster.endpoints, cluster.endpoints[::-1]):
                channel = Channel(*endpoints, connect_timeout=0.5)
                async with open_watcher(channel) as watcher:
                    with trio.fail_after(LIMIT):
                        snapshot = await watcher.snapshot("a")
                assert snapshot.revision == last
        finally:
            await members[2].resume()


async def test_a_stale_token_is_renewed(etcd_binary: str) -> None:
    async with open_guarded(etcd_binary) as server:
        await server.put("r1", "1")
        channel = Channel(server.etcd.endpoint, credentials=READER)
        async with open_watcher(channel) as watcher:
            before = await watcher.snapshot("r", prefix=True)
            await server.etcd.kill()
            await server.etcd.start()
            # The server has forgotten every token.
            with trio.fail_after(LIMIT):
                assert await watcher.snapshot("r", prefix=True) == before
            watcher._connector._token = "bad"
            with trio.fail_after(LIMIT):
                assert await watcher.snapshot("r", prefix=True) == before


async def test_who_may_not_read_is_told_so(etcd_binary: str) -> None:
    async with open_guarded(etcd_binary) as server:
        wrong = Credentials(READER.user, "wrong")
        for credentials, error in (
            (READER, PermissionDeniedError),
            (None, PermissionDeniedError),
            (wrong, AuthenticationError),
        ):
            channel = Channel(server.etcd.endpoint, credentials=credentials)
            async with open_watcher(channel) as watcher:
                with trio.fail_after(LIMIT), pytest.raises(error):
                    await watcher.snapshot("", prefix=True)


async def test_a_read_ends_with_its_watcher() -> None:
    # No server listens at port 1 of the loopback interface.
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            ended = trio.Event()
            async with open_watcher("127.0.0.1:1") as watcher:

                async def read() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await watcher.snapshot("a")
                    ended.set()

                nursery.start_soon(read)
                with trio.move_on_after(0.1) as scope:
                    await watcher.snapshot("a")
                assert scope.cancelled_caught
                assert len(watcher._reading) == 1
            await ended.wait()
    with pytest.raises(trio.ClosedResourceError):
        await watcher.snapshot("a")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"key": ""}, ValueError, "key must not be empty"),
        ({"key": 5}, TypeError, "key must be str or bytes, got 5"),
        ({"key": "a", "prefix": True, "from_key": True}, ValueError, "prefix and from"),
        ({"key": "a", "revision": -1}, ValueError, "revision must be between"),
        ({"key": "a", "revision": "1"}, TypeError, "revision must be an int, got '1'"),
    ],
)
async def test_bad_arguments_are_named(
    options: dict[str, object], error: type[Exception], words: str
) -> None:
    async with open_watcher("127.0.0.1:1") as watcher:
        with pytest.raises(error, match=words):
            await watcher.snapshot(**options)  # type: ignore[call-overload]  # a table
