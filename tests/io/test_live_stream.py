"""One live stream: what was read is delivered, however the stream ends."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.peer import (
    NONSENSE,
    put_message,
    watch_response,
)
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._grpc.reading import STEP
from trio_etcd_watch._grpc.status import CallEnd, Status, StatusCode, StreamLost
from trio_etcd_watch._grpc.steps import Deliver
from trio_etcd_watch._live_stream import Counters, LiveStream, Route
from trio_etcd_watch._outage import LineBudget, Outage
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._requests import watch_spec
from trio_etcd_watch._session import Session
from trio_etcd_watch._subscription import Delivery, State, Subscription

OK = Status(StatusCode.OK, "")


class FakeCall:
    """A call that delivers what was read in the same step, as the connection does."""

    def __init__(self, deliver: Deliver) -> None:
        self.deliver = deliver
        self.sent: list[bytes] = []
        self.window = trio.Event()
        self.window.set()
        self.bytes_received = 0
        self._end: CallEnd | None = None
        self._ended = trio.Event()

    def receive(self, messages: list[bytes | Oversized]) -> None:
        """Hand on what one read has brought, as the connection does."""
        try:
            for _ in self.deliver(messages) or ():
                pass
        except StreamLost as exc:
            self.end(exc)

    async def send(self, messages: list[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        await self.window.wait()
        self.sent += messages

    async def wait_end(self) -> CallEnd:
        await self._ended.wait()
        assert self._end is not None
        return self._end

    def end(self, end: CallEnd) -> None:
        if self._end is None:
            self._end = end
            self._ended.set()

    def reset(self, reason: str = "reset") -> None:
        self.end(StreamLost(reason))


class FakeConnection:
    """A connection that opens one call, and also the connector that made it."""

    authority = "etcd:2379"

    def __init__(self) -> None:
        self.call: FakeCall

    def open_call(
        self,
        path: str,
        metadata: object,
        deliver: Deliver,
    ) -> FakeCall:
        self.call = FakeCall(deliver)
        return self.call

    def trust(self) -> None:
        """Accept the notice that there was a reply."""

    def leave(self, connection: object) -> None:
        assert connection is self


class OneStream:
    """Some watches on one live stream, and the deliveries that they got."""

    def __init__(self, session: Session | None = None) -> None:
        self.session = session or Session(max_message_size=1000)
        self.connection = FakeConnection()
        self.counters = Counters()
        self.expelled: list[Subscription] = []
        self.given: list[Delivery] = []

    def open(self) -> Subscription:
        subscription = self.session.open(watch_spec("k", progress_notify=True))
        subscription.server = subscription.receiver = self  # type: ignore[assignment]  # a fake
        return subscription

    def deliver(self, delivery: Delivery) -> None:
        self.given.append(delivery)

    @property
    def revisions(self) -> list[int]:
        return [
            event.kv.mod_revision
            for delivery in self.given
            for event in getattr(delivery.item, "events", ())
        ]

    def start(self) -> LiveStream:
        route = Route(self.connection, self.connection, (), None)  # type: ignore[arg-type]  # fakes
        stream = LiveStream(
            route,
            self.session,
            self.counters,
            Outage(LineBudget()),
            worked=lambda: None,
            expel=self.expelled.append,
        )
        self.session.connect()
        return stream

    async def run(self, play: Callable[[FakeCall], None]) -> CallEnd:
        """Run the stream; play what the connection reads after the creations."""
        stream = self.start()
        end: list[CallEnd] = []

        async def run() -> None:
            end.append(await stream.run())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            play(self.connection.call)
        self.session.disconnect()
        return end[0]


CREATED = watch_response(0, revision=4, created=True)


async def test_what_is_read_before_the_end_is_delivered_first() -> None:
    watcher = OneStream()
    watcher.open()

    def play(call: FakeCall) -> None:
        call.receive([CREATED, put_message(0, 5)])
        call.receive([put_message(0, 6), put_message(0, 7)])
        call.end(OK)

    assert await watcher.run(play) == OK
    assert watcher.revisions == [5, 6, 7]
    assert watcher.counters.events_received == 3
    assert watcher.counters.bytes_received > 0


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("reads", [1, 2])
async def test_a_message_that_breaks_the_protocol_is_the_end(
    reads: int, batched: bool
) -> None:
    watcher = OneStream()
    watcher.open()
    # The truncated message begins like one that is parsed in a batch, NONSENSE does not.
    bad = put_message(0, 7)[:-1] if batched else NONSENSE

    def play(call: FakeCall) -> None:
        if reads == 1:
            call.receive(
                [CREATED, put_message(0, 5), put_message(0, 6), bad, put_message(0, 8)]
            )
        else:
            call.receive([CREATED, put_message(0, 5), put_message(0, 6)])
            call.receive([bad, put_message(0, 8)])
        call.end(OK)

    end = await watcher.run(play)
    assert isinstance(end, StreamLost)
    assert "not a watch response" in str(end)
    assert watcher.revisions == [5, 6]


async def test_a_message_that_breaks_the_protocol_resets_the_call() -> None:
    watcher = OneStream()
    watcher.open()
    end = await watcher.run(lambda call: call.receive([CREATED, NONSENSE]))
    assert "not a watch response" in str(end)
    assert await watcher.connection.call.wait_end() is not OK


async def test_a_cancelled_stream_delivers_what_has_moved_its_cursor() -> None:
    """It is cancelled at each step of its tasks in turn."""
    for steps in range(6):
        watcher = OneStream()
        watch = watcher.open()
        stream = watcher.start()
        scope = trio.CancelScope()

        async def run(scope: trio.CancelScope, stream: LiveStream) -> None:
            with scope:
                await stream.run()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, scope, stream)
            await wait_all_tasks_blocked()
            watcher.connection.call.receive([CREATED])
            await wait_all_tasks_blocked()
            watcher.connection.call.receive([put_message(0, 5)])
            for _ in range(steps):
                await trio.lowlevel.cancel_shielded_checkpoint()
            scope.cancel()
        assert watch.cursor.next_revision == (6 if watcher.revisions else 5)
    assert watcher.revisions == [5]


async def test_a_request_that_is_not_sent_is_asked_for_on_the_next_stream() -> None:
    watcher = OneStream()
    first = watcher.open()

    def close_window(call: FakeCall) -> None:
        call.receive([CREATED])
        call.window = trio.Event()

    stream = watcher.start()
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await stream.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        close_window(watcher.connection.call)
        second = watcher.open()
        stream.wake()
        await wait_all_tasks_blocked()
        # The session has handed the request over, but it is not sent.
        assert not watcher.session.has_requests
        assert len(watcher.connection.call.sent) == 1
        third = watcher.open()
        scope.cancel()
    watcher.session.disconnect()
    end = await watcher.run(lambda call: call.end(OK))
    assert end == OK
    assert len(watcher.connection.call.sent) == 3
    states = {each.state for each in (first, second, third)}
    assert states == {State.RESUMING}


class Mark:
    """An object that a weak reference can observe."""


class Marked(bytes):
    """A message with a reference to a mark, as bytes have no weak references."""

    mark: Mark


async def test_an_idle_stream_holds_nothing_that_it_has_delivered() -> None:
    watcher = OneStream()
    watch = watcher.open()
    stream = watcher.start()
    marks: list[weakref.ref[object]] = []

    def deliver_marked(call: FakeCall) -> None:
        messages = [Marked(put_message(0, 5)), Marked(put_message(0, 6))]
        for message in messages:
            message.mark = Mark()
            marks.append(weakref.ref(message.mark))
        call.receive([*messages])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.run)
        await wait_all_tasks_blocked()
        call = watcher.connection.call
        call.receive([CREATED])
        await wait_all_tasks_blocked()
        watcher.given.clear()
        deliver_marked(call)
        await wait_all_tasks_blocked()
        assert watcher.revisions == [5, 6]
        # A response keeps its messages, in C.
        watcher.given.clear()
        gc.collect()
        assert [mark() for mark in marks] == [None, None]
        deliveries = [each for each in gc.get_objects() if type(each) is Delivery]
        assert [each for each in deliveries if each.subscription is watch] == []
        nursery.cancel_scope.cancel()


async def test_a_stream_that_ends_between_two_steps_loses_nothing() -> None:
    watcher = OneStream()
    watches = [watcher.open() for _ in range(2 * STEP + 1)]
    created = [
        watch_response(watch_id, revision=4, created=True)
        for watch_id in range(len(watches))
    ]
    puts = [
        put_message(watch_id, revision)
        for revision in (5, 6)
        for watch_id in range(len(watches))
    ]

    def play(call: FakeCall) -> None:
        call.receive(list(created))
        assert len(watcher.given) == len(watches)
        watcher.given.clear()
        next(iter(call.deliver(list(puts)) or ()))
        assert watcher.counters.events_received == 2 * STEP
        call.end(OK)

    assert await watcher.run(play) == OK
    assert watcher.revisions == [5, 6] * STEP
    assert [watch.cursor.next_revision for watch in watches] == (
        [7] * STEP + [5] * (STEP + 1)
    )
    # What was dropped is requested again, and only that.
    watcher.session.connect()
    starts = [
        pb.WatchRequest.FromString(request).create_request.start_revision
        for request in watcher.session.requests()
    ]
    assert starts == [7] * STEP + [5] * (STEP + 1)


async def test_deliveries_are_made_in_steps() -> None:
    for count, steps in ((STEP - 1, 0), (STEP, 1), (2 * STEP, 2), (2 * STEP + 1, 2)):
        watcher = OneStream()
        for _ in range(count):
            watcher.open()
        messages: list[bytes | Oversized] = [
            watch_response(watch_id, revision=4, created=True)
            for watch_id in range(count)
        ]

        def play(
            call: FakeCall,
            messages: list[bytes | Oversized] = messages,
            steps: int = steps,
        ) -> None:
            assert len(list(call.deliver(messages) or ())) == steps
            call.end(OK)

        await watcher.run(play)
        assert len(watcher.given) == count
