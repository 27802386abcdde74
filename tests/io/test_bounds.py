"""Servers that make a client hold, do or log things without end: each meets a bound."""

from __future__ import annotations

import functools
import itertools
import logging

import pytest
import trio
from trio.testing import MockClock

from tests.support.connection import INITIAL_WINDOW_SIZE
from tests.support.helpers import take
from tests.support.members import serve_for_ever
from tests.support.memory import ENDPOINT, Serve, cluster_in_memory, create
from tests.support.peer import GRPC, Peer, watch_response
from trio_etcd_watch import Channel, Watcher, _live_stream, open_watcher
from trio_etcd_watch._backoff import MAX_DELAY, bound_of_delay
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._roster import MAX_UNKNOWN_IDS

PATIENCE = 0.001
"""Seconds after which the users of these tests give up; far below REPLY_TIMEOUT."""


async def create_all(peer: Peer, stream_id: int) -> None:
    """Confirm every watch; send an event to a watch of the key "last"."""
    await peer.headers(stream_id, GRPC)
    ids = 0
    while True:
        request = pb.WatchRequest.FromString(await peer.message(stream_id))
        if not request.HasField("create_request"):
            continue
        await peer.messages(stream_id, watch_response(ids, revision=4, created=True))
        if request.create_request.key == b"last":
            event = watch_response(ids, revision=5, events=[(b"last", 5)])
            await peer.messages(stream_id, event)
        ids += 1


def held(watcher: Watcher) -> int:
    """Return how many requests and creations the streams hold."""
    sessions = [stream._session for stream in watcher._serving]
    return sum(len(s._requests) + s.unanswered for s in sessions)


async def enter(watcher: Watcher, key: str) -> None:
    async with watcher.watch(key):
        await trio.sleep_forever()


async def test_creations_that_wait_for_a_window(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live_stream, "MAX_ABANDONED", 100)
    async with (
        cluster_in_memory(monkeypatch, create_all) as cluster,
        open_watcher(ENDPOINT) as watcher,
        trio.open_nursery() as nursery,
    ):
        cluster.settings = {INITIAL_WINDOW_SIZE: 0}
        nursery.start_soon(enter, watcher, "steady")
        most = 0
        for _ in range(1000):
            with trio.move_on_after(PATIENCE):
                await enter(watcher, "k")
            most = max(most, held(watcher))
        assert 100 < most <= 2 * (100 + 3)
        reason = "the server does not reply to creations of closed watches"
        assert watcher.statistics().last_loss == reason
        # Each stream is given up after a hundred, and the next waits a little longer.
        assert 3 <= cluster.streams <= 11
        # A repaired server serves the watches that are still open.
        cluster.settings = {}
        await trio.sleep(60)
        assert watcher.statistics().live == 1
        nursery.cancel_scope.cancel(reason="the test is over")


async def test_a_creation_that_waits_for_a_window(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        cluster_in_memory(monkeypatch, create_all) as cluster,
        open_watcher(ENDPOINT) as watcher,
    ):
        cluster.settings = {INITIAL_WINDOW_SIZE: 0}
        with trio.move_on_after(_live_stream.REPLY_TIMEOUT * 1.5):
            await enter(watcher, "k")
        loss = watcher.statistics().last_loss
        assert loss == "no reply to the creation of a watch for 10 s"
        assert cluster.connections == 2


async def test_cancels_that_wait_for_a_window(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        cluster_in_memory(monkeypatch, create_all) as cluster,
        open_watcher(ENDPOINT) as watcher,
    ):
        # Enough for some hundred requests of a stream, and for no more.
        cluster.settings = {INITIAL_WINDOW_SIZE: 10_000}
        cluster.gives_window = False
        async with watcher.watch("steady"):
            most = 0
            for _ in range(2000):
                async with watcher.watch("k"):
                    most = max(most, held(watcher))
            assert most < 10
            statistics = watcher.statistics()
            assert statistics.live == 1
            assert statistics.reconnects == cluster.streams - 1
            assert 3 <= cluster.streams <= 10


@pytest.mark.parametrize("reads", [True, False])
async def test_ids_that_a_server_makes_up(
    reads: bool,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "trio_etcd_watch")
    watcher: Watcher
    most = 0

    async def make_up(peer: Peer, stream_id: int) -> None:
        nonlocal most
        await create(peer, stream_id)
        for watch_id in range(100, 100 + MAX_UNKNOWN_IDS + 1):
            event = watch_response(watch_id, revision=5, events=[(b"k", 5)])
            await peer.messages(stream_id, event)
            most = max(most, held(watcher))
        await peer.reset_by_client(stream_id)
        cluster.serve = create_all
        cluster.gives_window = True

    async with (
        cluster_in_memory(monkeypatch, make_up) as cluster,
        open_watcher(ENDPOINT) as watcher,
    ):
        cluster.gives_window = reads
        async with watcher.watch("last") as watch:
            [event] = await take(watch, 1)
            assert event.kv.mod_revision == 5
        assert most <= MAX_UNKNOWN_IDS + 1
    line = caplog.records[0].getMessage()
    assert line.startswith(
        "no watch stream: the server uses watch ids that it has not assigned"
    )


