"""The inbox of a watch: it delivers once, in order, also when a reader is cancelled."""

from __future__ import annotations

import gc
import weakref
from typing import Self

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.inbox import STEPS, Reader, Server, Step, one, revisions, whole
from tests.support.replies import response_of
from trio_etcd_watch import Event, HistoryLostError, WatchResponse
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._subscription import Delivery


@STEPS
@pytest.mark.parametrize("event", ["fail", "close"])
async def test_a_reader_woken_by_the_end_and_then_cancelled_is_cancelled(
    step: Step, event: str
) -> None:
    server = Server()
    reader = Reader(server.watch, step)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await wait_all_tasks_blocked()
        if event == "fail":
            server.fail()
        else:
            server.inbox.close()
        reader.scope.cancel()
    assert isinstance(reader.outcome, trio.Cancelled)
    assert server.watch.next_revision == 2
    end = HistoryLostError if event == "fail" else trio.ClosedResourceError
    with pytest.raises(end):
        await step(server.watch)


@STEPS
async def test_a_reader_woken_by_events_and_then_cancelled_gets_them(
    step: Step,
) -> None:
    server = Server()
    reader = Reader(server.watch, step)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await wait_all_tasks_blocked()
        server.put(5, 6)
        reader.scope.cancel()
    assert isinstance(reader.outcome, WatchResponse | Event)
    taken = revisions(reader.outcome)
    assert taken == ([5, 6] if step is whole else [5])
    assert server.watch.next_revision == taken[-1] + 1
    assert server.consumed == [(2, 200)]


async def test_a_reader_woken_by_progress_and_then_cancelled_gets_it() -> None:
    server = Server()
    reader = Reader(server.watch, whole)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await wait_all_tasks_blocked()
        server.notify(6)
        reader.scope.cancel()
    assert isinstance(reader.outcome, WatchResponse)
    assert reader.outcome.is_progress_notify
    assert server.watch.next_revision == 7


@STEPS
async def test_a_cancelled_step_leaves_everything_in_its_order(step: Step) -> None:
    server = Server()
    server.put(5)
    server.notify(6)
    assert revisions(await step(server.watch)) == [5]
    reader = Reader(server.watch, whole)
    reader.scope.cancel()
    await reader.run()
    assert isinstance(reader.outcome, trio.Cancelled)
    assert server.watch.next_revision == 6
    server.put(7)
    assert (await whole(server.watch)).is_progress_notify
    assert server.watch.next_revision == 7
    assert revisions(await whole(server.watch)) == [7]


@pytest.mark.parametrize("event", ["put", "notify"])
async def test_a_reader_woken_by_an_item_raises_if_it_is_closed(event: str) -> None:
    server = Server()
    reader = Reader(server.watch, whole)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await wait_all_tasks_blocked()
        if event == "put":
            server.put(5)
        else:
            server.notify(5)
        server.inbox.close()
    assert isinstance(reader.outcome, trio.ClosedResourceError)
    # The response was not delivered.
    assert server.watch.next_revision == 2
    assert server.watch.statistics().unread_events == 0


async def test_the_rest_of_a_response_comes_as_one() -> None:
    server = Server()
    server.put(5, 5, 6, 7)
    assert revisions(await one(server.watch)) == [5]
    assert server.watch.next_revision == 5
    server.put(8)
    assert revisions(await whole(server.watch)) == [5, 6, 7]
    assert server.watch.next_revision == 8
    assert revisions(await one(server.watch)) == [8]
    assert server.watch.next_revision == 9


async def test_each_event_passes_its_revision_with_the_last_of_it() -> None:
    server = Server()
    server.put(5, 5, 6)
    server.move(20)
    bookmarks = []
    for _ in range(3):
        await one(server.watch)
        bookmarks.append(server.watch.next_revision)
    assert bookmarks == [5, 6, 21]


@STEPS
async def test_two_tasks_at_once(step: Step) -> None:
    server = Server()
    reader = Reader(server.watch, whole)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await step(server.watch)
        server.put(8)
    assert isinstance(reader.outcome, WatchResponse)
    assert revisions(reader.outcome) == [8]


@STEPS
async def test_busy_while_another_task_consumes_a_rest(step: Step) -> None:
    server = Server()
    server.put(5, 6, 7)
    await one(server.watch)
    # The first step has begun, and is at its checkpoint.
    first = server.watch.__anext__()
    assert first.send(None) is not None
    with pytest.raises(trio.BusyResourceError):
        await step(server.watch)
    first.close()
    assert revisions(await whole(server.watch)) == [6, 7]


@STEPS
async def test_closed_where_a_rest_is_held(step: Step) -> None:
    server = Server()
    server.put(5, 5, 6)
    assert revisions(await one(server.watch)) == [5]
    server.put(7)
    server.inbox.leave()
    # The bookmark passes neither the rest nor what follows, as both are undelivered.
    assert server.watch.next_revision == 5
    for _ in range(2):
        with pytest.raises(trio.ClosedResourceError):
            await step(server.watch)
    assert server.watch.next_revision == 5


