"""Half-open connections, members that fail, and quorum that is lost and regained."""

from __future__ import annotations

import pytest
import trio

from tests.support.helpers import LIMIT, eventually, split, take
from tests.support.proxy import open_proxy
from trio_etcd_watch import Channel, NoLeaderError, Watch, open_watcher
from trio_etcd_watch.testing import Etcd, open_cluster, open_etcd


async def test_half_open_connection(etcd: Etcd) -> None:
    async with open_proxy(*split(etcd.endpoint)) as proxy:
        channel = Channel(proxy.endpoint, keepalive_time=1, keepalive_timeout=1)
        async with open_watcher(channel) as watcher, watcher.watch("a") as watch:
            proxy.blackhole()
            revision = await etcd.put("a", "while nobody hears")
            await proxy.wait_accepted(2)  # the client has noticed, and reconnects
            proxy.heal()
            assert [e.kv.mod_revision for e in await take(watch, 1)] == [revision]
            assert watcher.statistics().connections_made == 2
            assert "ping" in str(watcher.statistics().last_loss) or (
                "no connection" in str(watcher.statistics().last_loss)
            )


async def test_paused_server(etcd: Etcd) -> None:
    channel = Channel(etcd.endpoint, keepalive_time=0.5, keepalive_timeout=0.5)
    async with open_watcher(channel) as watcher, watcher.watch("a") as watch:
        await etcd.pause()

        async def noticed() -> bool:
            return watcher.statistics().resuming == 1

        await eventually(noticed)
        await etcd.resume()
        await etcd.put("a", "1")
        assert len(await take(watch, 1)) == 1


async def test_an_idle_minute_is_one_connection(etcd_binaries: list[str]) -> None:
    # In real time, because etcd limits pings: it ends the connection of a client that
    # sends three within 5 s of each other or of its last answer.
    async def idle(program: str) -> None:
        async with open_etcd(binary=program) as etcd:
            async with open_watcher(etcd.endpoint) as watcher:
                async with watcher.watch("a") as watch:
                    await trio.sleep(60)
                    await etcd.put("a", "1")
                    assert len(await take(watch, 1)) == 1
                statistics = watcher.statistics()
        assert (statistics.connections_made, statistics.reconnects) == (1, 0)

    # One minute for all servers together.
    async with trio.open_nursery() as nursery:
        for program in etcd_binaries:
            nursery.start_soon(idle, program)


async def test_members_killed_in_turn(etcd_binary: str) -> None:
    async with open_cluster(3, binary=etcd_binary) as cluster:
        revisions: list[int] = []
        async with open_watcher(cluster.endpoints) as watcher:
            async with watcher.watch("a") as watch:
                for round_ in range(2):
                    for down in cluster.members[:2]:
                        await down.kill()
                        # Writes go to the member that stays.
                        for i in range(10):
                            revision = await written(
                                cluster.members[2], f"{round_} {i}"
                            )
                            revisions.append(revision)
                        await down.start()
                events = await take(watch, len(revisions))
    assert [e.kv.mod_revision for e in events] == revisions


async def written(member: Etcd, value: str) -> int:
    """Put, once there is a leader; a put that was refused has not been applied."""
    with trio.fail_after(LIMIT):
        while True:
            try:
                return await member.put("a", value)
            except (RuntimeError, OSError):
                # There is no leader yet. A put that timed out may still be applied:
                # then the key has one more revision, and the test fails.
                await trio.sleep(0.1)


async def test_quorum_lost_and_regained(etcd_binary: str) -> None:
    async with open_cluster(3, binary=etcd_binary) as cluster:
        lonely, *others = cluster.members
        async with (
            open_watcher(lonely.endpoint) as watcher,
            watcher.watch("a") as patient,
            watcher.watch("a", require_leader=True) as strict,
        ):
            revisions = [await lonely.put("a", "before")]
            await eventually(lambda: has_unread(strict, 1))
            for member in others:
                await member.kill()
            # What was received comes first, then the error.
            assert [e.kv.mod_revision for e in await take(strict, 1)] == revisions
            with trio.fail_after(LIMIT), pytest.raises(NoLeaderError):
                await anext(strict)
            with trio.fail_after(LIMIT), pytest.raises(NoLeaderError):
                async with watcher.watch("b", require_leader=True):
                    pytest.fail("entered")
            for member in others:
                await member.start(wait=False)
            for member in others:
                await member.wait_serving()
            revisions.append(await written(lonely, "after"))
            events = await take(patient, 2)
            assert [e.kv.mod_revision for e in events] == revisions
            async with watcher.watch("a", require_leader=True):
                assert watcher.statistics().live == 2


async def has_unread(watch: Watch, count: int) -> bool:
    return watch.statistics().unread_events == count
