"""A cluster that comes back with less history than it reported, and one that lags."""

from __future__ import annotations

import base64
import json
import random
import shutil
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.helpers import LIMIT, eventually, split, take
from tests.support.partition import Writer, argument, open_partitions
from tests.support.proxy import Proxy, open_proxy
from trio_etcd_watch import (
    CompactedError,
    HistoryLostError,
    Watch,
    open_watcher,
)
from trio_etcd_watch._live_stream import LiveStream
from trio_etcd_watch.testing import Etcd, open_cluster, open_etcd

LAGS = 3
"""How many times a member lags."""


async def wipe(etcd: Etcd) -> None:
    """Restart it without its data, which leaves the cluster's id the same."""
    await etcd.stop()
    shutil.rmtree(etcd.data_dir)
    await etcd.start()


async def copy_database(etcd: Etcd, path: Path) -> None:
    """Copy the database of a server that was stopped properly, and restart it."""
    await etcd.stop()
    shutil.copy(etcd.data_dir / "member/snap/db", path)
    await etcd.start()


async def restore(etcd: Etcd, utility: Path, backup: Path, *args: str) -> None:
    await etcd.stop()
    shutil.rmtree(etcd.data_dir)
    identity = [
        f"{flag}={argument(etcd, flag)}"
        for flag in ("--name", "--initial-cluster", "--initial-advertise-peer-urls")
    ]
    command = [str(utility), "snapshot", "restore", str(backup), "--skip-hash-check"]
    command += [f"--data-dir={etcd.data_dir}", *identity, *args]
    await trio.run_process(command, capture_stderr=True)
    await etcd.start()


async def assert_lost(watch: Watch, revisions: list[int], actual: int) -> None:
    """Check that what was received comes first, then the error."""
    received = await take(watch, len(revisions))
    assert [event.kv.mod_revision for event in received] == revisions
    with trio.fail_after(LIMIT), pytest.raises(HistoryLostError) as caught:
        await anext(watch)
    assert (caught.value.expected, caught.value.actual) == (revisions[-1], actual)


