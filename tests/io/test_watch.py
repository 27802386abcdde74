"""A watch by itself: what it holds for its user, and what reading from it costs."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
import trio
import trio.testing

from tests.support.keeping import Nobody
from tests.support.replies import (
    connected_session,
    created,
    events,
    live,
    receive,
    response_of,
    sent,
)
from trio_etcd_watch import Watch, WatchResponse
from trio_etcd_watch._face import construct
from trio_etcd_watch._inbox import Inbox
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._requests import watch_spec
from trio_etcd_watch._subscription import Delivery, State, Subscription


class Server:
    """Delivers to one watch, whose user consumes nothing until the test does."""

    def __init__(self) -> None:
        spec = watch_spec("k", progress_notify=True)
        self.subscription = Subscription(spec)
        self.subscription.server = Nobody()
        self.inbox = Inbox(self.subscription)
        self.watch = construct(Watch, self.inbox)
        self._deliver(pb.WatchResponse(created=True), 1)

    def put(self, revision: int) -> None:
        raw = pb.WatchResponse()
        raw.header.revision = raw.events.add().kv.mod_revision = revision
        self._deliver(raw, revision)

    def notify(self, revision: int) -> None:
        raw = pb.WatchResponse()
        raw.header.revision = revision
        self._deliver(raw, revision)

    def _deliver(self, raw: pb.WatchResponse, revision: int) -> None:
        delivery = Delivery(
            self.subscription, response_of(raw), revision + 1, len(raw.events)
        )
        self.inbox.deliver(delivery)


async def test_unread_notifications_do_not_accumulate(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = Server()
    for revision in range(2, 1000):
        server.notify(revision)
    server.put(1000)
    for revision in range(1000, 2000):
        server.notify(revision)
    watch = server.watch
    for is_progress_notify, revision in ((True, 999), (False, 1000), (True, 1999)):
        response = await anext(watch)
        assert response.is_progress_notify == is_progress_notify
        assert response.header.revision == revision
        assert watch.next_revision == revision + 1
    with trio.move_on_after(1) as limit:
        await anext(watch)
    assert limit.cancelled_caught


async def test_a_bookmark_for_each_event_costs_no_more_for_many() -> None:
    calls = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    async def calls_per_event(events: int) -> float:
        nonlocal calls
        server = Server()
        for revision in range(2, events + 2):
            server.put(revision)
        calls = 0
        sys.setprofile(count)
        try:
            iterator = server.watch.events()
            for revision in range(2, events + 2):
                await anext(iterator)
                assert server.watch.next_revision == revision + 1
        finally:
            sys.setprofile(None)
        return calls / events

    assert await calls_per_event(2000) < 2 * await calls_per_event(100)


def merged_response(events: int) -> WatchResponse:
    first, *others = (
        response_of(pb.WatchResponse(events=[pb.Event(kv=pb.KeyValue(mod_revision=i))]))
        for i in range(events)
    )
    return first.merged(others)


def test_events_are_a_sequence() -> None:
    response = merged_response(10).after(2)
    revisions = [event.kv.mod_revision for event in response.events]
    assert revisions == list(range(2, 10))
    events = response.events
    assert len(events) == 8
    assert [events[i].kv.mod_revision for i in range(-8, 8)] == revisions * 2
    assert [event.kv.mod_revision for event in reversed(events)] == revisions[::-1]
    assert [event.kv.mod_revision for event in events[5:1:-2]] == [7, 5]
    assert events.index(events[3]) == 3
    for index in (-9, 8):
        with pytest.raises(IndexError):
            events[index]


async def test_statistics_of_a_closed_watch() -> None:
    server = Server()
    server.put(2)
    server.put(3)
    assert server.watch.statistics().unread_events == 2
    server.inbox.close()
    statistics = server.watch.statistics()
    # Events that were not consumed do not count as delivered.
    assert (statistics.unread_events, statistics.events_delivered) == (0, 0)
    assert statistics.events_received == 2


@pytest.mark.parametrize("one_by_one", [False, True])
async def test_consuming_fragments_releases_all_their_bytes(one_by_one: bool) -> None:
    session = connected_session()
    pieces = [events(0, r, r + 1, fragment=True) for r in range(11, 20)]
    total = sum(piece.ByteSize() for piece in pieces)
    subscription = live(session, 0, max_buffered_bytes=total // 2)
    subscription.server = session
    inbox = Inbox(subscription)
    watch = construct(Watch, inbox)
    inbox.deliver(Delivery(subscription, response_of(created(0)), 11))
    for delivery in receive(session, *pieces):
        inbox.deliver(delivery)
    # The watch was parked past its bound, and later events are dropped.
    assert subscription.state is State.PARKED
    last = subscription.cursor.next_revision - 1
    assert total // 2 < subscription.unread_bytes < total
    assert sent(session) == [("cancel", 0, 0)]
    consumed = []
    if one_by_one:
        iterator = watch.events()
        while watch.next_revision <= last:
            consumed.append((await anext(iterator)).kv.mod_revision)
    else:
        consumed = [event.kv.mod_revision for event in (await anext(watch)).events]
    assert consumed == sorted([*range(11, last + 1), *range(12, last + 1)])
    assert (subscription.unread, subscription.unread_bytes) == (0, 0)
    assert sent(session) == [("create", b"k", last + 1)]
