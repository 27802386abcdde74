"""The session by itself: each of its promises as an example, and all of them together
as a state machine that drives it against a model of etcd.

`SESSION_PROFILE=session-thorough` makes the machine run for minutes; give pytest
`-o faulthandler_timeout=0` with it.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from tests.model import (
    DUPLICATE_ID,
    INVALID_TOKEN,
    NO_ID,
    PERMISSION_DENIED,
    V3_4_23,
    V3_5_1,
    V3_6,
    Cluster,
    Group,
    Interest,
    Stream,
    Version,
)
from tests.mutations import REAL, Core
from trio_etcd_watch import (
    AuthenticationError,
    ClusterChangedError,
    CompactedError,
    Event,
    FutureRevisionError,
    PermissionDeniedError,
    RpcError,
    WatchCanceledError,
    WatchError,
    WatchResponse,
)
from trio_etcd_watch._errors import StatusCode, StreamLost, TokenExpired
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._requests import WatchSpec, watch_spec
from trio_etcd_watch._responses import RawResponse, decode
from trio_etcd_watch._runs import split_runs
from trio_etcd_watch._session import (
    MAX_REFUSED_TOKENS,
    Delivery,
    Session,
    State,
    Subscription,
)

MAX_MESSAGE_SIZE = 2**20


CLUSTER = 7


def connected_session(
    *, can_authenticate: bool = False, max_message_size: int = MAX_MESSAGE_SIZE
) -> Session:
    session = Session(
        max_message_size=max_message_size, can_authenticate=can_authenticate
    )
    session.connect()
    return session


def live(
    session: Session,
    watch_id: int,
    key: str = "k",
    *,
    prev_kv: bool = False,
    progress_notify: bool = False,
    max_buffered_events: int = 10_000,
) -> Subscription:
    """A watch that the server has confirmed, at revision 10."""
    spec = watch_spec(
        key,
        prev_kv=prev_kv,
        progress_notify=progress_notify,
        max_buffered_events=max_buffered_events,
    )
    subscription = session.open(spec)
    receive(session, created(watch_id))
    session.requests()
    assert subscription.state is State.LIVE
    return subscription


def header(revision: int = 10, cluster_id: int = CLUSTER) -> pb.ResponseHeader:
    return pb.ResponseHeader(cluster_id=cluster_id, revision=revision)


def created(watch_id: int, cluster_id: int = CLUSTER) -> RawResponse:
    return RawResponse(
        header=header(cluster_id=cluster_id), watch_id=watch_id, created=True
    )


def refused(watch_id: int, reason: str = PERMISSION_DENIED) -> RawResponse:
    return RawResponse(
        header=header(),
        watch_id=watch_id,
        created=True,
        canceled=True,
        cancel_reason=reason,
    )


def canceled(watch_id: int, reason: str = "") -> RawResponse:
    return RawResponse(
        header=header(), watch_id=watch_id, canceled=True, cancel_reason=reason
    )


def compacted(watch_id: int, compact_revision: int) -> RawResponse:
    return RawResponse(
        header=header(0),
        watch_id=watch_id,
        canceled=True,
        compact_revision=compact_revision,
    )


def events(watch_id: int, *revisions: int, fragment: bool = False) -> RawResponse:
    response = RawResponse(header=header(99), watch_id=watch_id, fragment=fragment)
    for revision in revisions:
        response.events.add().kv.mod_revision = revision
    return response


def progress(watch_id: int, revision: int) -> RawResponse:
    return RawResponse(header=header(revision), watch_id=watch_id)


def receive(session: Session, *responses: RawResponse) -> list[Delivery]:
    return [
        delivery for response in responses for delivery in session.receive(response)
    ]


def sent(session: Session) -> list[tuple[str, bytes | int, int]]:
    """What is asked for: ("create", key, start), ("cancel", id, 0), ("progress", …)."""
    asked: list[tuple[str, bytes | int, int]] = []
    for request in map(pb.WatchRequest.FromString, session.requests()):
        create = request.create_request
        if request.HasField("create_request"):
            asked.append(("create", create.key, create.start_revision))
        elif request.HasField("cancel_request"):
            asked.append(("cancel", request.cancel_request.watch_id, 0))
        else:
            assert request.HasField("progress_request")
            asked.append(("progress", b"", 0))
    return asked


def revisions(delivery: Delivery) -> list[int]:
    assert isinstance(delivery.item, WatchResponse)
    return [event.kv.mod_revision for event in delivery.item.events]


def test_replies_are_matched_in_the_order_of_the_requests() -> None:
    session = connected_session()
    watches = [session.open(watch_spec(key)) for key in "abc"]
    assert sent(session) == [("create", key, 0) for key in (b"a", b"b", b"c")]
    # The second is refused: no id, so only its place tells whose this is.
    deliveries = receive(session, created(0), refused(NO_ID), created(1))
    assert [delivery.subscription for delivery in deliveries] == watches
    assert isinstance(deliveries[1].item, PermissionDeniedError)
    assert [watch.state for watch in watches] == [State.LIVE, State.ENDED, State.LIVE]
    assert (watches[0].watch_id, watches[2].watch_id) == (0, 1)


def test_an_abandoned_creation_keeps_its_place_and_is_canceled() -> None:
    session = connected_session()
    abandoned = session.open(watch_spec("a"))
    wanted = session.open(watch_spec("b"))
    session.close(abandoned)
    sent(session)
    assert receive(session, created(0)) == []
    assert sent(session) == [("cancel", 0, 0)]
    (delivery,) = receive(session, created(1))
    assert delivery.subscription is wanted
    # What the first was sent before the cancel arrived does not send another.
    assert receive(session, events(0, 11), canceled(0)) == []
    assert sent(session) == []


def test_an_abandoned_creation_that_is_refused_needs_no_cancel() -> None:
    session = connected_session()
    session.close(session.open(watch_spec("a")))
    sent(session)
    assert receive(session, refused(0)) == []
    assert sent(session) == []


@pytest.mark.parametrize("watch_id", [NO_ID, 0, 5])
def test_a_refusal_is_one_whatever_its_id(watch_id: int) -> None:
    session = connected_session()
    neighbour = live(session, 3)
    refusal = session.open(watch_spec("a"))
    (delivery,) = receive(session, refused(watch_id))
    assert delivery.subscription is refusal
    assert isinstance(delivery.item, PermissionDeniedError)
    assert refusal.state is State.ENDED
    assert neighbour.state is State.LIVE


def test_a_refusal_under_the_id_of_a_watch_silences_it_so_it_is_created_anew() -> None:
    session = connected_session()
    silenced = live(session, 0, "silenced")
    receive(session, events(0, 12))
    refusal = session.open(watch_spec("a"))
    sent(session)
    (delivery,) = receive(session, refused(0))
    assert delivery.subscription is refusal
    assert sent(session) == [("cancel", 0, 0), ("create", b"silenced", 13)]
    assert receive(session, canceled(0), created(1)) == []
    assert (silenced.state, silenced.watch_id) == (State.LIVE, 1)


def test_a_creation_that_nobody_asked_for_is_canceled() -> None:
    session = connected_session()
    assert receive(session, created(4), refused(NO_ID)) == []
    assert sent(session) == [("cancel", 4, 0)]


@pytest.mark.parametrize("compact_revision", [20, -1])
def test_compaction_comes_after_the_events_and_frees_the_id(
    compact_revision: int,
) -> None:
    # -1 is what old servers say to a negative start.
    session = connected_session()
    watch = live(session, 0)
    neighbour = live(session, 1)
    first, last = receive(session, events(0, 11), compacted(0, compact_revision))
    assert revisions(first) == [11]
    assert isinstance(last.item, CompactedError)
    assert last.item.compact_revision == compact_revision
    assert last.next_revision == 12
    assert watch.state is State.ENDED
    # Or the server would keep the id, and tell this stream no progress any more.
    assert sent(session) == [("cancel", 0, 0)]
    assert receive(session, canceled(0)) == []
    assert neighbour.state is State.LIVE


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("", FutureRevisionError),
        (DUPLICATE_ID, WatchCanceledError),
        (PERMISSION_DENIED, PermissionDeniedError),
    ],
)
def test_a_watch_that_the_server_ends_leaves_its_neighbours_alone(
    reason: str, error: type[WatchCanceledError]
) -> None:
    session = connected_session()
    live(session, 0)
    neighbour = live(session, 1)
    (delivery,) = receive(session, canceled(0, reason))
    assert type(delivery.item) is error
    assert sent(session) == []
    assert list(session.subscriptions) == [neighbour]
    assert revisions(*receive(session, events(1, 11))) == [11]


def test_an_unknown_id_is_canceled_once_on_each_connection() -> None:
    session = connected_session()
    assert receive(session, events(6, 11), events(6, 12), events(7, 12)) == []
    assert sent(session) == [("cancel", 6, 0), ("cancel", 7, 0)]
    session.disconnect()
    session.connect()
    receive(session, events(6, 13))
    assert sent(session) == [("cancel", 6, 0)]


def test_leaving_cancels_at_once_and_late_events_do_not_again() -> None:
    session = connected_session()
    watch = live(session, 0)
    session.close(watch)
    assert sent(session) == [("cancel", 0, 0)]
    assert receive(session, events(0, 11), canceled(0)) == []
    # The user of a watch that has ended leaves it too.
    session.close(watch)
    assert sent(session) == []


def test_progress_of_one_id_moves_it_and_is_shown_if_asked_for() -> None:
    session = connected_session()
    hidden = live(session, 0)
    shown = live(session, 1, progress_notify=True)
    first, second = receive(session, progress(0, 20), progress(1, 21))
    assert (first.item, first.next_revision) == (None, 21)
    assert isinstance(second.item, WatchResponse)
    assert second.item.is_progress_notify
    assert second.next_revision == 22
    session.disconnect()
    session.connect()
    assert sent(session) == [("create", b"k", 21), ("create", b"k", 22)]
    assert (hidden.state, shown.state) == (State.CREATING, State.CREATING)


def test_the_answer_to_a_progress_request_goes_to_all_and_moves_none() -> None:
    session = connected_session()
    watches = [live(session, 0), live(session, 1)]
    creating = session.open(watch_spec("later"))
    session.request_progress()
    assert sent(session) == [("create", b"later", 0), ("progress", b"", 0)]
    deliveries = receive(session, progress(NO_ID, 50))
    assert [delivery.subscription for delivery in deliveries] == watches
    assert creating not in watches
    for delivery in deliveries:
        assert isinstance(delivery.item, WatchResponse)
        assert delivery.item.is_progress_notify
        assert delivery.next_revision == 11


def test_a_progress_request_without_a_stream_does_nothing() -> None:
    session = Session(max_message_size=MAX_MESSAGE_SIZE)
    session.request_progress()
    assert not session.has_requests
    session.connect()
    session.disconnect()
    session.request_progress()
    session.connect()
    assert sent(session) == []


def changes(watch_id: int, *revisions: int, prev_kv: bool) -> RawResponse:
    """Puts of keys that existed."""
    response = events(watch_id, *revisions)
    for event in response.events:
        event.kv.create_revision = 1
        if prev_kv:
            event.prev_kv.mod_revision = 1
    return response


def test_first_events_without_their_prev_kv_are_asked_for_once_more() -> None:
    session = connected_session()
    subscription = live(session, 0, prev_kv=True)
    assert not receive(session, changes(0, 12, 13, prev_kv=False))
    assert not receive(session, changes(0, 14, prev_kv=False))
    assert sent(session) == [("cancel", 0, 0), ("create", b"k", 11)]
    receive(session, canceled(0), created(1))
    (delivery,) = receive(session, changes(1, 12, prev_kv=True))
    assert revisions(delivery) == [12]
    # From then on it is believed.
    (delivery,) = receive(session, changes(1, 13, prev_kv=False))
    assert revisions(delivery) == [13]
    assert not sent(session)
    assert subscription.state is State.LIVE


def test_prev_kv_that_is_gone_is_asked_for_only_once_more() -> None:
    session = connected_session()
    live(session, 0, prev_kv=True)
    assert not receive(session, changes(0, 12, prev_kv=False))
    receive(session, created(1))
    (delivery,) = receive(session, changes(1, 12, prev_kv=False))
    assert revisions(delivery) == [12]
    # The next stream may forget it as well.
    session.disconnect()
    session.connect()
    receive(session, created(0))
    session.requests()
    assert not receive(session, changes(0, 13, prev_kv=False))
    assert sent(session) == [("cancel", 0, 0), ("create", b"k", 13)]


def test_events_that_need_no_prev_kv_are_handed_on() -> None:
    session = connected_session()
    live(session, 0)
    live(session, 1, prev_kv=True)
    creation = events(1, 12)
    creation.events[0].kv.create_revision = 12
    (plain,) = receive(session, changes(0, 12, prev_kv=False))
    (created_key,) = receive(session, creation)
    assert revisions(plain) == revisions(created_key) == [12]
    assert not sent(session)


def test_a_run_does_not_hide_that_its_first_has_no_prev_kv() -> None:
    session = connected_session()
    live(session, 0, prev_kv=True)
    run = [changes(0, 12, prev_kv=False), changes(0, 13, prev_kv=True)]
    assert not list(session.receive_run([raw.SerializeToString() for raw in run]))
    assert sent(session) == [("cancel", 0, 0), ("create", b"k", 11)]


def test_progress_that_has_not_been_asked_for_yet_is_asked_for_once() -> None:
    session = connected_session()
    live(session, 0)
    for _ in range(3):
        session.request_progress()
    assert sent(session) == [("progress", b"", 0)]
    assert not session.has_requests
    session.request_progress()
    session.disconnect()
    session.connect()
    assert sent(session) == [("create", b"k", 11)]


def test_a_creation_at_the_end_of_all_revisions_loses_the_stream() -> None:
    session = connected_session()
    session.open(watch_spec("k"))
    reply = created(0)
    reply.header.revision = 2**63 - 1
    with pytest.raises(StreamLost, match="nonsense"):
        session.receive(reply)
    session.disconnect()
    session.connect()
    assert sent(session) == [("create", b"k", 0)]


def test_another_cluster_fails_what_the_first_had_confirmed() -> None:
    session = connected_session()
    confirmed = live(session, 0)
    waiting = session.open(watch_spec("waiting", start_revision=5))
    session.disconnect()
    session.connect()
    sent(session)
    failed, opened = receive(session, created(0, cluster_id=8), created(1, 8))
    assert failed.subscription is confirmed
    assert isinstance(failed.item, ClusterChangedError)
    assert (failed.item.expected, failed.item.actual) == (CLUSTER, 8)
    assert sent(session) == [("cancel", 0, 0)]
    assert opened.subscription is waiting
    assert (waiting.state, waiting.cluster_id) == (State.LIVE, 8)


def refuse_token(session: Session) -> None:
    """Refuse the one creation that is under way, and begin a new stream."""
    with pytest.raises(TokenExpired, match="invalid auth token"):
        receive(session, refused(NO_ID, INVALID_TOKEN))
    session.disconnect()
    session.connect()


def test_a_token_may_be_refused_three_times_in_a_row() -> None:
    session = connected_session(can_authenticate=True)
    watch = session.open(watch_spec("a"))
    for _ in range(MAX_REFUSED_TOKENS):
        refuse_token(session)
        assert watch.state is State.CREATING
    (delivery,) = receive(session, refused(NO_ID, INVALID_TOKEN))
    assert delivery.subscription is watch
    assert isinstance(delivery.item, AuthenticationError)
    assert watch.state is State.ENDED


def test_a_token_that_is_taken_in_between_begins_the_count_anew() -> None:
    session = connected_session(can_authenticate=True)
    watch = session.open(watch_spec("a"))
    for _ in range(2):
        for _ in range(MAX_REFUSED_TOKENS):
            refuse_token(session)
        receive(session, created(0))
        session.disconnect()
        session.connect()
    assert watch.state is State.CREATING


def test_without_credentials_a_refused_token_is_final() -> None:
    session = connected_session()
    session.open(watch_spec("a"))
    (delivery,) = receive(session, refused(NO_ID, INVALID_TOKEN))
    assert isinstance(delivery.item, AuthenticationError)


def test_an_old_server_calls_an_expired_token_a_denied_permission() -> None:
    session = connected_session(can_authenticate=True)
    watch = session.open(watch_spec("a"))
    with pytest.raises(TokenExpired):
        receive(session, refused(0, PERMISSION_DENIED))
    session.disconnect()
    session.connect()
    # With a new token it is still denied, so that is what it is.
    (delivery,) = receive(session, refused(0, PERMISSION_DENIED))
    assert delivery.subscription is watch
    assert isinstance(delivery.item, PermissionDeniedError)


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


def test_left_between_the_refusal_of_its_token_and_the_end_of_the_stream() -> None:
    session = Session(max_message_size=1000, can_authenticate=True)
    session.connect()
    watch = live(session, 0)
    reason = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
    refusal = RawResponse(watch_id=0, canceled=True, cancel_reason=reason)
    with pytest.raises(TokenExpired):
        session.receive(refusal)
    session.close(watch)
    assert not session.subscriptions


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


def receive_run(session: Session, *responses: RawResponse) -> list[Delivery]:
    run = [response.SerializeToString() for response in responses]
    return list(session.receive_run(run))


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


def test_halt_fails_every_watch_in_every_state() -> None:
    session = connected_session()
    watches = [
        live(session, 0),
        live(session, 1, max_buffered_events=1),
        session.open(watch_spec("creating")),
    ]
    receive(session, events(1, 11, 12))
    states = [State.LIVE, State.PARKED, State.CREATING]
    assert [watch.state for watch in watches] == states
    error = RpcError(StatusCode.UNIMPLEMENTED, "no Watch here")
    deliveries = session.halt(error)
    assert [delivery.subscription for delivery in deliveries] == watches
    assert all(delivery.item is error for delivery in deliveries)
    assert [delivery.next_revision for delivery in deliveries] == [11, 13, 0]
    assert list(session.subscriptions) == []


def test_requests_of_a_lost_stream_are_not_sent_on_the_next() -> None:
    session = connected_session()
    session.open(watch_spec("a"))
    session.request_progress()
    session.disconnect()
    assert not session.has_requests
    session.connect()
    assert sent(session) == [("create", b"a", 0)]


def test_every_watch_is_created_anew_from_where_it_was() -> None:
    session = connected_session()
    past = session.open(watch_spec("past", start_revision=5))
    receive(session, created(0))
    now = live(session, 1, "now")
    session.open(watch_spec("unconfirmed"))
    # Creation has not moved the first (its header says 10), but has set the second.
    session.disconnect()
    session.connect()
    assert sent(session) == [
        ("create", b"past", 5),
        ("create", b"now", 11),
        ("create", b"unconfirmed", 0),
    ]
    receive(session, created(0), created(1), events(0, 5, 6), events(1, 30))
    assert (past.cursor.next_revision, now.cursor.next_revision) == (7, 31)
    # Repeated, in part and whole.
    (delivery,) = receive(session, events(0, 6, 7), events(1, 30))
    assert revisions(delivery) == [7]


@dataclass(slots=True, eq=False)
class User:
    """What the user of one watch was given, and what is owed to them.

    Attributes:
        next_revision: of the last delivery.
        bookmark: where to continue after what was taken.
        cluster: that confirmed the watch, if any has.
        first: the first revision that the watch covers, once it is confirmed.
        log: every event taken, also before the watch was opened anew at its bookmark.
        unread: what was delivered and not taken: events, and the bookmark after them.
        confirmed: whether its creation was delivered.
        answers: how many answers to progress requests were delivered.
        refused: how often in a row its creation was refused for the token.
        seen: the state of the subscription at the last look.
    """

    wish: Wish
    spec: WatchSpec
    subscription: Subscription
    interest: Interest
    seen: State
    next_revision: int
    bookmark: int
    cluster: Cluster | None = None
    first: int = 0
    log: list[Event] = field(default_factory=list)
    unread: deque[tuple[Sequence[Event], int]] = field(default_factory=deque)
    error: WatchError | None = None
    confirmed: bool = False
    answers: int = 0
    refused: int = 0

    @property
    def unread_events(self) -> int:
        return sum(len(events) for events, _ in self.unread)

    def take(self, *, merge: bool) -> int:
        """Take the oldest as `Watch` does: with merge, events come all at once.

        Returns:
            How many events were taken.
        """
        taken = 0
        while self.unread:
            if taken and not (merge and self.unread[0][0]):
                break
            events, self.bookmark = self.unread.popleft()
            self.log += events
            taken += len(events)
            if not events:
                break
        return taken

    def check_owed(self, events: Sequence[Event], first: int, last: int) -> None:
        """Assert that these events are exactly those of the revisions given."""
        assert self.cluster is not None
        owed = self.cluster.events(self.interest, first, last)
        assert [(event.kv.mod_revision, event.kv.key) for event in events] == [
            (raw.kv.mod_revision, raw.kv.key) for raw in owed
        ]
        for event, raw in zip(events, owed, strict=True):
            is_put = raw.type == pb.Event.PUT
            assert event.is_create == (is_put and not raw.HasField("prev_kv"))
            assert event.is_modify == (is_put and raw.HasField("prev_kv"))
            too_old = event.kv.mod_revision - 1 < self.cluster.compacted()
            if not self.spec.prev_kv or (event.prev_kv is None and too_old):
                raw.ClearField("prev_kv")
            assert event == Event(raw)


@dataclass(frozen=True, slots=True)
class Wish:
    """What `watch_spec()` is called with; start is relative to the newest revision."""

    where: dict[str, Any]
    start: int | None = None
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False
    progress_notify: bool = False
    bound: int = 10_000

    def spec(self, core: Core, start_revision: int) -> WatchSpec:
        return core.watch_spec(
            **self.where,
            start_revision=start_revision,
            prev_kv=self.prev_kv,
            no_put=self.no_put,
            no_delete=self.no_delete,
            progress_notify=self.progress_notify,
            max_buffered_events=self.bound,
        )


# Mostly: without watches nothing happens.
REOPENS = st.sampled_from([True, True, True, False])
# How many events a message holds: fragments are many, some, or none.
SIZE = st.sampled_from([1, 2, 10])
# How many revisions the member that one connects to is late.
BEHIND = st.sampled_from([0, 0, 1, 3])
MAX_WATCHES = 5
FUTURE = 3
"""Largest start of a watch, in revisions above the newest."""

KEYS = [b"a", b"b", b"b1", b"c"]
EVERYTHING = {"key": b"", "prefix": True}
RANGES = [
    EVERYTHING,
    EVERYTHING,
    {"key": b"b", "prefix": True},
    {"key": b"b"},
    {"key": b"a", "range_end": b"b1"},
    {"key": b"b1", "from_key": True},
]
FILTERS: list[dict[str, bool]] = [{}, {}, {"no_put": True}, {"no_delete": True}]
# More puts than deletions: deleting what is not there changes nothing.
CHANGES = st.dictionaries(
    st.sampled_from(KEYS), st.sampled_from([True, True, False]), min_size=1
)
WISHES = st.builds(
    lambda filtered, **wish: Wish(**filtered, **wish),
    filtered=st.sampled_from(FILTERS),
    where=st.sampled_from(RANGES),
    start=st.none() | st.integers(-5, FUTURE),
    prev_kv=st.booleans(),
    progress_notify=st.booleans(),
    bound=st.sampled_from([4, 2, 1, 10_000]),
)
REFUSALS = ["", "", "", "", "", PERMISSION_DENIED, INVALID_TOKEN, DUPLICATE_ID]
# 3.4.23 differs from 3.5.1 in refusals alone.
VERSIONS = [V3_6, V3_5_1, V3_6, V3_5_1, V3_4_23]

connected = precondition(lambda self: self.stream is not None)
# After an expired token nothing more is received; whoever has the session still may call.
served = precondition(lambda self: self.stream is not None and not self.doomed)


class SessionMachine(RuleBasedStateMachine):
    """A session between users and a model of etcd.

    What is checked: at each delivery, that its events are exactly those from the last
    next_revision to the new one, and that this moved as its rule says; after each step,
    the bound on what is unread and what depends on it; in the end, that everything has
    come, and that the server holds nothing that nobody wants.
    """

    core: ClassVar[Core] = REAL
    watches: Bundle[User] = Bundle("watches")

    def __init__(self) -> None:
        super().__init__()
        self.clusters = Cluster(7), Cluster(8)
        self.cluster = self.clusters[0]
        self.version = V3_6
        self.stream: Stream | None = None
        self.doomed = False
        self.users: dict[Subscription, User] = {}
        # Creations: those that the session must have asked for, with their start;
        # those whose request is in the outbox; those whose reply is to come.
        self.creating: deque[tuple[User, int]] = deque()
        self.outbox: deque[tuple[bytes, User | None]] = deque()
        self.awaiting: deque[User] = deque()

    @initialize(
        target=watches,
        can_authenticate=st.booleans(),
        history=st.lists(CHANGES, min_size=2, max_size=6),
        version=st.sampled_from(VERSIONS),
        size=SIZE,
        wish=WISHES,
    )
    def begin(
        self,
        can_authenticate: bool,
        history: list[Mapping[bytes, bool]],
        version: Version,
        size: int,
        wish: Wish,
    ) -> User:
        self.can_authenticate = can_authenticate
        self.session = self.core.session(
            max_message_size=MAX_MESSAGE_SIZE, can_authenticate=can_authenticate
        )
        for cluster in self.clusters:
            for changes in history:
                cluster.commit(changes)
        self._connect(version, 0, elsewhere=False, size=size)
        return self._open(wish)

    # What happens in the cluster. Few rules with choices inside: Hypothesis switches
    # off some rules in each run, and without a server at work little can happen.

    @rule(
        transactions=st.lists(CHANGES, min_size=1, max_size=3),
        lags=st.booleans(),
        crowded=st.booleans(),
    )
    def commit(
        self, transactions: list[Mapping[bytes, bool]], lags: bool, crowded: bool
    ) -> None:
        for changes in transactions:
            self.cluster.commit(changes)
        if self.stream and not lags:
            self.stream.apply(self.cluster.revision, crowded=crowded)

    @connected
    @rule(job=st.sampled_from(["tick", "sync", "compact", "restore", "expire"]))
    def work(self, job: str) -> None:
        assert self.stream
        match job:
            case "tick":
                self.stream.tick()
            case "sync":
                self.stream.sync()
            case "compact":
                self.cluster.compact(self.cluster.revision - 1)
            case "restore":
                self.stream.restore()
            case "expire":
                self.stream.token_expired = True

    @precondition(lambda self: self.stream is None)
    @rule(back=st.integers(0, 4))
    def compact(self, back: int) -> None:
        """While nobody looks."""
        self.cluster.compact(self.cluster.revision - back)

    # What the users do

    @precondition(lambda self: len(self.users) < MAX_WATCHES)
    @rule(target=watches, wish=WISHES, refusal=st.sampled_from(REFUSALS))
    def open(self, wish: Wish, refusal: str) -> User:
        if self.stream and refusal:
            self.stream.refusals.append(refusal)
        return self._open(wish)

    @rule(target=watches, user=consumes(watches), reopens=REOPENS)
    def leave(self, user: User, reopens: bool) -> User | MultipleResults[User]:
        """Leave; or end as a program does, and start again at the bookmark it has."""
        self._leave(user)
        if not reopens:
            return multiple()
        again = self._open(user.wish, user.bookmark)
        again.cluster, again.first, again.log = user.cluster, user.first, user.log
        return again

    @rule(user=watches, times=st.integers(1, 2), merge=st.booleans())
    def take(self, user: User, times: int, merge: bool) -> None:
        for _ in range(times):
            self._take(user, merge=merge)

    # What happens on the way

    @precondition(lambda self: self.stream is None)
    @rule(
        version=st.sampled_from(VERSIONS),
        behind=BEHIND,
        elsewhere=st.sampled_from([False] * 5 + [True]),
        size=SIZE,
    )
    def connect(
        self, version: Version, behind: int, elsewhere: bool, size: int
    ) -> None:
        self._connect(version, behind, elsewhere=elsewhere, size=size)

    @connected
    @rule(
        after=st.integers(0, 8),
        then=st.sampled_from(["back"] * 5 + ["down", "elsewhere"]),
        version=st.sampled_from(VERSIONS),
        behind=BEHIND,
        size=SIZE,
    )
    def disconnect(
        self, after: int, then: str, version: Version, behind: int, size: int
    ) -> None:
        """Lose the connection in the middle of what one transaction brings."""
        assert self.stream
        if not self.doomed and after:
            self._ask_all(races=False)
            self.stream.sync()
            self.cluster.commit(dict.fromkeys(KEYS, True))
            self.stream.apply(self.cluster.revision)
            self._receive_each(after)
        elsewhere = (self.cluster is self.clusters[1]) != (then == "elsewhere")
        self._disconnect()
        if then != "down":
            self._connect(version, behind, elsewhere=elsewhere, size=size)

    @served
    @rule(
        count=st.integers(0, 3),
        races=st.booleans(),
        picks=st.lists(st.booleans(), min_size=1, max_size=5),
        asks_progress=st.booleans(),
    )
    def exchange_some(
        self, count: int, races: bool, picks: list[bool], asks_progress: bool
    ) -> None:
        """A few requests are handled, and a few replies received."""
        assert self.stream
        self.stream.apply(1)
        if asks_progress:
            self.session.request_progress()
        self._pull()
        for _ in range(min(count, len(self.outbox))):
            self._ask(races=races)
        messages = [self.stream.send(control_first=pick) for pick in picks]
        self._receive([message for message in messages if message is not None])

    @served
    @rule(races=st.booleans(), progress=st.sampled_from(["asked", "tick", "none"]))
    def exchange(self, races: bool, progress: str) -> None:
        """Everything sent is handled, and everything replied is received."""
        assert self.stream
        if progress == "asked":
            self.session.request_progress()
        self._ask_all(races=races)
        self.stream.sync()
        if progress == "tick":
            self.stream.tick()
        messages = []
        while message := self.stream.send(control_first=False):
            messages.append(message)
        self._receive(messages)

    def teardown(self) -> None:
        # Not after a failure, nor where Hypothesis broke off.
        if sys.exc_info()[0] is None and self.users:
            self._settle()
            # Whoever waits for the future, or was silenced, has something to miss.
            future = max(user.spec.start_revision for user in self.users.values())
            for _ in range(max(1, future - self.cluster.revision)):
                self.cluster.commit(dict.fromkeys(KEYS, True))
            self._settle()
            self._check_settled()
            for user in list(self.users.values()):
                self._leave(user)
            self._settle()
            assert self.stream
            assert not self.stream.watchers

    # The steps

    def _connect(
        self, version: Version, behind: int, *, elsewhere: bool, size: int
    ) -> None:
        self.cluster = self.clusters[elsewhere]
        self.version = version
        applied = max(1, self.cluster.revision - behind)
        self.stream = Stream(self.cluster, version, applied, fragment_events=size)
        self.session.connect()
        self._look()

    def _disconnect(self) -> None:
        self.stream = None
        self.doomed = False
        self.session.disconnect()
        assert not self.session.has_requests
        self.creating.clear()
        self.outbox.clear()
        self.awaiting.clear()
        self._look()

    def _open(self, wish: Wish, start_revision: int | None = None) -> User:
        if start_revision is None:
            start = wish.start
            newest = self.cluster.revision
            start_revision = 0 if start is None else max(1, newest + start)
        spec = wish.spec(self.core, start_revision)
        subscription = self.session.open(spec)
        user = User(
            wish,
            spec,
            subscription,
            Interest(spec.key, spec.range_end, spec.no_put, spec.no_delete),
            seen=self.core.state.RESUMING,
            next_revision=start_revision,
            bookmark=start_revision,
        )
        self.users[subscription] = user
        self._look()
        return user

    def _leave(self, user: User) -> None:
        self.session.close(user.subscription)
        del self.users[user.subscription]

    def _take(self, user: User, *, merge: bool) -> None:
        if taken := user.take(merge=merge):
            self.session.take(user.subscription, taken)
        self._look()

    def _look(self) -> None:
        """Note which watches the session has begun to create, after each call."""
        states = self.core.state
        for user in self.users.values():
            state = user.subscription.state
            if state is states.CREATING and user.seen is not states.CREATING:
                self.creating.append((user, user.next_revision))
            if user.seen is states.PARKED and state is not states.PARKED:
                # It goes on at half, and not before.
                assert user.unread_events * 2 <= user.spec.max_buffered_events
            user.seen = state

    def _pull(self) -> None:
        """Take the session's requests, and compare its creations with what is due."""
        for request in self.session.requests():
            decoded = pb.WatchRequest.FromString(request)
            if not decoded.HasField("create_request"):
                self.outbox.append((request, None))
                continue
            # Rule 7: each in its turn, and from what was received.
            assert self.creating, "a creation that is not due"
            user, start = self.creating.popleft()
            filters = []
            if user.spec.no_put:
                filters.append(pb.WatchCreateRequest.NOPUT)
            if user.spec.no_delete:
                filters.append(pb.WatchCreateRequest.NODELETE)
            assert decoded.create_request == pb.WatchCreateRequest(
                key=user.spec.key,
                range_end=user.spec.range_end,
                start_revision=start,
                prev_kv=user.spec.prev_kv,
                filters=filters,
                # Rules 6 and 8.
                fragment=True,
                progress_notify=True,
            )
            self.outbox.append((request, user))
        assert not self.creating, "a creation was not sent"

    def _ask(self, *, races: bool) -> None:
        """Let the server handle one request; a race is a put in the middle of it."""
        assert self.stream
        if races:
            self.cluster.commit({b"b": True})
        request, user = self.outbox.popleft()
        if user:
            self.awaiting.append(user)
        handled = self.stream.handle(request, racing=self.cluster.revision * races)
        if handled.HasField("cancel_request"):
            watch_id = handled.cancel_request.watch_id
            assert 0 <= watch_id < self.stream.created, "canceled what never was"
            assert self.stream.cancels[watch_id] == 1, "canceled twice"

    def _ask_all(self, *, races: bool) -> None:
        self._pull()
        while self.outbox:
            self._ask(races=races)

    def _receive_each(self, count: int) -> None:
        """Hand over up to so many messages, one in each read."""
        assert self.stream
        for _ in range(count):
            message = self.stream.send(control_first=False)
            if message is None or self.doomed:
                break
            self._receive([message])

    def _receive(self, messages: list[RawResponse]) -> None:
        """Hand over what one read brought, as `_stream` does."""
        assert self.stream
        for run in split_runs([message.SerializeToString() for message in messages]):
            assert isinstance(run, list)
            raw = decode(run[-1])
            owner, expected = self._expect(raw)
            got = 0
            try:
                for delivery in self.session.receive_run(run):
                    got += 1
                    self._deliver(delivery, raw, owner)
            except TokenExpired as exc:
                self._check_expired(raw, exc, owner)
                self.doomed = True
            self._look()
            if raw.created and raw.canceled:
                # A watch that has the id of a refusal gets nothing more under it.
                assert raw.watch_id not in self._live()
            if self.doomed:
                return
            if raw.created and not raw.canceled:
                self._check_confirmed(raw, owner)
            assert expected is None or got == expected, "of a message went missing"

    def _live(self) -> dict[int, User]:
        return {
            user.subscription.watch_id: user
            for user in self.users.values()
            if user.subscription.state is self.core.state.LIVE
        }

    def _expect(self, raw: RawResponse) -> tuple[User | None, int | None]:
        """Whom a message is for (None: not one watch that there is), and how many
        deliveries it makes; None where only the events can tell."""
        live = self._live()
        if raw.created:
            first = self.awaiting.popleft()
            if first.subscription not in self.users or first.error:
                return None, 0
            # Seen by its user the first time, and if it fails.
            return first, None if first.confirmed else 1
        if raw.watch_id == NO_ID:
            return None, len(live)
        owner = live.get(raw.watch_id)
        if owner is None:
            return None, 0
        return owner, None if raw.events else 1

    # What is checked

    def _deliver(
        self, delivery: Delivery, raw: RawResponse, owner: User | None
    ) -> None:
        assert self.stream
        user = self.users.get(delivery.subscription)
        assert user, "delivered to a watch that was left"
        assert owner is user or raw.watch_id == NO_ID
        assert user.error is None, "nothing follows an error"
        item, before, now = delivery.item, user.next_revision, delivery.next_revision
        header = raw.header.revision
        events: Sequence[Event] = ()
        if isinstance(item, WatchError):
            self._check_error(user, item, raw)
            assert now == before
            user.error = item
            return
        if raw.created:
            # Once in its life, and rules 1 and 2.
            assert not user.confirmed
            assert item is not None
            user.confirmed = True
            assert now == (user.spec.start_revision or header + 1)
            if user.cluster is not self.cluster:
                # A bookmark of another cluster means nothing: its log begins here.
                user.cluster, user.first, user.log = self.cluster, now, []
            user.next_revision = user.bookmark = now
            return
        if raw.events:
            # Rules 3 and 6: what counts is the last event, and it is whole.
            assert item is not None
            events = list(item.events)
            assert now == events[-1].kv.mod_revision + 1
        elif raw.watch_id == NO_ID:
            # Rule 4, for the answer to a request.
            assert item is not None
            assert now == before
            user.answers += 1
        else:
            # Rules 4 and 8, for this id: after R, nothing up to R will follow.
            assert (item is not None) == user.spec.progress_notify
            assert now == max(before, header + 1)
        # Rule 5, and section 1: filtered, ordered, unique, reliable and atomic, since
        # no revision is torn between two of these.
        assert delivery.events == len(events)
        assert now >= before
        user.check_owed(events, before, now - 1)
        user.next_revision = now
        if item is not None:
            user.unread.append((events, now))
        elif user.unread:
            user.unread[-1] = user.unread[-1][0], now
        else:
            user.bookmark = now
        if events:
            # Section 6: as many as asked for, and one response.
            largest = self.stream.watcher(raw.watch_id).largest
            assert user.unread_events <= user.spec.max_buffered_events + largest

    def _check_confirmed(self, raw: RawResponse, owner: User | None) -> None:
        """A reply is for the first creation without one, whoever else waits."""
        if owner is None or owner.error:
            return
        assert owner.subscription.state is self.core.state.LIVE
        assert owner.subscription.watch_id == raw.watch_id
        assert owner.cluster is self.cluster
        owner.refused = 0

    def _check_error(self, user: User, error: WatchError, raw: RawResponse) -> None:
        assert self.stream
        match error:
            case CompactedError():
                assert error.compact_revision == raw.compact_revision > 0
                # True, unless the server forgot the start, and only after everything
                # that it had sent before.
                watcher = self.stream.watcher(raw.watch_id)
                assert (
                    user.next_revision < self.cluster.compacted()
                    or watcher.start_forgotten
                )
                assert watcher.group is Group.COMPACTED
                user.check_owed([], user.next_revision, watcher.next_revision - 1)
            case ClusterChangedError():
                assert raw.created
                assert user.cluster is not None
                assert error.expected == user.cluster.cluster_id
                assert error.actual == self.cluster.cluster_id != error.expected
            case AuthenticationError():
                assert raw.created
                assert raw.cancel_reason == INVALID_TOKEN
                patience = MAX_REFUSED_TOKENS if self.can_authenticate else 0
                assert user.refused == patience
            case PermissionDeniedError():
                assert raw.created
                assert raw.cancel_reason == PERMISSION_DENIED
            case WatchCanceledError():
                assert raw.created
                assert error.reason == raw.cancel_reason == DUPLICATE_ID
            case _:
                raise AssertionError(f"nothing here leads to {error!r}")

    def _check_expired(
        self, raw: RawResponse, error: TokenExpired, owner: User | None
    ) -> None:
        assert owner
        assert self.can_authenticate
        owner.refused += 1
        assert raw.created
        assert raw.canceled
        if raw.cancel_reason != INVALID_TOKEN:
            assert raw.cancel_reason == PERMISSION_DENIED
            assert self.version.refuses_under_id_0
        assert str(error) == raw.cancel_reason

    @invariant()
    def unread_is_counted_and_bounded(self) -> None:
        state = self.core.state
        for user in self.users.values():
            subscription, bound = user.subscription, user.spec.max_buffered_events
            assert subscription.unread == user.unread_events
            if subscription.state is state.PARKED:
                # Drained to half, it goes on.
                assert subscription.unread * 2 > bound
            elif subscription.state is not state.ENDED:
                # Past the bound it waits, on whatever stream.
                assert subscription.unread <= bound

    @invariant()
    def states_are_true(self) -> None:
        state = self.core.state
        wanted = [user.subscription for user in self.users.values() if not user.error]
        assert list(self.session.subscriptions) == wanted
        for user in self.users.values():
            subscription = user.subscription
            assert (subscription.state is state.ENDED) == (user.error is not None)
            # Rule 9: the cursor is what was received, whatever the user has taken.
            assert subscription.cursor.next_revision == user.next_revision
            assert user.bookmark <= user.next_revision
            if self.stream is None:
                assert subscription.state not in (state.CREATING, state.LIVE)
            elif not self.doomed:
                assert subscription.state is not state.RESUMING

    def _settle(self) -> None:
        for _ in range(300):
            if self.doomed:
                self._disconnect()
            if self.stream is None:
                elsewhere = self.cluster is self.clusters[1]
                self._connect(self.version, 0, elsewhere=elsewhere, size=1)
            assert self.stream
            self.stream.refusals.clear()
            self.stream.apply(self.cluster.revision)
            self._ask_all(races=False)
            self.stream.sync()
            self._receive_each(sys.maxsize)
            for user in self.users.values():
                while user.unread:
                    self._take(user, merge=True)
            at_rest = not (self.session.has_requests or self.outbox or self.awaiting)
            if at_rest and self.stream.idle and not self.doomed:
                return
        raise AssertionError("it never comes to rest")

    def _check_settled(self) -> None:
        assert self.stream
        newest = self.cluster.revision
        users = [user for user in self.users.values() if not user.error]
        live = self._live()
        assert sorted(map(id, live.values())) == sorted(map(id, users))
        for user in users:
            # Everything, counted without next_revision, and across every reopening.
            user.check_owed(user.log, user.first, newest)
        # The server holds these and no others, and nothing keeps it from vouching.
        assert self.stream.watchers.keys() == live.keys()
        self.stream.tick()
        self._receive_each(sys.maxsize)
        for user in users:
            assert user.next_revision == newest + 1
        answers = [user.answers + 1 for user in users]
        self.session.request_progress()
        self._ask_all(races=False)
        self._receive_each(sys.maxsize)
        assert [user.answers for user in users] == answers


settings.register_profile(
    "session",
    max_examples=600,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "session-thorough", settings.get_profile("session"), max_examples=20_000
)

TestSession = SessionMachine.TestCase
TestSession.settings = settings.get_profile(
    os.environ.get("SESSION_PROFILE", "session")
)
