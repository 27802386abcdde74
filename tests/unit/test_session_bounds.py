"""The session by itself: oversized responses, fragments, and slow consumers."""

from __future__ import annotations

import pytest

from tests.machine.session_machine import MAX_MESSAGE_SIZE
from tests.support.replies import (
    canceled,
    compacted,
    connected_session,
    created,
    events,
    live,
    receive,
    receive_oversized,
    receive_read,
    revisions,
    sent,
)
from trio_etcd_watch import CompactedError, RpcError
from trio_etcd_watch._grpc.status import StatusCode
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._requests import watch_spec
from trio_etcd_watch._session import MAX_OVERSIZED, Session
from trio_etcd_watch._subscription import Delivery, State, Subscription


def check_too_large(delivery: Delivery, watch: Subscription, size: int) -> None:
    assert delivery.subscription is watch
    assert isinstance(delivery.item, RpcError)
    assert delivery.item.code is StatusCode.RESOURCE_EXHAUSTED
    assert str(size) in str(delivery.item)
    assert str(delivery.item).endswith("larger Channel(max_message_size=...)")
    assert watch.state is State.ENDED


def fragments_asked(session: Session) -> list[bool]:
    """Return, for each creation to be sent, whether it requests fragments."""
    requests = map(pb.WatchRequest.FromString, session.requests())
    creates = [r.create_request for r in requests if r.HasField("create_request")]
    return [create.fragment for create in creates]


def test_fragments_are_asked_for_once_a_response_was_too_large() -> None:
    session = connected_session()
    watch, neighbour = session.open(watch_spec("a")), session.open(watch_spec("b"))
    assert fragments_asked(session) == [False, False]
    receive(session, created(0), created(1))
    # The response is skipped, and requested again.
    assert receive_oversized(session, 0) == []
    assert watch.state is State.CREATING
    assert fragments_asked(session) == [True]
    # Another oversized response was in flight.
    assert receive_oversized(session, 0) == []
    assert fragments_asked(session) == []
    # Fragments are requested from then on, for this watch alone.
    session.disconnect()
    session.connect()
    assert fragments_asked(session) == [True, False]
    assert neighbour.state is State.CREATING


def test_a_fragment_over_the_limit_fails_its_watch_alone() -> None:
    session = connected_session()
    watch, neighbour = live(session, 0), live(session, 1)
    assert receive_oversized(session, 0) == []
    # Responses that were ready before the announcement still come unfragmented.
    for watch_id in range(2, 2 + MAX_OVERSIZED - 1):
        receive(session, created(watch_id))
        assert receive_oversized(session, watch_id) == []
    last = 1 + MAX_OVERSIZED
    receive(session, created(last))
    session.requests()
    (delivery,) = receive_oversized(session, last)
    check_too_large(delivery, watch, 2 * MAX_MESSAGE_SIZE)
    assert sent(session) == [("cancel", last, 0)]
    assert list(session.subscriptions) == [neighbour]
    # Another oversized response was in flight.
    assert receive_oversized(session, last) == []
    assert sent(session) == []


def test_a_fragment_shows_that_the_limit_can_be_kept() -> None:
    session = connected_session()
    watch = live(session, 0)
    for watch_id in range(1, 10):
        assert receive_oversized(session, watch.live.watch_id) == []
        receive(session, created(watch_id, revision=50))
        receive(session, events(watch_id, 10 + watch_id, fragment=True))
    assert watch.state is State.LIVE


@pytest.mark.parametrize("fragment", [False, True])
def test_twenty_in_a_row_may_be_too_large(fragment: bool) -> None:
    session = connected_session()
    watch = live(session, 0)
    skip(session, watch, 20)
    receive(session, events(watch.live.watch_id, 11, fragment=fragment))
    skip(session, watch, 20)
    (delivery,) = receive_oversized(session, watch.live.watch_id)
    check_too_large(delivery, watch, 2 * MAX_MESSAGE_SIZE)


