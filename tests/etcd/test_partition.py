"""A member that is cut off from its peers, while its clients can still reach it."""

from __future__ import annotations

import random

import pytest
import trio

from tests.support.auth import ROOT, Guarded
from tests.support.helpers import LIMIT, eventually, take
from tests.support.partition import (
    ELECTION_TIMEOUT,
    Partitions,
    Writer,
    open_partitions,
)
from trio_etcd_watch import Channel, Event, NoLeaderError, Watch, open_watcher

SEEDS = 5


@pytest.fixture(autouse=True)
def endpoints_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "sample", lambda members, count: members)


async def take_up_to(watch: Watch, revision: int) -> list[Event]:
    events: list[Event] = []
    async for event in watch.events():
        events.append(event)
        if event.kv.mod_revision >= revision:
            break
    return events


async def test_a_watch_leaves_the_member_that_was_cut_off(etcd_binary: str) -> None:
    async with open_partitions(etcd_binary) as partitions:
        for seed in range(SEEDS):
            await one_cut(partitions, random.Random(seed))


async def one_cut(partitions: Partitions, rng: random.Random) -> None:
    lonely, *others = rng.sample(partitions.members, 3)
    channel = Channel(*[member.endpoint for member in (lonely, *others)])
    # The member notices after five of etcd's election timeouts, and the client then
    # connects once.
    net = 6 * ELECTION_TIMEOUT + channel.connect_timeout
    writer = Writer()
    # The last cut is healed, but the member behind it may not know a leader yet.
    for member in partitions.members:
        await member.wait_serving()
    async with (
        open_watcher(channel) as watcher,
        watcher.watch("", prefix=True) as watch,
        watcher.watch("a", require_leader=True) as strict,
        trio.open_nursery() as nursery,
    ):
        start = watch.created.header.revision
        nursery.start_soon(writer.run, others)
        events = await take(watch, rng.randrange(1, 30))
        partitions.cut_off(lonely)
        # Confirmed by the quorum, so it is newer than anything that `lonely` can know.
        revision = await writer.put(others)
        with trio.fail_after(net):
            events += await take_up_to(watch, revision)
        with trio.fail_after(net), pytest.raises(NoLeaderError):
            async for _ in strict:
                pass
        assert watcher.statistics().reconnects >= 1

        # The cut moves, and heals, wherever the watch is connected.
        for member in rng.sample(partitions.members, 2):
            partitions.cut_off(member)
            revision = await writer.put(list(partitions.members))
            with trio.fail_after(LIMIT):
                events += await take_up_to(watch, revision)
        partitions.heal()
        revision = await writer.put(list(partitions.members))
        with trio.fail_after(LIMIT):
            events += await take_up_to(watch, revision)
        nursery.cancel_scope.cancel()
    # Every revision of this cluster is a put, so none may be missing.
    seen = [event.kv.mod_revision for event in events]
    assert seen == list(range(start + 1, seen[-1] + 1))
    assert {each for each in writer.revisions if each <= seen[-1]} <= set(seen)


async def test_a_watch_is_entered_elsewhere_than_at_a_member_that_was_cut_off(
    etcd_binary: str,
) -> None:
    async with open_partitions(etcd_binary) as partitions:
        lonely, *others = partitions.members
        endpoints = [member.endpoint for member in partitions.members]
        writer = Writer()
        partitions.cut_off(lonely)
        # At once, before the member notices.
        async with open_watcher(endpoints) as watcher, watcher.watch("a") as watch:
            revision = await writer.put(others)
            with trio.fail_after(LIMIT):
                await take_up_to(watch, revision)

        async def knows() -> bool:
            try:
                with trio.fail_after(LIMIT), pytest.raises(NoLeaderError):
                    async with (
                        open_watcher(lonely.endpoint) as alone,
                        alone.watch("a", require_leader=True) as strict,
                    ):
                        await anext(strict)
            except pytest.fail.Exception:
                return False
            return True

        await eventually(knows)
        async with open_watcher(endpoints) as watcher:
            with trio.fail_after(LIMIT):
                async with watcher.watch("a", start_revision=revision) as watch:
                    assert (await take(watch, 1))[0].kv.mod_revision == revision
            statistics = watcher.statistics()
        assert (statistics.connections_made, statistics.reconnects) == (2, 0)
        assert "no leader" in str(statistics.last_loss)


async def test_a_member_without_a_leader_gives_no_token_and_says_so(
    etcd_binary: str,
) -> None:
    async with open_partitions(etcd_binary) as partitions:
        lonely, *others = partitions.members
        await Guarded(others[0]).set_up()
        channels = [
            Channel(*[member.endpoint for member in members], credentials=ROOT)
            for members in ([lonely], [lonely, *others])
        ]
        async with open_watcher(channels[0]) as alone:
            async with alone.watch("a", require_leader=True) as strict:
                partitions.cut_off(lonely)
                with trio.fail_after(LIMIT), pytest.raises(NoLeaderError):
                    await anext(strict)
        # Without hasleader, Authenticate would wait for its request timeout here.
        async with open_watcher(channels[1]) as watcher:
            with trio.fail_after(LIMIT):
                async with watcher.watch("a"):
                    statistics = watcher.statistics()
        assert statistics.connections_made == 2
        assert statistics.last_loss == "no token: UNAVAILABLE: etcdserver: no leader"