async def test_a_wiped_member(etcd_binary: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        async with (
            open_watcher(etcd.endpoint) as watcher,
            watcher.watch("a") as watch,
            watcher.watch("a", start_revision=100) as ahead,
        ):
            revisions = [await etcd.put("a", "1") for _ in range(5)]
            await eventually(lambda: has_unread(watch, 5))
            await wipe(etcd)
            await assert_lost(watch, revisions, 1)
            # Everything that the cluster told this watch is still true; where to start
            # is up to the user.
            with trio.fail_after(LIMIT):
                while await etcd.put("a", "2") < 100:
                    pass
            assert (await take(ahead, 1))[0].kv.mod_revision == 100
            # The next watch is on the present history.
            async with watcher.watch("a") as fresh:
                revision = await etcd.put("a", "3")
                assert (await take(fresh, 1))[0].kv.mod_revision == revision


async def has_unread(watch: Watch, count: int) -> bool:
    return watch.statistics().unread_events == count


async def test_an_older_snapshot(
    etcd_binary: str, utility: Path, tmp_path: Path
) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        old = await etcd.put("a", "0")
        await copy_database(etcd, tmp_path / "db")
        async with (
            open_watcher(etcd.endpoint) as watcher,
            watcher.watch("a") as watch,
            watcher.watch("idle") as idle,
        ):
            revisions = [await etcd.put("a", "1") for _ in range(5)]
            await eventually(lambda: has_unread(watch, 5))
            await restore(etcd, utility, tmp_path / "db")
            await assert_lost(watch, revisions, old)
            # This watch was told of nothing that is lost.
            await etcd.put("idle", "1")
            assert len(await take(idle, 1)) == 1


async def hot_backup(etcd: Etcd, path: Path) -> None:
    """Save a snapshot like `etcdctl snapshot save`, so that the raft term stays."""
    request = urllib.request.Request(
        f"http://{etcd.endpoint}/v3/maintenance/snapshot", b"{}"
    )

    def read() -> list[bytes]:
        with urllib.request.urlopen(request, timeout=LIMIT) as response:
            return [
                base64.b64decode(json.loads(line)["result"]["blob"])
                for line in response
            ]

    await trio.Path(path).write_bytes(b"".join(await trio.to_thread.run_sync(read)))


async def test_an_older_snapshot_behind_a_mirror(
    etcd_binary: str, utility: Path, tmp_path: Path
) -> None:
    """Its watch was told of nothing that is lost, but the mirror was, by a read."""
    async with open_etcd(binary=etcd_binary) as etcd:
        await etcd.put("b", "old")
        async with (
            open_watcher(etcd.endpoint) as watcher,
            watcher.mirror("b") as mirror,
        ):
            with trio.fail_after(LIMIT):
                kept = await etcd.put("a", "kept")
                await hot_backup(etcd, tmp_path / "db")
                for _ in range(10):
                    lost = await etcd.put("a", "lost")
                await mirror.sync()
                assert mirror.revision == lost
                await restore(etcd, utility, tmp_path / "db")
                await mirror.wait_for(lambda m: m.statistics().resyncs)
                assert mirror.revision == kept
                assert await etcd.put("b", "new") < lost
                await mirror.wait_for(lambda m: m["b"].value == b"new")


async def test_a_newer_snapshot_that_is_marked_as_compacted(
    etcd_binary: str, bumping_utility: Path, tmp_path: Path
) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        await etcd.put("a", "0")
        await copy_database(etcd, tmp_path / "db")
        async with open_watcher(etcd.endpoint) as watcher:
            async with watcher.watch("a") as watch, watcher.watch("idle") as idle:
                await etcd.put("a", "1")
                assert len(await take(watch, 1)) == 1
                flags = ("--bump-revision=1000", "--mark-compacted")
                await restore(etcd, bumping_utility, tmp_path / "db", *flags)
                for each in (watch, idle):
                    with (
                        trio.fail_after(LIMIT),
                        pytest.raises(CompactedError) as caught,
                    ):
                        await anext(each)
                    assert caught.value.compact_revision > 1000


async def test_a_start_in_the_future_is_no_lost_history(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        future = await etcd.revision() + 5
        async with watcher.watch("a", start_revision=future) as watch:
            for _ in range(2):
                await etcd.restart()
                await etcd.put("a", "1")
            async with watcher.watch("a", start_revision=future + 1) as other:
                await etcd.kill()
                await etcd.start()
                while (last := await etcd.put("a", "2")) < future + 1:
                    pass
                received = await take(watch, 2)
                assert [e.kv.mod_revision for e in received] == [future, last]
                assert (await take(other, 1))[0].kv.mod_revision == last


# Members that lag


@pytest.fixture
def doubted(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Return an event that is set once a watch asks how far the cluster is."""
    event = trio.Event()
    read = LiveStream._read_revision

    async def read_revision(*args: Any) -> int:  # noqa: ANN401  # passed through
        event.set()
        return await read(*args)

    monkeypatch.setattr(LiveStream, "_read_revision", read_revision)
    return event


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoints are tried in the order in which they were given."""
    monkeypatch.setattr(random, "sample", lambda members, count: members)


async def follow(watch: Watch, seen: list[int]) -> None:
    async for event in watch.events():
        seen.append(event.kv.mod_revision)  # noqa: PERF401  # others read it meanwhile


async def reach(seen: list[int], last: int) -> None:
    async def has_come() -> bool:
        return bool(seen) and seen[-1] >= last

    await eventually(has_come)


async def followers(members: list[Etcd]) -> tuple[Etcd, list[Etcd]]:
    """Return the leader, and the other members."""
    status = await members[0].request("/v3/maintenance/status")
    leader = status["leader"]
    found, others = None, []
    for member in members:
        own = await member.request("/v3/maintenance/status")
        if own["header"]["member_id"] == leader:
            found = member
        else:
            others.append(member)
    assert found is not None
    return found, others


async def test_a_follower_that_was_stopped(etcd_binary: str, in_order: None) -> None:
    async with (
        open_cluster(3, binary=etcd_binary) as cluster,
        AsyncExitStack() as stack,
    ):
        leader, (lagging, _) = await followers(list(cluster.members))
        ahead, behind = [
            await stack.enter_async_context(open_proxy(*split(each.endpoint)))
            for each in (leader, lagging)
        ]
        writer = Writer()
        seen: list[int] = []
        async with (
            open_watcher([ahead.endpoint, behind.endpoint]) as watcher,
            watcher.watch("a") as watch,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(writer.run, [leader])
            nursery.start_soon(follow, watch, seen)
            await reach(seen, 1)
            for _ in range(LAGS):
                await lag(lagging, ahead, behind, writer, seen)
                behind.refuse()
                ahead.accept()
                behind.reset_all()
                await reach(seen, await leader.revision())
                behind.accept()
            nursery.cancel_scope.cancel()
            start = watch.created.header.revision
    assert seen == list(range(start + 1, seen[-1] + 1))


async def lag(
    lagging: Etcd, ahead: Proxy, behind: Proxy, writer: Writer, seen: list[int]
) -> None:
    """Let a watch continue for a while at a member that was paused for many writes."""
    accepted = behind.accepted
    await lagging.pause()
    await reach(seen, writer.revisions[-1] + 50)
    ahead.refuse()
    ahead.reset_all()
    with trio.fail_after(LIMIT):
        # It then hears the client as soon as its peers.
        await behind.wait_accepted(accepted + 1)
    await lagging.resume()
    await reach(seen, writer.revisions[-1] + 1)


async def test_a_follower_that_is_behind_for_sure(
    etcd_binary: str, doubted: trio.Event, in_order: None
) -> None:
    # Long enough for the watch to connect before the member notices that it is cut off.
    args = ["--election-timeout=2000"]
    async with (
        open_partitions(etcd_binary, args=args) as partitions,
        AsyncExitStack() as stack,
    ):
        leader, (lagging, _) = await followers(list(partitions.members))
        ahead = await stack.enter_async_context(open_proxy(*split(leader.endpoint)))
        async with (
            open_watcher([ahead.endpoint, lagging.endpoint]) as watcher,
            watcher.watch("a") as watch,
        ):
            # It serves what it has until it notices.
            partitions.cut_off(lagging)
            first = [await leader.put("a", "1") for _ in range(5)]
            received = await take(watch, 5)
            ahead.refuse()
            ahead.reset_all()
            with trio.fail_after(LIMIT):
                await doubted.wait()
            partitions.heal()
            then = [await leader.put("a", "2") for _ in range(5)]
            received += await take(watch, 5)
    assert [event.kv.mod_revision for event in received] == first + then