EXPELLED = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
"""The reason for ending a confirmed watch: its token is no longer valid."""


class Expelling:
    """Confirms each watch, and then refuses its token.

    Attributes:
        opened: when each stream was opened, in seconds.
        brings: the number of a stream whose watch gets something before its refusal.
        events: how many events that watch gets; if 0, it gets a progress notification.
    """

    def __init__(self) -> None:
        self.opened: list[float] = []
        self.brings = -1
        self.events = 0

    async def serve(self, peer: Peer, stream_id: int) -> None:
        number = len(self.opened)
        assert number < 100, "it is asked without a pause"
        self.opened.append(trio.current_time())
        await peer.message(stream_id)
        await peer.headers(stream_id, GRPC)
        created = watch_response(revision=number + 1, created=True)
        await peer.messages(stream_id, created)
        if number == self.brings:
            events = [(b"k", number + 2)] * self.events
            message = watch_response(revision=number + 2, events=events)
            await peer.messages(stream_id, message)
        refusal = watch_response(canceled=True, cancel_reason=EXPELLED)
        await peer.messages(stream_id, refusal)

    def pauses(self) -> list[float]:
        return [then - now for now, then in itertools.pairwise(self.opened)]


async def test_a_watch_that_is_expelled_again_and_again_pauses(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Expelling()
    async with (
        cluster_in_memory(monkeypatch, server.serve) as cluster,
        open_watcher(Channel(ENDPOINT, token="t")) as watcher,
        watcher.watch("k") as watch,
    ):
        await trio.sleep(60)
        bounds = [bound_of_delay(count) for count in range(len(server.pauses()))]
        assert server.pauses() == pytest.approx(bounds)
        assert bounds[:2] == [0, 0.05]
        assert bounds[-10:] == [MAX_DELAY] * 10
        # The stream pauses; the watch does not end.
        assert (cluster.connections, watch.statistics().state) == (1, "resuming")
        # A server that accepts the token again can serve the watch.
        cluster.serve = functools.partial(serve_for_ever, revision=1000)
        await trio.sleep(MAX_DELAY)
        assert watch.statistics().state == "live"


@pytest.mark.parametrize("events", [0, 1])
async def test_a_watch_that_has_brought_something_does_not_pause(
    events: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Expelling()
    server.brings, server.events = 6, events
    async with (
        cluster_in_memory(monkeypatch, server.serve),
        open_watcher(Channel(ENDPOINT, token="t")) as watcher,
        watcher.watch("k"),
    ):
        await trio.sleep(10)
    grown = [bound_of_delay(count) for count in range(6)]
    assert server.pauses()[:10] == pytest.approx(grown + grown[:4])


async def test_days_of_expulsions_end_no_watch(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Expelling()
    async with (
        cluster_in_memory(monkeypatch, server.serve) as cluster,
        open_watcher(Channel(ENDPOINT, token="t")) as watcher,
        watcher.watch("k") as watch,
    ):
        # So many would be a matter of hours.
        watch._inbox.subscription.tokens.expulsions = 100_000
        await trio.sleep(60)
        assert server.pauses()[-15:] == pytest.approx([MAX_DELAY] * 15)
        cluster.serve = functools.partial(serve_for_ever, revision=1000)
        await trio.sleep(MAX_DELAY)
        assert watch.statistics().state == "live"
        assert len(watcher._serving) == 1


FORGED = "gone\nWARNING all is well\r\x1b[2J\u202e"


async def say_in_goaway(peer: Peer, stream_id: int) -> None:
    await peer.headers(stream_id, GRPC)
    # A frame cannot be longer.
    await peer.goaway(0, 2, (FORGED * 1000)[:14_000])


async def say_in_a_status(message: str, peer: Peer, stream_id: int) -> None:
    await peer.headers(stream_id, GRPC)
    await peer.status(stream_id, 14, message)


ESCAPED = "gone%0AWARNING all is well%0D%1B[2J%E2%80%AE"

SAYINGS: dict[str, Serve] = {
    "GOAWAY": say_in_goaway,
    "status": functools.partial(say_in_a_status, ESCAPED),
    "30 kB": functools.partial(say_in_a_status, ESCAPED * (30_000 // len(ESCAPED))),
    "line ends": functools.partial(say_in_a_status, "%0A" * 10_000),
}


@pytest.mark.parametrize("name", SAYINGS)
async def test_what_a_server_says_is_one_line(
    name: str,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "trio_etcd_watch")
    async with (
        cluster_in_memory(monkeypatch, SAYINGS[name]),
        open_watcher(ENDPOINT) as watcher,
    ):
        with trio.move_on_after(3):
            await enter(watcher, "k")
        loss = watcher.statistics().last_loss
        assert loss is not None
        assert loss.isprintable()
        assert "\\n" in loss
        assert len(loss) <= 300
    lines = [record.getMessage() for record in caplog.records]
    warnings = [line for line in lines if line.startswith("no watch stream: ")]
    # The same reason is logged once.
    assert len(warnings) == 1
    assert all(line.isprintable() and len(line) < 400 for line in lines)
