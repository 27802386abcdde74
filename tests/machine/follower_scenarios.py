"""The rules of following, each as a scenario of its own against a `Cluster`.

`test_follower_mutations.py` runs them on the package as it is, and with a rule broken.
Time is virtual, so the times that they assert are exact.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import pytest
import trio
from trio.testing import wait_all_tasks_blocked as settled

from tests.machine.follower_cluster import (
    COMPACTED,
    FUTURE,
    Cluster,
    Core,
    canceled,
    compacted,
    denied,
)
from trio_etcd_watch import (
    ClusterChangedError,
    HistoryLostError,
    KeyValue,
    PermissionDeniedError,
    WatchCanceledError,
)
from trio_etcd_watch._backoff import MAX_DELAY
from trio_etcd_watch._outage import LineBudget
from trio_etcd_watch._snapshot import FIRST_PAGE, MAX_STARTS, Reply

Scenario = Callable[[Core, Cluster], Awaitable[None]]

RELISTED = "a mirror is read again: "


def texts(mapping: Mapping[bytes, KeyValue]) -> dict[str, str]:
    return {key.decode(): kv.value.decode() for key, kv in mapping.items()}


# The read, and what the watch delivers


# equal, state_to_state
async def events_move_it(core: Core, cluster: Cluster) -> None:
    cluster.commit(a="outside", b1="1", b2="1")
    async with cluster.mirror(core) as mirror:
        assert texts(mirror) == {"b1": "1", "b2": "1"}
        assert (mirror.revision, cluster.watch.start) == (2, 3)
        assert cluster.reads[0][2].limit == FIRST_PAGE
        cluster.commit(b1="2", b2=None)
        cluster.commit(b3="1")
        # The header is ahead of the events that were sent.
        cluster.watch.deliver(last=3)
        await settled()
        assert (mirror.revision, texts(mirror)) == (3, {"b1": "2"})
        cluster.watch.deliver()
        await settled()
        assert (mirror.revision, texts(mirror)) == (4, {"b1": "2", "b3": "1"})
        assert mirror.copy().header.revision == 4
        # There was no reason for a proof.
        assert cluster.kinds == ["list"]
    assert cluster.watch.closed


# equal
async def progress_moves_the_revision(core: Core, cluster: Cluster) -> None:
    cluster.commit(b="1")
    async with cluster.mirror(core) as mirror:
        cluster.commit(a="outside")
        cluster.watch.progress()
        await settled()
        assert (mirror.revision, cluster.kinds) == (3, ["list"])


# entered_when_watched
async def it_shows_nothing_before_its_watch_is_there(
    core: Core, cluster: Cluster
) -> None:
    cluster.may_watch = trio.Event()
    entered = False

    async def enter() -> None:
        nonlocal entered
        async with cluster.mirror(core) as mirror:
            entered = True
            assert mirror.statistics().connected

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enter)
        await settled()
        assert cluster.kinds == ["list"]
        assert not entered
        cluster.may_watch.set()
    assert entered


# What ends a watch


# goes_on
async def relisted_after(error: Exception, core: Core, cluster: Cluster) -> None:
    """A relist repairs what the end of its watch cost, in one update."""
    cluster.commit(b1="1", b2="1", b3="1")
    async with cluster.mirror(core) as mirror:
        changes = mirror.changes(initial=False)
        cluster.commit(b1="2", b2=None)
        cluster.commit(b4="1")
        # The read has what was compacted, and the watch what follows the read.
        cluster.store.compacted = 4
        cluster.may_watch = trio.Event()
        old = cluster.watch
        old.fail(error)
        update = await anext(changes)
        assert old.closed
        assert [change.key for change in update.changes] == [b"b1", b"b2", b"b4"]
        assert (update.revision, update.resynced) == (4, True)
        assert texts(mirror) == {"b1": "2", "b3": "1", "b4": "1"}
        assert mirror.statistics().resyncs == 1
        assert cluster.lines == [
            f"{RELISTED}{error}",
            "a mirror differed in 3 keys, such as b'b1'",
        ]
        assert not mirror.statistics().connected
        cluster.may_watch.set()
        await settled()
        assert cluster.watch.start == 5
        assert mirror.statistics().connected
        cluster.commit(b5="1")
        cluster.watch.deliver()
        update = await anext(changes)
        assert ([c.key for c in update.changes], update.resynced) == ([b"b5"], False)


async def it_is_read_again_after_a_compaction(core: Core, cluster: Cluster) -> None:
    await relisted_after(compacted(), core, cluster)


async def it_is_read_again_after_a_cancel(core: Core, cluster: Cluster) -> None:
    error = WatchCanceledError("words", response=canceled("words"), reason="words")
    await relisted_after(error, core, cluster)


async def it_is_read_again_after_a_lost_history(core: Core, cluster: Cluster) -> None:
    await relisted_after(HistoryLostError(9, 4), core, cluster)


# goes_on
async def a_refused_creation_is_like_an_end(core: Core, cluster: Cluster) -> None:
    cluster.refusals = [compacted()]
    async with cluster.mirror(core) as mirror:
        assert mirror.statistics().resyncs == 1


# chain, read_again_if_in_doubt
async def a_broken_chain(core: Core, cluster: Cluster) -> None:
    cluster.commit(b1="1")
    async with cluster.mirror(core) as mirror:
        cluster.commit(b2="1")
        cluster.commit(b2="2")
        cluster.commit(b1="2")
        cluster.watch.deliver(first=4)
        await mirror.wait_for(lambda m: m.revision == 5)
        assert texts(mirror) == {"b1": "2", "b2": "2"}
        assert mirror.statistics().resyncs == 1
        assert "an event of b'b2' before revision 4 was lost" in cluster.lines[0]


# ends_in_the_error
async def denial_of_the_watch_ends_the_block(core: Core, cluster: Cluster) -> None:
    with pytest.raises(PermissionDeniedError):
        async with cluster.mirror(core):
            cluster.watch.fail(denied())
            await trio.sleep_forever()
    assert cluster.kinds == ["list"]


# Reading again


# goes_on
async def it_is_read_however_often_it_is_compacted(
    core: Core, cluster: Cluster
) -> None:
    async def fail(reply: Reply) -> Reply:
        if len(cluster.reads) > 4 * MAX_STARTS:
            return reply
        # Each page but the first may get either; both mean another try.
        return COMPACTED if len(cluster.reads) <= 2 * MAX_STARTS else FUTURE

    cluster.answers["list"] = fail
    async with cluster.mirror(core) as mirror:
        assert mirror.statistics().resyncs == 0
    began = [when for when, _, _ in cluster.reads[::MAX_STARTS]]
    assert [round(when, 6) for when in began] == [0, 0.1, 0.3, 0.7, 1.5]
    assert len(cluster.lines) == 4


async def pauses(
    life: float, reading: float, core: Core, cluster: Cluster
) -> list[float]:
    """The pauses before reads after five watches that lived for so many seconds."""
    ended: list[float] = []

    async def slow(reply: Reply) -> Reply:
        await trio.sleep(reading)
        return reply

    cluster.answers["list"] = slow
    async with cluster.mirror(core):
        for _ in range(5):
            await settled()
            await trio.sleep(life)
            count = len(cluster.watches)
            ended.append(trio.current_time())
            cluster.watch.fail(HistoryLostError(2, 1))
            while len(cluster.watches) == count:  # noqa: ASYNC110  # no event is set
                await trio.sleep(reading + MAX_DELAY)
    began = [when for when, _, _ in cluster.reads[1:]]
    return [round(now - then, 6) for then, now in zip(ended, began, strict=True)]


# paced
async def a_watch_that_ends_at_once_is_opened_ever_later(
    core: Core, cluster: Cluster
) -> None:
    # A slow read changes nothing: its success says nothing about the watch.
    waits = await pauses(0, 2 * MAX_DELAY, core, cluster)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6]


# paced
async def a_watch_that_lasted_is_opened_soon(core: Core, cluster: Cluster) -> None:
    waits = await pauses(2 * MAX_DELAY, 0, core, cluster)
    assert waits == [0.05] * 5


# quiet_log
async def its_lines_are_bounded(core: Core, cluster: Cluster) -> None:
    cluster.refusals = [HistoryLostError(2, 1) for _ in range(2 * LineBudget.BURST)]
    async with cluster.mirror(core) as mirror:
        assert mirror.statistics().resyncs == 2 * LineBudget.BURST
    assert LineBudget.BURST <= len(cluster.lines) < 1.5 * LineBudget.BURST


# What headers report


# one_history
async def a_fallen_raft_term(core: Core, cluster: Cluster) -> None:
    cluster.raft_term = 2
    async with cluster.mirror(core) as mirror:
        cluster.raft_term = 3
        cluster.watch.progress()
        await settled()
        cluster.raft_term = 2
        cluster.commit(b="1")
        cluster.watch.deliver()
        await settled()
        # No event of the response was applied.
        assert texts(mirror) == {}
        await mirror.wait_for(lambda m: m.statistics().connected)
        assert texts(mirror) == {"b": "1"}
        # From now on the lower term is the one to compare with.
        await trio.sleep(10)
        assert mirror.statistics().resyncs == 1
        assert "the raft term fell from 3 to 2" in cluster.lines[0]


# one_history, ends_in_the_error
async def another_cluster_of_the_watch(core: Core, cluster: Cluster) -> None:
    with pytest.raises(ClusterChangedError):
        async with cluster.mirror(core):
            cluster.cluster_id = 2
            cluster.watch.resume(1)
            await trio.sleep_forever()
    assert cluster.kinds == ["list"]


# one_history
async def another_cluster_of_the_read(core: Core, cluster: Cluster) -> None:
    with pytest.raises(ClusterChangedError):
        async with cluster.mirror(core):
            cluster.cluster_id = 2
            cluster.watch.fail(compacted())
            await trio.sleep_forever()
    assert cluster.kinds == ["list", "list"]
    assert len(cluster.watches) == 1


# made_up_headers_ignored
async def a_header_that_a_proxy_made_up(core: Core, cluster: Cluster) -> None:
    cluster.commit(b="1")
    cluster.made_up = True
    async with cluster.mirror(core) as mirror:
        assert cluster.watch.created.header.cluster_id == 0
        assert mirror.copy().header.cluster_id == 1
        assert (mirror.statistics().resyncs, cluster.kinds) == (0, ["list"])


# proof
async def a_member_that_is_behind(core: Core, cluster: Cluster) -> None:
    """Events are applied meanwhile; a read proves that no history was lost."""
    cluster.commit(b="1")
    cluster.member = 1
    async with cluster.mirror(core) as mirror:
        await settled()
        assert cluster.kinds == ["list", "count", "proof"]
        cluster.watch.resume(1)
        await settled()
        assert cluster.kinds == ["list", *2 * ["count", "proof"]]
        cluster.commit(b="2")
        cluster.watch.deliver()
        await settled()
        assert (texts(mirror), mirror.statistics().resyncs) == ({"b": "2"}, 0)


# lost_history_found
async def history_that_is_lost_while_it_is_entered(
    core: Core, cluster: Cluster
) -> None:
    cluster.commit(b="1")
    cluster.may_watch = trio.Event()

    async def lose() -> None:
        await settled()
        cluster.store.forget(1)
        cluster.may_watch.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lose)
        async with cluster.mirror(core) as mirror:
            await mirror.wait_for(lambda m: m.statistics().resyncs == 1)
            assert (mirror.revision, texts(mirror)) == (1, {})
    assert "the store is at revision 1, and was at 2" in cluster.lines[0]


# lost_history_found
async def history_that_is_lost_behind_a_read(core: Core, cluster: Cluster) -> None:
    """`sync()` moves the mirror ahead of its watch, which notices no loss."""
    cluster.commit(b="old")
    async with cluster.mirror(core) as mirror:
        for _ in range(8):
            cluster.commit(a="outside")
        await mirror.sync()
        assert mirror.revision == 10
        cluster.store.forget(6)
        cluster.commit(b="new")
        cluster.watch.resume(6)
        cluster.watch.deliver()
        await mirror.wait_for(lambda m: texts(m) == {"b": "new"})
        assert (mirror.revision, mirror.statistics().resyncs) == (7, 1)
        assert "the store is at revision 7, and was at 10" in cluster.lines[0]


# one_history
async def a_response_that_is_behind_a_read(core: Core, cluster: Cluster) -> None:
    """`sync()` may move the mirror ahead of its watch's member."""
    async with cluster.mirror(core) as mirror:
        cluster.commit(a="outside")
        await mirror.sync()
        assert mirror.revision == 2
        cluster.watch.progress(1)
        await settled()
        assert (mirror.revision, mirror.statistics().resyncs) == (2, 0)


SCENARIOS: tuple[Scenario, ...] = (
    events_move_it,
    progress_moves_the_revision,
    it_shows_nothing_before_its_watch_is_there,
    it_is_read_again_after_a_compaction,
    it_is_read_again_after_a_cancel,
    it_is_read_again_after_a_lost_history,
    a_refused_creation_is_like_an_end,
    a_broken_chain,
    denial_of_the_watch_ends_the_block,
    it_is_read_however_often_it_is_compacted,
    a_watch_that_ends_at_once_is_opened_ever_later,
    a_watch_that_lasted_is_opened_soon,
    its_lines_are_bounded,
    a_fallen_raft_term,
    another_cluster_of_the_watch,
    another_cluster_of_the_read,
    a_header_that_a_proxy_made_up,
    a_member_that_is_behind,
    history_that_is_lost_while_it_is_entered,
    history_that_is_lost_behind_a_read,
    a_response_that_is_behind_a_read,
)