async def test_closed_where_a_notification_is_next() -> None:
    server = Server()
    server.put(5)
    server.notify(6)
    assert revisions(await whole(server.watch)) == [5]
    server.inbox.close()
    with pytest.raises(trio.ClosedResourceError):
        await whole(server.watch)
    assert server.watch.next_revision == 6


@STEPS
async def test_closed_in_a_step_that_consumes_a_rest(step: Step) -> None:
    server = Server()
    server.put(5, 6, 7)
    await one(server.watch)
    reader = Reader(server.watch, whole)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        server.inbox.close()
    assert isinstance(reader.outcome, trio.ClosedResourceError)
    assert server.watch.next_revision == 6


async def test_deliveries_after_the_end_are_dropped() -> None:
    server = Server()
    server.inbox.close()
    server.put(5)
    server.notify(6)
    server.move(7)
    server.fail()
    with pytest.raises(trio.ClosedResourceError):
        await whole(server.watch)
    statistics = server.watch.statistics()
    assert (statistics.unread_events, statistics.events_received) == (0, 0)
    assert server.watch.next_revision == 2


@STEPS
async def test_events_before_a_failure_are_delivered_first(step: Step) -> None:
    server = Server()
    server.put(5)
    server.fail()
    assert revisions(await step(server.watch)) == [5]
    errors = []
    for _ in range(3):
        with pytest.raises(HistoryLostError) as caught:
            await step(server.watch)
        errors.append(caught.value)
    assert len(set(map(id, errors))) == 3
    assert all(error.__context__ is None for error in errors)


async def test_unread_events_are_merged_up_to_a_notification() -> None:
    server = Server()
    server.put(3)
    server.put(4, 5)
    server.notify(6)
    server.notify(7)
    server.put(8)
    assert server.watch.statistics().unread_events == 4
    assert revisions(await whole(server.watch)) == [3, 4, 5]
    assert (server.consumed, server.watch.next_revision) == ([(3, 300)], 6)
    assert (await whole(server.watch)).header.revision == 7
    assert (len(server.consumed), server.watch.next_revision) == (1, 8)
    assert revisions(await whole(server.watch)) == [8]


async def test_hidden_progress_counts_once_earlier_events_are_consumed() -> None:
    server = Server()
    server.move(3)
    assert server.watch.next_revision == 4
    server.put(5)
    server.move(9)
    assert server.watch.next_revision == 4
    await whole(server.watch)
    assert server.watch.next_revision == 10
    server.move(11)
    assert server.watch.next_revision == 12


async def test_the_creation_is_delivered_if_requested() -> None:
    server = Server(created_notify=True)
    assert (await whole(server.watch)).created
    server.put(5)
    assert not (await whole(server.watch)).created


@pytest.mark.parametrize("way", ["create", "fail", "close"])
async def test_what_ends_the_wait_for_the_creation(way: str) -> None:
    server = Server(created=False)
    outcomes: list[object] = []

    async def wait() -> None:
        try:
            await server.inbox.wait_created()
            outcomes.append(None)
        except (HistoryLostError, trio.ClosedResourceError) as exc:
            outcomes.append(type(exc))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert outcomes == []
        {"create": server.create, "fail": server.fail, "close": server.inbox.close}[
            way
        ]()
    kinds = {
        "create": None,
        "fail": HistoryLostError,
        "close": trio.ClosedResourceError,
    }
    assert outcomes == [kinds[way]]


class Held:
    """An object that a weak reference can observe."""


@STEPS
async def test_a_watch_that_is_drained_holds_nothing(
    step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    marks = []

    def put(*revisions: int) -> None:
        mark = Held()
        marks.append(weakref.ref(mark))
        raw = pb.WatchResponse()
        for revision in revisions:
            raw.events.add().kv.mod_revision = revision
        response = response_of(raw)
        # A response holds nothing of its message but `_events`.
        object.__setattr__(response, "_events", Marked(response.events, mark))
        count = len(revisions)
        delivery = Delivery(server.subscription, response, revisions[-1] + 1, count)
        server.inbox.deliver(delivery)

    reader = Reader(server.watch, step)
    async with trio.open_nursery() as nursery:
        put(5)
        await step(server.watch)
        gc.collect()
        assert marks.pop()() is None
        # A reader that waits again after it was woken holds nothing either.
        nursery.start_soon(reader.run)
        await wait_all_tasks_blocked()
        put(6)
    reader.outcome = None
    again = Reader(server.watch, step)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(again.run)
        await wait_all_tasks_blocked()
        gc.collect()
        assert marks.pop()() is None
        again.scope.cancel()


class Marked(tuple[Event, ...]):
    """Events with a reference to a mark."""

    mark: Held

    def __new__(cls, events: object, mark: Held) -> Self:
        marked = super().__new__(cls, events)  # type: ignore[arg-type]  # a sequence
        marked.mark = mark
        return marked
