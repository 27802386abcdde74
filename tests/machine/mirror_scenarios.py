"""What users ask of a mirror: each promise a scenario, as in `follower_scenarios`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import assert_checkpoints
from trio.testing import wait_all_tasks_blocked as settled

from tests.machine.follower_cluster import (
    DENIED,
    Cluster,
    Core,
    Hold,
    always,
    compacted,
    denied,
)
from tests.machine.follower_scenarios import Scenario
from trio_etcd_watch import Mirror, MirrorUpdate, PermissionDeniedError

# Statistics


# says_since_when
async def it_reports_since_when_it_is_disconnected(
    core: Core, cluster: Cluster
) -> None:
    async with cluster.mirror(core) as mirror:
        assert mirror.statistics().disconnected_since is None
        await trio.sleep(1)
        cluster.watch.lost_at = 0.5
        assert mirror.statistics().disconnected_since == 0.5
        assert not mirror.statistics().connected
        cluster.may_watch = trio.Event()
        # The watch ends after its stream was lost, and the next one while it is live.
        cluster.watch.fail(compacted())
        await trio.sleep(1)
        assert mirror.statistics().disconnected_since == 0.5
        cluster.may_watch.set()
        await mirror.wait_for(lambda m: m.statistics().connected)
        cluster.may_watch = trio.Event()
        ended = trio.current_time()
        cluster.watch.fail(compacted())
        await trio.sleep(1)
        assert mirror.statistics().disconnected_since == ended
        cluster.may_watch.set()


# Waiting for it


# predicate_holds
async def a_predicate_is_asked_after_each_response(
    core: Core, cluster: Cluster
) -> None:
    asked: list[int] = []

    def predicate(mirror: Mirror) -> bool:
        asked.append(mirror.revision)
        return mirror.revision >= 4

    async with cluster.mirror(core) as mirror, trio.open_nursery() as nursery:
        nursery.start_soon(mirror.wait_for, predicate)
        await settled()
        assert asked == [1]
        for revision in (2, 3, 4):
            cluster.commit(b="1")
            cluster.watch.deliver()
            await settled()
            assert asked[-1] == revision
        assert asked == [1, 2, 3, 4]
        with assert_checkpoints():
            await mirror.wait_for(lambda _: True)
        with pytest.raises(TypeError, match="predicate"):
            await mirror.wait_for(None)  # type: ignore[arg-type]  # it is refused


# closed_when_left
async def closing_wakes_every_waiter(core: Core, cluster: Cluster) -> None:
    woken: list[str] = []

    async def wait(name: str, waiter: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError, match="this mirror is closed"):
            await waiter()
        woken.append(name)

    async with trio.open_nursery() as nursery:
        async with cluster.mirror(core) as mirror:
            cluster.answers = {"count": Hold(), "proof": Hold()}
            changes = mirror.changes(initial=False)
            waiters: dict[str, Callable[[], Awaitable[object]]] = {
                "changes": changes.__anext__,
                "wait_for": lambda: mirror.wait_for(lambda _: False),
                "sync": mirror.sync,
                "verify": mirror.verify,
            }
            for name, waiter in waiters.items():
                nursery.start_soon(wait, name, waiter)
            await settled()
            assert not woken
    assert sorted(woken) == sorted(waiters)
    assert not mirror._asking
    for waiter in waiters.values():
        with pytest.raises(trio.ClosedResourceError, match="this mirror is closed"):
            await waiter()
    for look in (len, list, dict, Mirror.copy, Mirror.statistics, Mirror.changes):
        with pytest.raises(trio.ClosedResourceError, match="this mirror is closed"):
            look(mirror)


# one_task_at_a_time
async def one_task_at_a_time_takes_changes(core: Core, cluster: Cluster) -> None:
    cluster.commit(b="1")
    async with cluster.mirror(core) as mirror, trio.open_nursery() as nursery:
        changes = mirror.changes()
        with assert_checkpoints():
            first = await anext(changes)
        assert [change.key for change in first.changes] == [b"b"]
        updates: list[MirrorUpdate] = []

        async def take() -> None:
            updates.append(await anext(changes))

        nursery.start_soon(take)
        await settled()
        with pytest.raises(trio.BusyResourceError):
            await anext(changes)
        assert not updates
        cluster.commit(b="2")
        cluster.watch.deliver()
        await settled()
        assert [change.key for change in updates[0].changes] == [b"b"]
        # A cancelled task blocks no other, and loses no later change.
        with trio.move_on_after(1):
            await anext(changes)
        late = mirror.changes(initial=False)
        cluster.commit(b="3")
        cluster.watch.deliver()
        assert (await anext(changes)).revision == (await anext(late)).revision == 4


# cancel_loses_nothing
async def a_waiter_woken_and_cancelled_at_once_sees_the_cancel(
    core: Core, cluster: Cluster
) -> None:
    async def end(mirror: Mirror, scope: trio.CancelScope) -> None:
        await settled()
        mirror._follower.moved.unpark_all()
        scope.cancel()

    # Trio's scheduler draws which task runs first, the mirror's or its user's.
    for _ in range(20):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with cluster.mirror(core) as mirror:
                    nursery.start_soon(end, mirror, scope)
                    await anext(mirror.changes(initial=False))
        assert scope.cancelled_caught


# How its block ends


# ends_in_the_error
async def what_cannot_be_repaired_comes_out_bare(core: Core, cluster: Cluster) -> None:
    for kind in ("body", "entering"):
        if kind == "entering":
            cluster.answers["list"] = always(DENIED)
        with pytest.raises(PermissionDeniedError) as caught:
            async with cluster.mirror(core):
                assert kind == "body"
                cluster.watch.fail(denied())
                await trio.sleep_forever()
        assert type(caught.value) is PermissionDeniedError


# ends_in_the_error
async def the_bodys_own_comes_out_bare(core: Core, cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="mine") as caught:
        async with cluster.mirror(core):
            raise ValueError("mine")
    assert caught.value.__context__ is None
    with pytest.raises(ValueError, match="mine") as caught:
        async with cluster.mirror(core):
            with trio.CancelScope() as scope:
                scope.cancel()
                try:
                    await trio.sleep_forever()
                finally:
                    raise ValueError("mine")
    assert isinstance(caught.value.__context__, trio.Cancelled)


async def cancelled_around_it_the_bodys_own_comes_out(
    core: Core, cluster: Cluster
) -> None:
    with pytest.raises(ValueError, match="mine"), trio.CancelScope() as scope:
        async with cluster.mirror(core):
            scope.cancel()
            raise ValueError("mine")


async def the_bodys_own_has_the_failure_as_context(
    core: Core, cluster: Cluster
) -> None:
    with pytest.raises(ValueError, match="mine") as caught:
        async with cluster.mirror(core):
            cluster.watch.fail(denied())
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("mine")
    assert isinstance(caught.value.__context__, PermissionDeniedError)


async def the_bodys_own_keeps_its_context(core: Core, cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="mine") as caught:
        async with cluster.mirror(core):
            cluster.watch.fail(denied())
            try:
                await trio.sleep_forever()
            finally:
                try:
                    raise KeyError
                except KeyError as exc:
                    raise ValueError("mine") from exc
    assert isinstance(caught.value.__context__, KeyError)


async def cancelled_it_leaves_nothing(core: Core, cluster: Cluster) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    cluster.answers["list"] = Hold()
    with trio.move_on_after(1) as scope:
        async with cluster.mirror(core):
            raise AssertionError("nothing is read yet")
    assert scope.cancelled_caught
    assert trio.lowlevel.current_statistics().tasks_living == tasks


SCENARIOS: tuple[Scenario, ...] = (
    it_reports_since_when_it_is_disconnected,
    a_predicate_is_asked_after_each_response,
    closing_wakes_every_waiter,
    one_task_at_a_time_takes_changes,
    a_waiter_woken_and_cancelled_at_once_sees_the_cancel,
    what_cannot_be_repaired_comes_out_bare,
    the_bodys_own_comes_out_bare,
    cancelled_around_it_the_bodys_own_comes_out,
    the_bodys_own_has_the_failure_as_context,
    the_bodys_own_keeps_its_context,
    cancelled_it_leaves_nothing,
)
