"""How a mirror is proved to be right: proofs, `sync()` and `verify()`.

Each promise is a scenario, as in `follower_scenarios`.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import assert_checkpoints
from trio.testing import wait_all_tasks_blocked as settled

from tests.machine.follower_cluster import (
    COMPACTED,
    DENIED,
    FUTURE,
    Cluster,
    Core,
    Hold,
    always,
    compacted,
)
from tests.machine.follower_scenarios import RELISTED, Scenario, texts
from trio_etcd_watch import ClusterChangedError, PermissionDeniedError, StatusCode
from trio_etcd_watch._follower import HURRY, MAX_PATIENCE, MAX_PROOFS, PATIENCE
from trio_etcd_watch._grpc.status import Status
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._snapshot import MAX_KEYS, Reply

# Proofs after a creation


# proof
async def a_creation_with_history_is_proved(core: Core, cluster: Cluster) -> None:
    cluster.commit(b="1")
    async with cluster.mirror(core) as mirror:
        # The watch has no history to catch up with.
        cluster.watch.resume(2)
        await settled()
        assert cluster.kinds == ["list"]
        for count in range(2):
            del cluster.reads[:]
            cluster.commit(b=str(count))
            cluster.watch.resume(cluster.store.revision)
            cluster.watch.deliver()
            await settled()
            assert cluster.kinds == ["count", "proof"]
            request = cluster.reads[1][2]
            assert (request.keys_only, request.limit) == (True, MAX_KEYS)
            assert request.revision == mirror.revision == 3 + count
            assert request.min_mod_revision == mirror.revision
        assert mirror.statistics().resyncs == 0


# proof, read_again_if_in_doubt
async def a_proof_finds_a_lost_put(core: Core, cluster: Cluster) -> None:
    cluster.commit(b1="1")
    async with cluster.mirror(core) as mirror:
        cluster.commit(b2="1")
        cluster.commit(b3="1")
        cluster.watch.resume(4)
        await settled()
        cluster.watch.deliver(b"b2")
        await mirror.wait_for(lambda m: m.statistics().resyncs == 1)
        assert texts(mirror) == {"b1": "1", "b2": "1", "b3": "1"}
        assert "b'b2' is version 1 of revision 3 on the server" in cluster.lines[0]


async def a_proof_finds_a_lost_creation_beside_a_lost_deletion(
    core: Core, cluster: Cluster
) -> None:
    cluster.commit(b1="1")
    async with cluster.mirror(core) as mirror:
        cluster.commit(b1=None, b2="1")
        cluster.commit(b3="1")
        cluster.watch.resume(4)
        cluster.watch.deliver(b"b1", b"b2")
        await mirror.wait_for(lambda m: m.statistics().resyncs == 1)
        assert texts(mirror) == {"b2": "1", "b3": "1"}


async def a_proof_that_is_refused(core: Core, cluster: Cluster) -> None:
    """A refused proof proves nothing, so the range is read; that may fail as well."""
    refusal = Status(StatusCode.INVALID_ARGUMENT, "words")
    async with cluster.mirror(core) as mirror:
        cluster.answers["proof"] = always(refusal)
        cluster.commit(b="1")
        cluster.watch.resume(2)
        await settled()
        cluster.watch.deliver()
        await mirror.wait_for(lambda m: m.statistics().resyncs == 1)
        assert cluster.lines[0] == f"{RELISTED}INVALID_ARGUMENT: words"
        await settled()
        # The task continues.
        del cluster.answers["proof"]
        del cluster.reads[:]
        cluster.commit(b="2")
        cluster.watch.resume(3)
        cluster.watch.deliver()
        await settled()
        assert cluster.kinds == ["count", "proof"]


async def a_closed_watcher_ends_it_as_itself(core: Core, cluster: Cluster) -> None:
    hold = Hold()
    cluster.answers["count"] = hold
    with pytest.raises(trio.ClosedResourceError, match="closed"):
        async with cluster.mirror(core):
            cluster.commit(b="1")
            cluster.watch.resume(2)
            await settled()
            hold.error = trio.ClosedResourceError("the watcher is closed")
            hold.release.set()
            await settled()
            cluster.watch.fail(trio.ClosedResourceError("the watcher is closed"))
            await trio.sleep_forever()


# sync()


# check, own_writes
async def a_count_at_its_revision_is_enough(core: Core, cluster: Cluster) -> None:
    cluster.commit(b="1")
    async with cluster.mirror(core) as mirror:
        with assert_checkpoints():
            await mirror.sync()
        assert cluster.kinds == ["list", "count"]
        assert trio.current_time() == 0


# check
async def a_count_alone_detects_no_put(core: Core, cluster: Cluster) -> None:
    cluster.commit(b="1")
    async with cluster.mirror(core) as mirror, trio.open_nursery() as nursery:
        # The number of keys stays, and the revision is the next one.
        cluster.commit(b="2")
        nursery.start_soon(mirror.sync)
        await trio.sleep(PATIENCE)
        assert cluster.kinds == ["list", "count", "newest"]
        assert nursery.child_tasks
        cluster.watch.deliver()
        await settled()
        assert not nursery.child_tasks
        assert texts(mirror) == {"b": "2"}
        assert mirror.statistics().resyncs == 0


async def events_that_come_in_time_are_enough(core: Core, cluster: Cluster) -> None:
    async with cluster.mirror(core) as mirror, trio.open_nursery() as nursery:
        cluster.commit(b1="1")
        cluster.commit(b2="1")
        nursery.start_soon(mirror.sync)
        await trio.sleep(HURRY / 4)
        cluster.watch.deliver(last=2)
        await trio.sleep(HURRY / 4)
        assert nursery.child_tasks
        cluster.watch.deliver()
        await settled()
        assert not nursery.child_tasks
        assert cluster.kinds == ["list", "count"]
        assert texts(mirror) == {"b1": "1", "b2": "1"}


# check
async def a_second_read_settles(core: Core, cluster: Cluster) -> None:
    cluster.commit(b="1")
    async with cluster.mirror(core) as mirror:
        cluster.commit(a="outside")
        await mirror.sync()
        assert [kind for _, kind, _ in cluster.reads] == ["list", "count", "newest"]
        assert cluster.reads[2][0] == pytest.approx(HURRY)
        assert cluster.reads[2][2].min_mod_revision == 3
        assert (mirror.revision, mirror.statistics().resyncs) == (3, 0)
        assert mirror.copy().header.revision == 3
        assert trio.current_time() == pytest.approx(HURRY)


# own_writes
async def a_silent_living_watch_is_given_up(core: Core, cluster: Cluster) -> None:
    cluster.commit(b1="1")
    async with cluster.mirror(core) as mirror:
        cluster.commit(b2="1")
        await mirror.sync()
        assert texts(mirror) == {"b1": "1", "b2": "1"}
        assert mirror.statistics().resyncs == 1
        reason = "the watch did not deliver what a read shows"
        assert cluster.lines[0] == f"{RELISTED}{reason}"
        # By then the watch had been silent for this long; then it is counted again.
        assert cluster.reads[3][0] == pytest.approx(HURRY + PATIENCE + 0.1)
        assert cluster.kinds == ["list", "count", "newest", "list", "count"]


async def a_watch_that_brings_something_has_time(core: Core, cluster: Cluster) -> None:
    async with cluster.mirror(core) as mirror, trio.open_nursery() as nursery:
        for _ in range(5):
            cluster.commit(b="1")
        nursery.start_soon(mirror.sync)
        for last in range(2, 7):
            assert nursery.child_tasks
            await trio.sleep(0.9 * PATIENCE)
            cluster.watch.deliver(last=last)
        await settled()
        assert not nursery.child_tasks
        assert mirror.statistics().resyncs == 0


async def a_stream_that_flaps_is_given_up(core: Core, cluster: Cluster) -> None:
    """Its watch is resumed again and again, and never delivers what was lost."""
    cluster.commit(b1="1")
    async with cluster.mirror(core) as mirror, trio.open_nursery() as nursery:
        cluster.commit(b2="1")
        flapping, returned = cluster.watch, trio.Event()

        async def sync() -> None:
            await mirror.sync()
            returned.set()

        nursery.start_soon(sync)
        while (now := trio.current_time()) < MAX_PATIENCE + 3 * PATIENCE:
            # A watch that was just created gets more time, but not without bound.
            assert mirror.statistics().resyncs == (now > MAX_PATIENCE + HURRY)
            flapping.resume(cluster.store.revision)
            await trio.sleep(0.9 * PATIENCE)
        assert returned.is_set()
        assert texts(mirror) == {"b1": "1", "b2": "1"}
        assert mirror.statistics().resyncs == 1


async def an_answer_that_is_overtaken_is_not_the_newest(
    core: Core, cluster: Cluster
) -> None:
    async with cluster.mirror(core) as mirror, trio.open_nursery() as nursery:
        cluster.answers["count"] = hold = Hold()
        nursery.start_soon(mirror.sync)
        await hold.held.wait()
        cluster.commit(b="1")
        cluster.watch.deliver()
        await settled()
        hold.release.set()
        await settled()
        assert not nursery.child_tasks
        assert mirror.copy().header.revision == mirror.revision == 2


async def a_dead_watch_is_not_given_up(core: Core, cluster: Cluster) -> None:
    async with cluster.mirror(core) as mirror, trio.open_nursery() as nursery:
        for state in ("resuming", "creating"):
            cluster.watch.state = state
            cluster.commit(b=state)
            nursery.start_soon(mirror.sync)
            await trio.sleep(10 * PATIENCE)
            assert nursery.child_tasks
            cluster.watch.deliver()
            await settled()
            assert not nursery.child_tasks
            assert (texts(mirror), mirror.statistics().resyncs) == ({"b": state}, 0)


# own_writes
async def a_read_that_began_before_is_not_enough(core: Core, cluster: Cluster) -> None:
    async with cluster.mirror(core) as mirror, trio.open_nursery() as nursery:
        cluster.answers["list"] = hold = Hold()
        cluster.watch.fail(compacted())
        await hold.held.wait()
        cluster.commit(b="1")
        cluster.watch.state = "resuming"
        nursery.start_soon(mirror.sync)
        await settled()
        hold.release.set()
        await settled()
        assert (mirror.revision, mirror.statistics().resyncs) == (1, 1)
        assert nursery.child_tasks
        cluster.watch.deliver()
        await settled()
        assert not nursery.child_tasks
        assert texts(mirror) == {"b": "1"}
        # After the relist, there are no more reads about the old history.
        assert "newest" not in cluster.kinds


# lost_history_found
async def a_read_finds_a_lost_history(core: Core, cluster: Cluster) -> None:
    cluster.commit(b="1")
    cluster.commit(b="2")
    async with cluster.mirror(core) as mirror:
        cluster.store.forget(2)
        await mirror.sync()
        assert texts(mirror) == {"b": "1"}
        assert (mirror.revision, mirror.statistics().resyncs) == (2, 1)
        assert trio.current_time() < PATIENCE
        assert "the store is at revision 2, and was at 3" in cluster.lines[0]


def of_another(cluster: Cluster, kind: str) -> None:
    """Have reads of this kind answered by another cluster, which is far ahead."""

    async def answer(reply: Reply) -> Reply:
        await trio.lowlevel.checkpoint()
        del cluster.answers[kind]
        assert isinstance(reply, bytes)
        page = pb.RangeResponse.FromString(reply)
        page.header.cluster_id, page.header.revision = 2, 100
        return page.SerializeToString()

    cluster.answers[kind] = answer


# one_history
async def another_cluster_proves_nothing(core: Core, cluster: Cluster) -> None:
    """Reads, also those of a proof, may reach another endpoint than the watch."""
    async with cluster.mirror(core) as mirror:
        for resyncs, kind in enumerate(["count", "newest", "proof"], start=1):
            cluster.commit(a="outside")
            of_another(cluster, kind)
            await mirror.sync()
            await mirror.verify()
            assert kind not in cluster.answers
            assert mirror.revision == cluster.store.revision
            await settled()
            await trio.sleep(1)
            assert mirror.statistics().resyncs == resyncs
            assert mirror.statistics().connected
            assert "cluster 2 answers now" in cluster.lines[-1]
        cluster.commit(b="1")
        cluster.watch.deliver()
        await settled()
        assert texts(mirror) == {"b": "1"}


async def another_cluster_of_all_reads_ends_it(core: Core, cluster: Cluster) -> None:
    with pytest.raises(ClusterChangedError):
        async with cluster.mirror(core) as mirror:
            cluster.cluster_id = 2
            await mirror.sync()


# one_history
async def a_read_of_a_lower_term_is_a_lost_history(
    core: Core, cluster: Cluster
) -> None:
    cluster.raft_term = 3
    async with cluster.mirror(core) as mirror:
        for ask in (mirror.sync, mirror.verify):
            resyncs = mirror.statistics().resyncs
            cluster.raft_term -= 1
            await ask()
            assert mirror.statistics().resyncs == resyncs + 1
            assert "the raft term fell" in cluster.lines[-1]
            await mirror.wait_for(lambda m: m.statistics().connected)


async def a_term_that_rises_meanwhile_is_none(core: Core, cluster: Cluster) -> None:
    async with cluster.mirror(core) as mirror, trio.open_nursery() as nursery:
        for kind, ask in (("count", mirror.sync), ("proof", mirror.verify)):
            cluster.answers[kind] = hold = Hold()
            nursery.start_soon(ask)
            await hold.held.wait()
            cluster.raft_term += 1
            cluster.watch.progress()
            await settled()
            hold.release.set()
            await settled()
            assert not nursery.child_tasks
            assert mirror.statistics().resyncs == 0


async def denial_of_a_read_is_its_askers(core: Core, cluster: Cluster) -> None:
    async with cluster.mirror(core) as mirror:
        cluster.answers["count"] = always(DENIED)
        with pytest.raises(PermissionDeniedError):
            await mirror.sync()
        assert mirror.statistics().connected


# verify()


# proof
async def what_is_right_is_proved(core: Core, cluster: Cluster) -> None:
    cluster.commit(b1="1")
    async with cluster.mirror(core) as mirror:
        cluster.commit(b2="1")
        cluster.watch.deliver()
        await settled()
        # The proof is of its own revision, so later changes do not matter.
        cluster.commit(b1=None, b3="1")
        with assert_checkpoints():
            assert await mirror.verify()
        assert cluster.kinds == ["list", "proof"]
        assert mirror.statistics().resyncs == 0


# read_again_if_in_doubt
async def what_is_wrong_is_repaired(core: Core, cluster: Cluster) -> None:
    cluster.commit(b1="1")
    async with cluster.mirror(core) as mirror:
        cluster.commit(b1=None)
        cluster.commit(b2="1")
        cluster.watch.deliver(b"b1")
        await settled()
        assert not await mirror.verify()
        assert texts(mirror) == {"b2": "1"}
        assert mirror.statistics().resyncs == 1
        assert "at revision 4 there are 1 keys" in cluster.lines[0]
        await settled()
        assert await mirror.verify()


async def what_is_compacted_is_proved_later(core: Core, cluster: Cluster) -> None:
    cluster.commit(b="1")
    async with cluster.mirror(core) as mirror:
        cluster.commit(a="outside")
        cluster.store.compacted = 3
        assert await mirror.verify()
        assert cluster.kinds == ["list", "proof", "count", "newest", "proof"]
        assert (mirror.revision, mirror.statistics().resyncs) == (3, 0)


async def what_is_always_compacted_is_read_again(core: Core, cluster: Cluster) -> None:
    async with cluster.mirror(core) as mirror:
        cluster.answers["proof"] = always(COMPACTED)
        assert not await mirror.verify()
        assert cluster.kinds.count("proof") == MAX_PROOFS
        assert mirror.statistics().resyncs == 1
        reason = "the revision of the proof was compacted several times"
        assert cluster.lines == [f"{RELISTED}{reason}"]


# lost_history_found
async def a_proof_of_the_future_is_a_lost_history(core: Core, cluster: Cluster) -> None:
    async with cluster.mirror(core) as mirror:
        cluster.answers["proof"] = always(FUTURE)
        assert not await mirror.verify()
        assert mirror.statistics().resyncs == 1
        assert "is in the future" in cluster.lines[0]


# proof_of_its_revision
async def a_proof_of_before_a_relist_is_made_again(
    core: Core, cluster: Cluster
) -> None:
    async with cluster.mirror(core) as mirror, trio.open_nursery() as nursery:
        results: list[bool] = []

        async def verify() -> None:
            results.append(await mirror.verify())

        cluster.answers["proof"] = hold = Hold()
        nursery.start_soon(verify)
        await hold.held.wait()
        cluster.commit(b="1")
        cluster.watch.fail(compacted())
        await mirror.wait_for(lambda m: b"b" in m)
        hold.release.set()
        with trio.fail_after(PATIENCE):
            while not results:  # noqa: ASYNC110  # no event is set
                await trio.sleep(HURRY)
        assert results == [True]
        assert cluster.kinds.count("proof") == 2
        assert mirror.statistics().resyncs == 1


async def the_first_doubt_is_the_reason(core: Core, cluster: Cluster) -> None:
    async with cluster.mirror(core) as mirror:
        mirror._follower._distrust("one")
        mirror._follower._distrust("two")
        await settled()
        # There is no watch to give up while the range is being read.
        mirror._follower._distrust("three")
        await mirror.wait_for(lambda m: m.statistics().connected)
        await trio.sleep(10)
        assert cluster.lines == [f"{RELISTED}one"]
        assert mirror.statistics().resyncs == 1


SCENARIOS: tuple[Scenario, ...] = (
    a_creation_with_history_is_proved,
    a_proof_finds_a_lost_put,
    a_proof_finds_a_lost_creation_beside_a_lost_deletion,
    a_proof_that_is_refused,
    a_closed_watcher_ends_it_as_itself,
    a_count_at_its_revision_is_enough,
    a_count_alone_detects_no_put,
    events_that_come_in_time_are_enough,
    a_second_read_settles,
    a_silent_living_watch_is_given_up,
    a_watch_that_brings_something_has_time,
    a_stream_that_flaps_is_given_up,
    an_answer_that_is_overtaken_is_not_the_newest,
    a_dead_watch_is_not_given_up,
    a_read_that_began_before_is_not_enough,
    a_read_finds_a_lost_history,
    another_cluster_proves_nothing,
    another_cluster_of_all_reads_ends_it,
    a_read_of_a_lower_term_is_a_lost_history,
    a_term_that_rises_meanwhile_is_none,
    denial_of_a_read_is_its_askers,
    what_is_right_is_proved,
    what_is_wrong_is_repaired,
    what_is_compacted_is_proved_later,
    what_is_always_compacted_is_read_again,
    a_proof_of_the_future_is_a_lost_history,
    a_proof_of_before_a_relist_is_made_again,
    the_first_doubt_is_the_reason,
)
