"""What a mirror does in each fault; docs/explanation/faults.md names these tests."""

from __future__ import annotations

import random
import shutil

import pytest
import trio

from tests.support.auth import READER, open_guarded
from tests.support.helpers import LIMIT, eventually, split
from tests.support.proxy import open_proxy
from tests.support.ranges import open_reader
from trio_etcd_watch import (
    Channel,
    ClusterChangedError,
    Mirror,
    PermissionDeniedError,
    open_watcher,
)
from trio_etcd_watch._arguments import key_range
from trio_etcd_watch._snapshot import Range
from trio_etcd_watch.testing import Etcd, Put, open_cluster, open_etcd

ALL = Range(*key_range("", prefix=True))


async def check(mirror: Mirror, etcd: Etcd) -> None:
    """Compare with a read at the mirror's revision by another client."""
    async with open_reader(etcd.endpoint) as reader:
        assert dict(mirror) == dict(
            await reader.snapshot(ALL, revision=mirror.revision)
        )


async def away_since(mirror: Mirror) -> float:
    """Wait until the mirror has noticed that its watch is not live; return when."""

    async def noticed() -> bool:
        return not mirror.statistics().connected

    await eventually(noticed)
    since = mirror.statistics().disconnected_since
    assert since is not None
    return since


async def is_back(mirror: Mirror) -> None:
    """Wait until its watch is live again."""

    async def connected() -> bool:
        return mirror.statistics().connected

    await eventually(connected)
    assert mirror.statistics().disconnected_since is None