def skip(session: Session, watch: Subscription, times: int) -> None:
    """Let several responses in a row be too large for a watch."""
    for _ in range(times):
        last = watch.live.watch_id
        assert receive_oversized(session, last) == []
        receive(session, created(last + 1, revision=50))


def test_fragments_over_the_limit_fail_their_watch() -> None:
    piece = events(0, 11, fragment=True)
    session = connected_session(max_message_size=2 * piece.ByteSize())
    watch = live(session, 0)
    assert receive(session, piece, piece) == []
    (delivery,) = receive(session, piece)
    check_too_large(delivery, watch, 3 * piece.ByteSize())
    assert sent(session) == [("cancel", 0, 0)]


def test_revisions_are_handed_on_as_fragments_complete_them() -> None:
    pieces = [
        events(0, revision, revision, fragment=True) for revision in range(11, 99)
    ]
    session = connected_session(max_message_size=2 * pieces[0].ByteSize())
    live(session, 0)
    # A response may have any length, as long as no revision is over the limit.
    deliveries = receive(session, *pieces)
    assert [revisions(each) for each in deliveries] == [[r, r] for r in range(11, 98)]
    (last,) = receive(session, events(0, 98, 99))
    assert revisions(last) == [98, 98, 98, 99]
    assert (last.events, last.next_revision) == (4, 100)


def test_a_revision_over_several_fragments_comes_whole() -> None:
    session = connected_session()
    live(session, 0)
    pieces = [events(0, 11, 12, fragment=True), events(0, 12, 12, fragment=True)]
    (first,) = receive(session, *pieces)
    assert (revisions(first), first.next_revision) == ([11], 12)
    (second,) = receive(session, events(0, 12, 13))
    assert (revisions(second), second.next_revision) == ([12, 12, 12, 12, 13], 14)


def test_only_new_events_of_fragments_are_delivered() -> None:
    session = connected_session()
    live(session, 0)
    receive(session, events(0, 13))
    repeated = [events(0, 11, 12, fragment=True), events(0, 12, 13)]
    assert receive(session, *repeated) == []
    # A part without new events makes no delivery.
    first, last = receive(
        session,
        events(0, 11, 12, fragment=True),
        events(0, fragment=True),
        events(0, 13, 14, 14, fragment=True),
        events(0, 14, 15, fragment=True),
        events(0),
    )
    assert (revisions(first), first.next_revision) == ([14, 14, 14], 15)
    assert (revisions(last), last.next_revision) == ([15], 16)


def test_fragments_without_events_deliver_nothing() -> None:
    session = connected_session()
    watch = live(session, 0)
    assert receive(session, events(0, fragment=True), events(0)) == []
    assert watch.cursor.next_revision == 11


def test_fragments_die_with_their_stream() -> None:
    session = connected_session()
    live(session, 0)
    (delivery,) = receive(session, events(0, 11, 12, fragment=True))
    assert revisions(delivery) == [11]
    session.disconnect()
    session.connect()
    assert sent(session) == [("create", b"k", 12)]
    assert receive(session, created(0, revision=11)) == []
    (delivery,) = receive(session, events(0, 12))
    assert revisions(delivery) == [12]


def test_the_last_fragment_is_not_merged_with_what_follows_it() -> None:
    session = connected_session()
    live(session, 0)
    (delivery,) = receive(session, events(0, 11, 12, fragment=True))
    assert revisions(delivery) == [11]
    # The bytes of the last fragment are those of a whole response.
    first, second = receive_read(session, events(0, 12), events(0, 13))
    assert (revisions(first), first.next_revision) == ([12, 12], 13)
    assert (revisions(second), second.next_revision) == ([13], 14)


def test_a_batch_is_one_response_only_within_the_bound() -> None:
    session = connected_session()
    watch = live(session, 0, max_buffered_events=3)
    (delivery,) = receive_read(session, events(0, 11), events(0, 12, 13))
    assert (revisions(delivery), watch.unread) == ([11, 12, 13], 3)
    session.take(watch, 1, 0)
    # They are delivered singly: one in bounds, one that parks, and one that is late.
    first, second = receive_read(session, *(events(0, 14 + i) for i in range(3)))
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
    # Events in flight are dropped, and requested again later.
    assert receive(session, events(0, 16), canceled(0)) == []
    session.take(watch, 2, 0)
    assert sent(session) == []
    session.take(watch, 1, 0)
    assert sent(session) == [("create", b"k", 16)]
    assert receive(session, created(2, revision=15)) == []
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
    assert neighbour.live.watch_id == 0
    session.take(watch, 2, 0)
    assert sent(session) == [("create", b"parked", 13)]


