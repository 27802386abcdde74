"""The session by itself: what is too large, comes in parts, or is not taken."""

from __future__ import annotations

from tests.machine.session_machine import MAX_MESSAGE_SIZE
from tests.support.replies import (
    canceled,
    compacted,
    connected_session,
    created,
    events,
    live,
    receive,
    receive_run,
    revisions,
    sent,
)
from trio_etcd_watch import CompactedError, RpcError, WatchResponse
from trio_etcd_watch._grpc.status import StatusCode
from trio_etcd_watch._subscription import Delivery, State, Subscription


def check_too_large(delivery: Delivery, watch: Subscription, size: int) -> None:
    assert delivery.subscription is watch
    assert isinstance(delivery.item, RpcError)
    assert delivery.item.code is StatusCode.RESOURCE_EXHAUSTED
    assert str(size) in str(delivery.item)
    assert "max_message_size" in str(delivery.item)
    assert watch.state is State.ENDED


def test_a_message_over_the_limit_fails_its_watch_alone() -> None:
    session = connected_session()
    watch, neighbour = live(session, 0), live(session, 1)
    (delivery,) = session.receive_oversized(0, 2 * MAX_MESSAGE_SIZE)
    check_too_large(delivery, watch, 2 * MAX_MESSAGE_SIZE)
    assert sent(session) == [("cancel", 0, 0)]
    assert list(session.subscriptions) == [neighbour]
    # Another one was on its way.
    assert session.receive_oversized(0, 2 * MAX_MESSAGE_SIZE) == ()
    assert sent(session) == []


def test_fragments_over_the_limit_fail_their_watch() -> None:
    piece = events(0, 11, fragment=True)
    session = connected_session(max_message_size=2 * piece.ByteSize())
    watch = live(session, 0)
    assert receive(session, piece, piece) == []
    (delivery,) = receive(session, piece)
    check_too_large(delivery, watch, 3 * piece.ByteSize())
    assert sent(session) == [("cancel", 0, 0)]


def test_fragments_are_joined_up_to_the_limit() -> None:
    first = [events(0, 11, 11, fragment=True), events(0, 11, 12)]
    second = [events(0, 13, 13, fragment=True), events(0, 13, 14)]
    limit = sum(piece.ByteSize() for piece in first)
    session = connected_session(max_message_size=limit)
    live(session, 0)
    (delivery,) = receive(session, *first)
    assert revisions(delivery) == [11, 11, 11, 12]
    assert (delivery.events, delivery.next_revision) == (4, 13)
    # Each response is counted by itself.
    (delivery,) = receive(session, *second)
    assert revisions(delivery) == [13, 13, 13, 14]


def test_of_fragments_only_what_is_new_is_delivered() -> None:
    session = connected_session()
    live(session, 0)
    receive(session, events(0, 13))
    repeated = [events(0, 11, 12, fragment=True), events(0, 12, 13)]
    assert receive(session, *repeated) == []
    # Not even a part of it is empty.
    (delivery,) = receive(
        session,
        events(0, 11, 12, fragment=True),
        events(0, fragment=True),
        events(0, 13, 14, 14, fragment=True),
        events(0, 14, 15, fragment=True),
        events(0),
    )
    assert revisions(delivery) == [14, 14, 14, 15]
    assert (delivery.events, delivery.next_revision) == (4, 16)
    assert isinstance(delivery.item, WatchResponse)
    assert not delivery.item.is_progress_notify


def test_fragments_without_events_are_progress() -> None:
    session = connected_session()
    live(session, 0)
    (delivery,) = receive(session, events(0, fragment=True), events(0))
    assert (delivery.item, delivery.next_revision) == (None, 100)


def test_fragments_die_with_their_stream() -> None:
    session = connected_session()
    live(session, 0)
    assert receive(session, events(0, 11, 12, fragment=True)) == []
    session.disconnect()
    session.connect()
    assert sent(session) == [("create", b"k", 11)]
    assert receive(session, created(0)) == []
    (delivery,) = receive(session, events(0, 11, 12))
    assert revisions(delivery) == [11, 12]