async def test_it_says_since_when_it_is_not_connected(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with (
                watcher.mirror("a") as mirror,
                watcher.watch("a") as watch,
            ):
                for _ in range(2):
                    assert mirror.statistics().connected
                    assert mirror.statistics().disconnected_since is None
                    before = trio.current_time()
                    await etcd.kill()
                    since = await away_since(mirror)
                    assert before <= since <= trio.current_time()
                    assert watch.statistics().disconnected_since == since

                    async def refused() -> bool:
                        return "refused" in str(watcher.statistics().last_loss)

                    # Failed attempts do not shorten it.
                    await eventually(refused)
                    assert mirror.statistics().disconnected_since == since
                    await etcd.start()
                    await is_back(mirror)


async def test_it_says_so_while_it_is_read_anew(etcd_binary: str) -> None:
    async with (
        open_etcd(binary=etcd_binary) as etcd,
        open_proxy(*split(etcd.endpoint)) as proxy,
        open_watcher(proxy.endpoint) as watcher,
        watcher.mirror("a") as mirror,
    ):
        with trio.fail_after(LIMIT):
            proxy.refuse()
            proxy.reset_all()
            since = await away_since(mirror)
            await etcd.put("a", "1")
            await etcd.compact(await etcd.put("a", "2"))
            times: list[float | None] = []

            def note(mirror: Mirror) -> bool:
                times.append(mirror.statistics().disconnected_since)
                return b"a" in mirror

            proxy.accept()
            # The predicate is called last when the range was read and there is no watch
            # yet. etcd confirms a watch of compacted revisions, and cancels it
            # afterwards, so it may have been connected for a moment.
            await mirror.wait_for(note)
            last = times[-1]
            assert last is not None
            assert since <= last <= trio.current_time()
            await is_back(mirror)


async def test_a_mirror_on_a_half_open_connection(etcd: Etcd) -> None:
    async with open_proxy(*split(etcd.endpoint)) as proxy:
        channel = Channel(proxy.endpoint, keepalive_time=1, keepalive_timeout=1)
        async with (
            open_watcher(channel) as watcher,
            watcher.mirror("", prefix=True) as mirror,
        ):
            with trio.fail_after(LIMIT):
                proxy.blackhole()
                await etcd.txn(Put("a", "while nobody hears"), Put("b", "1"))
                await etcd.delete("b")
                await proxy.wait_accepted(2)  # the client has noticed, and reconnects
                assert not mirror.statistics().connected
                proxy.heal()
                await mirror.sync()
                assert list(mirror) == [b"a"]
                await check(mirror, etcd)
                assert mirror.statistics().resyncs == 0


async def test_sync_waits_while_nobody_answers(etcd: Etcd) -> None:
    done = trio.Event()
    async with (
        open_watcher(etcd.endpoint) as watcher,
        watcher.mirror("a") as mirror,
        trio.open_nursery() as nursery,
    ):
        with trio.fail_after(LIMIT):
            last = await etcd.put("a", "1")
            await etcd.kill()
            await away_since(mirror)

            async def ask() -> None:
                await mirror.sync()
                assert mirror.revision >= last
                assert await mirror.verify()
                done.set()

            nursery.start_soon(ask)

            async def tried() -> bool:
                return "refused" in str(watcher.statistics().last_loss)

            await eventually(tried)
            # The old mapping stays, and it reports its old revision.
            assert mirror.revision <= last
            assert not done.is_set()
            await etcd.start()
            await done.wait()
            assert mirror["a"].value == b"1"


async def leader_of(members: list[Etcd]) -> tuple[Etcd, dict[Etcd, str]]:
    """Return the leader, and each member's own id."""
    ids: dict[Etcd, str] = {}
    leaders = set()
    for member in members:
        status = await member.request("/v3/maintenance/status", {})
        ids[member] = status["header"]["member_id"]
        leaders.add(status.get("leader", "0"))
    named = [member for member in members if leaders == {ids[member]}]
    return (named or members)[0], ids


async def test_a_mirror_through_changes_of_the_leader(etcd_binary: str) -> None:
    async with (
        open_cluster(3, binary=etcd_binary) as cluster,
        open_watcher(cluster.endpoints) as watcher,
        watcher.mirror("", prefix=True) as mirror,
    ):
        members = list(cluster.members)
        with trio.fail_after(2 * LIMIT):
            # One leader hands over to another, which is then killed.
            leader, ids = await leader_of(members)
            heir = next(each for each in members if each is not leader)
            await leader.request(
                "/v3/maintenance/transfer-leadership", {"targetID": ids[heir]}
            )
            for count in range(2):
                await written(heir if count == 0 else members[0], "a", str(count))
                await mirror.sync()
                assert mirror["a"].value == str(count).encode()
                await check(mirror, members[0])
                if count == 0:
                    leader, _ = await leader_of(members)
                    await leader.kill()
                    members.remove(leader)
            assert mirror.statistics().resyncs == 0


async def written(member: Etcd, key: str, value: str) -> int:
    """Put, once there is a leader."""
    while True:
        try:
            return await member.put(key, value)
        except (RuntimeError, OSError):
            # A put that timed out may have been applied; writing the same value twice
            # is fine.
            await trio.sleep(0.1)


async def test_a_mirror_leaves_a_member_that_is_removed(
    etcd_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "sample", lambda members, count: members)
    # The new member does not count as healthy yet, so etcd would not remove another.
    args = ("--strict-reconfig-check=false",)
    async with open_cluster(3, binary=etcd_binary, args=args) as cluster:
        removed, *others = cluster.members
        endpoints = [member.endpoint for member in cluster.members]
        async with (
            open_watcher(endpoints) as watcher,
            watcher.mirror("", prefix=True) as mirror,
        ):
            with trio.fail_after(2 * LIMIT):
                _, ids = await leader_of(list(cluster.members))
                await written(others[0], "a", "0")
                await mirror.wait_for(len)
                await others[0].request(
                    "/v3/cluster/member/remove", {"ID": ids[removed]}
                )
                await written(others[0], "a", "1")
                await mirror.sync()
                assert mirror["a"].value == b"1"
                await check(mirror, others[0])
                # The mirror follows at another member.
                last = await written(others[1], "b", "1")
                await mirror.wait_for(lambda m: b"b" in m)
                assert mirror.revision >= last
                await check(mirror, others[1])
                assert mirror.statistics().resyncs == 0


async def test_a_wiped_member_is_an_empty_mirror(etcd_binary: str) -> None:
    async with (
        open_etcd(binary=etcd_binary) as etcd,
        open_watcher(etcd.endpoint) as watcher,
    ):
        await etcd.txn(Put("a", "1"), Put("b", "1"))
        last = await etcd.put("a", "2")
        with trio.fail_after(LIMIT):
            async with watcher.mirror("", prefix=True) as mirror:
                changes = mirror.changes()
                await anext(changes)
                await wipe(etcd)
                update = await anext(changes)
                assert [(c.key, c.new) for c in update.changes] == [
                    (b"a", None),
                    (b"b", None),
                ]
                assert update.resynced
                assert update.revision == mirror.revision < last
                await etcd.put("c", "1")
                await mirror.sync()
                assert list(mirror) == [b"c"]
                await check(mirror, etcd)


async def wipe(etcd: Etcd) -> None:
    """The data is lost, and the cluster id stays, as after the loss of a volume."""
    await etcd.stop()
    shutil.rmtree(etcd.data_dir)
    await etcd.start()


async def test_reads_that_reach_another_cluster(
    etcd: Etcd, etcd_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They answer at revisions of the other cluster, unrelated to the mirror's."""
    monkeypatch.setattr(random, "sample", lambda members, count: members)
    async with (
        open_etcd(binary=etcd_binary) as other,
        open_watcher([etcd.endpoint, other.endpoint]) as watcher,
    ):
        with trio.fail_after(LIMIT):
            while await other.put("a", "1") <= await etcd.revision():
                pass
            with pytest.raises(ClusterChangedError):
                async with watcher.mirror("b", prefix=True) as mirror:
                    before = mirror.revision
                    connector = watcher._connector
                    # A member that answers one read with "leader changed" leads to
                    # this.
                    assert connector._connection is not None
                    connector.leave(connector._connection)
                    with pytest.raises(trio.ClosedResourceError):
                        await mirror.sync()
                    assert mirror.revision == before
                    await trio.sleep_forever()


async def test_a_permission_that_is_revoked(etcd_binary: str) -> None:
    async with (
        open_guarded(etcd_binary) as server,
        open_proxy(*split(server.etcd.endpoint)) as proxy,
        open_watcher(Channel(proxy.endpoint, credentials=READER)) as watcher,
    ):
        await server.put("r1", "1")
        with trio.fail_after(LIMIT), pytest.raises(PermissionDeniedError):
            async with watcher.mirror("r", prefix=True) as mirror:
                user = {"name": "reader", "role": "r"}
                await server.request("/v3/auth/user/revoke", user)
                # An existing watch continues, and so does the mirror.
                await server.put("r1", "2")
                await mirror.wait_for(lambda m: m["r1"].value == b"2")
                # A read is refused on its own.
                with pytest.raises(PermissionDeniedError):
                    await mirror.sync()
                await trio.lowlevel.checkpoint()
                assert mirror["r1"].value == b"2"
                proxy.reset_all()
                await trio.sleep_forever()