def test_a_watch_drained_without_a_stream_waits_for_the_next() -> None:
    session = connected_session()
    watch = live(session, 0, max_buffered_events=1)
    receive(session, events(0, 11, 12))
    session.disconnect()
    session.take(watch, 2, 0)
    assert watch.state is State.RESUMING
    session.connect()
    assert sent(session) == [("create", b"k", 13)]


def test_a_parked_watch_can_be_closed() -> None:
    session = connected_session()
    watch = live(session, 0, max_buffered_events=1)
    receive(session, events(0, 11, 12))
    sent(session)
    session.close(watch)
    session.take(watch, 2, 0)
    assert sent(session) == []
    assert list(session.subscriptions) == []


def test_compaction_overtakes_a_parked_watch() -> None:
    session = connected_session()
    watch = live(session, 0, max_buffered_events=1)
    receive(session, events(0, 11, 12))
    session.take(watch, 2, 0)
    (delivery,) = receive(session, created(1, revision=12), compacted(1, 20))
    assert isinstance(delivery.item, CompactedError)
    assert delivery.next_revision == 13


def test_past_its_bound_in_bytes_a_watch_is_parked_too() -> None:
    session = connected_session()
    message = events(0, 11).SerializeToString()
    watch = live(session, 0, max_buffered_bytes=2 * len(message))
    receive_read(session, events(0, 11))
    receive_read(session, events(0, 12))
    assert (watch.state, watch.unread_bytes) == (State.LIVE, 2 * len(message))
    # The same holds where a batch would exceed the bound.
    (delivery,) = receive_read(session, events(0, 13), events(0, 14))
    assert revisions(delivery) == [13]
    assert (watch.state, watch.unread_bytes) == (State.PARKED, 3 * len(message))
    assert sent(session) == [("cancel", 0, 0)]
    session.take(watch, 1, len(message))
    assert sent(session) == []
    session.take(watch, 1, len(message))
    assert sent(session) == [("create", b"k", 14)]


def test_fragments_count_towards_the_bound_in_bytes() -> None:
    pieces = [
        events(0, 11, 12, fragment=True),
        *[events(0, 12, 12, 12, fragment=True)] * 3,
        events(0, 12, 13, fragment=True),
        events(0),
    ]
    total = sum(piece.ByteSize() for piece in pieces)
    session = connected_session()
    # The bound is far above the size of each fragment.
    watch = live(session, 0, max_buffered_bytes=total - 1)
    first, second, last = receive(session, *pieces)
    assert [revisions(each) for each in (first, second, last)] == [
        [11],
        [12] * 11,
        [13],
    ]
    # The second has the revision that was held back, with all fragments of it.
    assert first.size < pieces[0].ByteSize()
    assert second.size > 4 * pieces[1].ByteSize() - first.size
    assert first.size + second.size + last.size == total == watch.unread_bytes
    assert watch.state is State.PARKED
    assert sent(session) == [("cancel", 0, 0)]
    for each in (first, second, last):
        session.take(watch, each.events, each.size)
    assert (watch.unread, watch.unread_bytes) == (0, 0)
    assert sent(session) == [("create", b"k", 14)]


def test_discarded_fragments_no_longer_count() -> None:
    session = connected_session()
    watch = live(session, 0)
    held = events(0, *[11] * 20, fragment=True)
    assert receive(session, held) == []
    assert watch.live.fragments.size == held.ByteSize()
    session.disconnect()
    session.connect()
    receive(session, created(0))
    whole = events(0, 11)
    (delivery,) = receive(session, whole)
    assert delivery.size == watch.unread_bytes == whole.ByteSize()