def test_the_last_fragment_is_not_merged_with_what_follows_it() -> None:
    session = connected_session()
    live(session, 0)
    assert receive(session, events(0, 11, 12, fragment=True)) == []
    # By its bytes the last fragment is a response like any other.
    first, second = receive_run(session, events(0, 12), events(0, 13))
    assert (revisions(first), first.next_revision) == ([11, 12, 12], 13)
    assert (revisions(second), second.next_revision) == ([13], 14)


def test_a_run_is_one_response_only_within_the_bound() -> None:
    session = connected_session()
    watch = live(session, 0, max_buffered_events=3)
    (delivery,) = receive_run(session, events(0, 11), events(0, 12, 13))
    assert (revisions(delivery), watch.unread) == ([11, 12, 13], 3)
    session.take(watch, 1)
    # One by one: the first is within the bound, the second parks, the third is late.
    first, second = receive_run(session, *(events(0, 14 + i) for i in range(3)))
    assert (revisions(first), revisions(second)) == ([14], [15])
    assert (watch.state, watch.unread) == (State.PARKED, 4)
    assert sent(session) == [("cancel", 0, 0)]


def test_past_its_bound_a_watch_is_parked_until_half_is_taken() -> None:
    session = connected_session()
    watch = live(session, 0, max_buffered_events=4)
    neighbour = live(session, 1)
    receive(session, events(0, 11, 12, 13, 14))
    assert watch.unread == 4
    assert sent(session) == []
    receive(session, events(0, 15))
    assert (watch.state, watch.unread) == (State.PARKED, 5)
    assert sent(session) == [("cancel", 0, 0)]
    # In flight: dropped, and to be asked for again.
    assert receive(session, events(0, 16), canceled(0)) == []
    session.take(watch, 2)
    assert sent(session) == []
    session.take(watch, 1)
    assert sent(session) == [("create", b"k", 16)]
    assert receive(session, created(2)) == []
    (delivery,) = receive(session, events(2, 16, 17))
    assert revisions(delivery) == [16, 17]
    assert neighbour.state is State.LIVE


def test_a_parked_watch_is_not_resumed_before_it_is_drained() -> None:
    session = connected_session()
    watch = live(session, 0, "parked", max_buffered_events=1)
    neighbour = live(session, 1, "live")
    receive(session, events(0, 11, 12))
    session.disconnect()
    session.connect()
    assert sent(session) == [("create", b"live", 11)]
    assert watch.state is State.PARKED
    receive(session, created(0))
    assert neighbour.watch_id == 0
    session.take(watch, 2)
    assert sent(session) == [("create", b"parked", 13)]


def test_a_watch_drained_without_a_stream_waits_for_the_next() -> None:
    session = connected_session()
    watch = live(session, 0, max_buffered_events=1)
    receive(session, events(0, 11, 12))
    session.disconnect()
    session.take(watch, 2)
    assert watch.state is State.RESUMING
    session.connect()
    assert sent(session) == [("create", b"k", 13)]


def test_a_parked_watch_can_be_left() -> None:
    session = connected_session()
    watch = live(session, 0, max_buffered_events=1)
    receive(session, events(0, 11, 12))
    sent(session)
    session.close(watch)
    session.take(watch, 2)
    assert sent(session) == []
    assert list(session.subscriptions) == []


def test_compaction_overtakes_a_parked_watch() -> None:
    session = connected_session()
    watch = live(session, 0, max_buffered_events=1)
    receive(session, events(0, 11, 12))
    session.take(watch, 2)
    (delivery,) = receive(session, created(1), compacted(1, 20))
    assert isinstance(delivery.item, CompactedError)
    assert delivery.next_revision == 13
