"""The session by itself: an example of each of its promises."""

from __future__ import annotations

import pytest

from tests.machine.model import DUPLICATE_ID, INVALID_TOKEN, NO_ID, PERMISSION_DENIED
from tests.machine.session_machine import MAX_MESSAGE_SIZE
from tests.support.replies import (
    CLUSTER,
    canceled,
    changes,
    compacted,
    connected_session,
    created,
    events,
    live,
    progress,
    receive,
    receive_read,
    refused,
    revisions,
    sent,
)
from trio_etcd_watch import (
    AuthenticationError,
    ClusterChangedError,
    CompactedError,
    FutureRevisionError,
    HistoryLostError,
    PermissionDeniedError,
    RpcError,
    WatchCanceledError,
    WatchResponse,
)
from trio_etcd_watch._grpc.status import StatusCode, StreamLost
from trio_etcd_watch._lifecycle import LARGE_REQUEST
from trio_etcd_watch._pb.watch_pb2 import WatchResponse as RawResponse
from trio_etcd_watch._requests import watch_spec
from trio_etcd_watch._roster import MAX_UNKNOWN_IDS
from trio_etcd_watch._session import Session
from trio_etcd_watch._subscription import MAX_PREV_KV_TRIES, State, Subscription
from trio_etcd_watch._verdicts import MAX_REFUSED_TOKENS


def test_replies_are_matched_in_the_order_of_the_requests() -> None:
    session = connected_session()
    watches = [session.open(watch_spec(key)) for key in "abc"]
    assert sent(session) == [("create", key, 0) for key in (b"a", b"b", b"c")]
    # The refusal of the second has no id; only its position shows whose it is.
    deliveries = receive(session, created(0), refused(NO_ID), created(1))
    assert [delivery.subscription for delivery in deliveries] == watches
    assert isinstance(deliveries[1].item, PermissionDeniedError)
    assert [watch.state for watch in watches] == [State.LIVE, State.ENDED, State.LIVE]
    assert (watches[0].live.watch_id, watches[2].live.watch_id) == (0, 1)


def test_replies_out_of_order_are_told_by_their_ids() -> None:
    session = connected_session()
    live(session, 0, "first")
    watches = [session.open(watch_spec(key)) for key in "abc"]
    sent(session)
    with pytest.raises(StreamLost, match="out of order"):
        receive(session, created(2))
    session.disconnect()
    session.connect()
    # From now on each creation waits for the reply to the one before, on every stream.
    assert sent(session) == [("create", b"first", 11)]
    receive(session, created(0))
    assert sent(session) == [("create", b"a", 0)]
    # One is closed before its creation is sent, one while its reply is awaited.
    session.close(watches[1])
    session.close(watches[0])
    assert sent(session) == []
    receive(session, created(7))
    assert sent(session) == [("create", b"c", 0), ("cancel", 7, 0)]
    receive(session, created(3))
    assert (watches[2].state, watches[2].live.watch_id) == (State.LIVE, 3)
    # A refusal also lets the next creation go.
    session.open(watch_spec("d"))
    session.open(watch_spec("e"))
    assert sent(session) == [("create", b"d", 0)]
    receive(session, refused(NO_ID))
    assert sent(session) == [("create", b"e", 0)]


def test_the_only_reply_awaited_may_have_any_id() -> None:
    session = connected_session()
    for watch_id in (5, 2, 9):
        live(session, watch_id)
    session.open(watch_spec("a"))
    session.open(watch_spec("b"))
    receive(session, created(10), created(11))
    session.disconnect()
    session.connect()
    # The ids of each stream begin at 0 again.
    receive(session, *map(created, range(5)))
    assert len(session._live) == 5


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
    # Events that the server sent before the cancel cause no second cancel.
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


def test_a_refusal_under_the_id_of_a_watch_silences_it_so_it_is_created_again() -> None:
    session = connected_session()
    silenced = live(session, 0, "silenced")
    receive(session, events(0, 12))
    refusal = session.open(watch_spec("a"))
    sent(session)
    (delivery,) = receive(session, refused(0))
    assert delivery.subscription is refusal
    assert sent(session) == [("cancel", 0, 0), ("create", b"silenced", 13)]
    assert receive(session, canceled(0), created(1, revision=12)) == []
    assert (silenced.state, silenced.live.watch_id) == (State.LIVE, 1)


def test_a_creation_that_was_not_requested_is_canceled() -> None:
    session = connected_session()
    assert receive(session, created(4), refused(NO_ID)) == []
    assert sent(session) == [("cancel", 4, 0)]


@pytest.mark.parametrize("compact_revision", [20, -1])
def test_compaction_comes_after_the_events_and_frees_the_id(
    compact_revision: int,
) -> None:
    # Old servers answer -1 to a negative start.
    session = connected_session()
    watch = live(session, 0)
    neighbour = live(session, 1)
    first, last = receive(session, events(0, 11), compacted(0, compact_revision))
    assert revisions(first) == [11]
    assert isinstance(last.item, CompactedError)
    assert last.item.compact_revision == compact_revision
    assert last.next_revision == 12
    assert watch.state is State.ENDED
    # Otherwise the server would keep the id, and this stream get no more progress.
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
def test_a_watch_that_the_server_ends_does_not_affect_its_neighbours(
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
    # A watch that has ended is closed as well.
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


def test_an_answer_that_may_have_overtaken_events_goes_to_none_of_them() -> None:
    session = connected_session()
    past = session.open(watch_spec("past", start_revision=5))
    receive(session, created(0))
    now = live(session, 1)
    # It was created at revision 10, that of the answer, so events may still follow.
    deliveries = receive(session, progress(NO_ID, 10))
    assert [delivery.subscription for delivery in deliveries] == [now]
    deliveries = receive(session, events(0, 5, 10), progress(NO_ID, 10))
    assert [delivery.subscription for delivery in deliveries] == [past, past, now]
    assert len(receive(session, progress(NO_ID, 11))) == 2


def test_a_progress_request_without_a_stream_does_nothing() -> None:
    session = Session(max_message_size=MAX_MESSAGE_SIZE)
    session.request_progress()
    assert not session.has_requests
    session.connect()
    session.disconnect()
    session.request_progress()
    session.connect()
    assert sent(session) == []


def test_first_events_without_their_prev_kv_are_asked_for_again() -> None:
    session = connected_session()
    subscription = live(session, 0, prev_kv=True)
    # etcd may omit prev_kv twice in a row.
    for watch_id in range(2):
        assert not receive(session, changes(watch_id, 12, 13, prev_kv=False))
        assert not receive(session, changes(watch_id, 14, prev_kv=False))
        assert sent(session) == [("cancel", watch_id, 0), ("create", b"k", 11)]
        receive(session, canceled(watch_id), created(watch_id + 1))
    (delivery,) = receive(session, changes(2, 12, prev_kv=True))
    assert revisions(delivery) == [12]
    # From then on a missing prev_kv is accepted.
    (delivery,) = receive(session, changes(2, 13, prev_kv=False))
    assert revisions(delivery) == [13]
    assert not sent(session)
    assert subscription.state is State.LIVE


def test_prev_kv_that_is_gone_is_not_asked_for_for_ever() -> None:
    session = connected_session()
    live(session, 0, prev_kv=True)
    for watch_id in range(MAX_PREV_KV_TRIES):
        assert not receive(session, changes(watch_id, 12, prev_kv=False))
        receive(session, created(watch_id + 1))
    (delivery,) = receive(session, changes(MAX_PREV_KV_TRIES, 12, prev_kv=False))
    assert revisions(delivery) == [12]
    # The next stream may omit it as well.
    session.disconnect()
    session.connect()
    receive(session, created(0, revision=12))
    session.requests()
    assert not receive(session, changes(0, 13, prev_kv=False))
    assert sent(session) == [("cancel", 0, 0), ("create", b"k", 13)]


def test_first_events_that_only_create_keys_prove_nothing_of_prev_kv() -> None:
    session = connected_session()
    live(session, 0, prev_kv=True)
    creation = events(0, 11)
    creation.events[0].kv.create_revision = 11
    assert len(receive(session, creation)) == 1
    assert receive(session, changes(0, 12, prev_kv=False)) == []
    assert sent(session) == [("cancel", 0, 0), ("create", b"k", 12)]


def test_events_that_need_no_prev_kv_are_delivered() -> None:
    session = connected_session()
    live(session, 0)
    live(session, 1, prev_kv=True)
    creation = events(1, 12)
    creation.events[0].kv.create_revision = 12
    (plain,) = receive(session, changes(0, 12, prev_kv=False))
    (created_key,) = receive(session, creation)
    assert revisions(plain) == revisions(created_key) == [12]
    assert not sent(session)


def test_a_batch_does_not_hide_that_its_first_has_no_prev_kv() -> None:
    session = connected_session()
    live(session, 0, prev_kv=True)
    batch = [changes(0, 12, prev_kv=False), changes(0, 13, prev_kv=True)]
    assert not receive_read(session, *batch)
    assert sent(session) == [("cancel", 0, 0), ("create", b"k", 11)]


def test_progress_requests_that_are_not_sent_yet_become_one() -> None:
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
        receive(session, reply)
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


def test_a_header_without_a_cluster_id_shows_no_other_cluster() -> None:
    session = connected_session()
    watch = session.open(watch_spec("k", created_notify=True))
    assert len(receive(session, created(0, cluster_id=0))) == 1
    for cluster_id in (0, CLUSTER, 0):
        session.disconnect()
        session.connect()
        # The creation is delivered only when the watch is first confirmed.
        assert receive(session, created(0, cluster_id=cluster_id)) == []
        assert watch.state is State.LIVE
    session.disconnect()
    session.connect()
    (delivery,) = receive(session, created(0, cluster_id=CLUSTER + 1))
    assert isinstance(delivery.item, ClusterChangedError)


def refuse_token(session: Session, watch: Subscription) -> Session:
    """Refuse the only creation under way; return the session that adopts the watch."""
    assert receive(session, refused(NO_ID, INVALID_TOKEN)) == []
    assert session.expelled() == [watch]
    assert session.expelled() == list(session.subscriptions) == []
    session = connected_session(can_authenticate=True)
    session.adopt(watch)
    return session


def test_a_token_may_be_refused_three_times_in_a_row() -> None:
    session = connected_session(can_authenticate=True)
    watch = session.open(watch_spec("a"))
    for _ in range(MAX_REFUSED_TOKENS):
        session = refuse_token(session, watch)
        assert watch.state is State.CREATING
    (delivery,) = receive(session, refused(NO_ID, INVALID_TOKEN))
    assert delivery.subscription is watch
    assert isinstance(delivery.item, AuthenticationError)
    assert watch.state is State.ENDED


def test_an_accepted_token_restarts_the_count() -> None:
    session = connected_session(can_authenticate=True)
    watch = session.open(watch_spec("a"))
    for _ in range(2):
        for _ in range(MAX_REFUSED_TOKENS):
            session = refuse_token(session, watch)
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
    assert receive(session, refused(0, PERMISSION_DENIED)) == []
    assert session.expelled() == [watch]
    session = connected_session(can_authenticate=True, has_new_token=True)
    session.adopt(watch)
    # With a new token it is still denied, so the permission is missing.
    (delivery,) = receive(session, refused(0, PERMISSION_DENIED))
    assert delivery.subscription is watch
    assert isinstance(delivery.item, PermissionDeniedError)


def test_what_a_new_token_may_not_read_is_denied() -> None:
    session = connected_session(can_authenticate=True, has_new_token=True)
    watch = session.open(watch_spec("k"))
    (delivery,) = receive(session, refused(0, PERMISSION_DENIED))
    assert delivery.subscription is watch
    assert isinstance(delivery.item, PermissionDeniedError)


@pytest.mark.parametrize("watch_id", [NO_ID, 0])
@pytest.mark.parametrize("can_authenticate", [True, False])
def test_refused_for_having_no_token(watch_id: int, can_authenticate: bool) -> None:
    session = connected_session(can_authenticate=can_authenticate)
    watch = session.open(watch_spec("k"))
    refusal = refused(watch_id, "etcdserver: user name is empty")
    for _ in range(MAX_REFUSED_TOKENS if can_authenticate else 0):
        # Authentication has been enabled since the stream began.
        assert receive(session, refusal) == []
        assert session.expelled() == [watch]
        session = connected_session(can_authenticate=True)
        session.adopt(watch)
    (delivery,) = receive(session, refusal)
    assert isinstance(delivery.item, PermissionDeniedError)


def test_a_refused_token_is_no_matter_of_the_neighbours() -> None:
    session = connected_session(can_authenticate=True)
    neighbour, watch = live(session, 0), live(session, 1)
    reason = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
    refusal = RawResponse(watch_id=1, canceled=True, cancel_reason=reason)
    assert receive(session, refusal) == []
    assert session.expelled() == [watch]
    assert list(session.subscriptions) == [neighbour]
    assert neighbour.state is State.LIVE
    assert sent(session) == []


# A member that is behind, or a cluster that has lost history


def behind(reported: int = 30) -> tuple[Session, Subscription]:
    """A resumed watch that had received a revision above 10, that of the creation."""
    session = connected_session()
    watch = live(session, 0)
    receive(session, events(0, reported))
    session.disconnect()
    session.connect()
    assert sent(session) == [("create", b"k", reported + 1)]
    assert receive(session, created(0)) == []
    assert session.unproved == [watch]
    assert sent(session) == [("cancel", 0, 0)]
    # No event is accepted as its continuation.
    assert receive(session, events(0, reported + 1)) == []
    return session, watch


def test_a_member_that_lags_is_no_lost_history() -> None:
    session, watch = behind()
    assert session.prove(30, session.unproved) == []
    assert session.unproved == []
    assert sent(session) == [("create", b"k", 31)]
    # After the proof, this stream needs no other.
    assert receive(session, created(1)) == []
    assert (session.unproved, watch.state) == ([], State.LIVE)
    (delivery,) = receive(session, events(1, 31))
    assert revisions(delivery) == [31]


def test_a_cluster_that_is_behind_has_lost_history() -> None:
    session, watch = behind()
    (delivery,) = session.prove(29, session.unproved)
    assert delivery.subscription is watch
    assert isinstance(delivery.item, HistoryLostError)
    assert (delivery.item.expected, delivery.item.actual) == (30, 29)
    assert watch.state is State.ENDED
    assert session.unproved == []


def test_the_proof_is_that_of_one_stream() -> None:
    session, _ = behind()
    session.prove(30, session.unproved)
    session.disconnect()
    session.connect()
    assert receive(session, created(0)) == []
    assert session.unproved != []


def test_a_watch_that_waits_for_a_proof_can_be_closed() -> None:
    session, watch = behind()
    session.close(watch)
    assert session.unproved == []
    assert session.prove(1, [watch]) == []


def test_a_start_in_the_future_is_no_promise_of_the_cluster() -> None:
    session = connected_session()
    watch = session.open(watch_spec("k", start_revision=1000))
    receive(session, created(0))
    session.disconnect()
    session.connect()
    assert receive(session, created(0)) == []
    assert (session.unproved, watch.state) == ([], State.LIVE)


# Refused streams


def test_the_only_creation_under_way_is_what_a_stream_is_refused_for() -> None:
    session = connected_session()
    neighbour = live(session, 0)
    watch = session.open(watch_spec("a"))
    error = RpcError(StatusCode.INVALID_ARGUMENT, "not this one")
    # The creation has not been sent, so it cannot be the refused one.
    assert session.refuse(error) == ()
    session.requests()
    (delivery,) = session.refuse(error)
    assert (delivery.subscription, delivery.item) == (watch, error)
    session.disconnect()
    assert list(session.subscriptions) == [neighbour]
    # Without a creation under way, the end of the stream is a loss.
    session.connect()
    receive(session, created(0))
    assert session.refuse(error) == ()


def test_of_several_creations_the_refused_one_is_found() -> None:
    session = connected_session()
    watches = [session.open(watch_spec(key)) for key in "abc"]
    error = RpcError(StatusCode.INVALID_ARGUMENT, "not this one")
    assert session.refuse(error) == ()
    session.disconnect()
    session.connect()
    assert sent(session) == [("create", b"a", 0)]
    receive(session, created(0))
    assert sent(session) == [("create", b"b", 0)]
    (delivery,) = session.refuse(error)
    assert delivery.subscription is watches[1]


def test_a_header_that_a_proxy_made_up_tells_nothing_of_the_cluster() -> None:
    # etcd's grpc-proxy gives the start of the watch, if it has the same watch already.
    session = connected_session()
    watch = session.open(watch_spec("k", start_revision=31))
    receive(session, created(0, 0, revision=31))
    assert watch.cursor.reported == 0
    # An answer to a progress request may have overtaken its events.
    assert receive(session, progress(NO_ID, 30)) != []
    assert receive(session, progress(NO_ID, 31)) == []
    session.disconnect()
    session.connect()
    assert receive(session, created(0, revision=30)) == []
    assert (session.unproved, watch.state) == ([], State.LIVE)


def test_an_id_that_is_assigned_twice_loses_the_stream() -> None:
    session = connected_session()
    watch = live(session, 0)
    other = session.open(watch_spec("other"))
    with pytest.raises(StreamLost, match="twice"):
        receive(session, created(0))
    assert (watch.state, watch.live.watch_id) == (State.LIVE, 0)
    session.close(other)
    session.close(watch)


def test_a_creation_while_the_proof_is_read_waits_for_another() -> None:
    session, watch = behind()
    doubtful = session.unproved
    late = Subscription(watch_spec("late"))
    late.cursor.delivered(110)
    late.confirmed, late.cluster_id = True, CLUSTER
    session.adopt(late)
    receive(session, created(1))
    assert session.unproved == [watch, late]
    assert session.prove(100, doubtful) == []
    assert session.unproved == [late]
    assert late.state is State.RESUMING


def test_a_request_too_large_is_that_of_a_large_creation() -> None:
    session = connected_session()
    large = "b" * (LARGE_REQUEST + 1)
    for key in ("a", large, "c"):
        session.open(watch_spec(key))
    error = RpcError(StatusCode.RESOURCE_EXHAUSTED, "larger than max")
    # Creations that were not sent or are small are not refused.
    assert session.refuse_largest(error) == []
    session.requests()
    (delivery,) = session.refuse_largest(error)
    assert delivery.subscription.spec.key == large.encode()
    session.disconnect()
    assert session.refuse_largest(error) == []


def test_ids_that_the_server_makes_up_are_bounded() -> None:
    session = connected_session()
    live(session, 0)
    for watch_id in range(1, MAX_UNKNOWN_IDS + 1):
        receive(session, events(watch_id, 11))
    with pytest.raises(StreamLost, match="not assigned"):
        receive(session, events(MAX_UNKNOWN_IDS + 1, 11))


def test_abandoned_creations_are_counted_until_their_replies_come() -> None:
    session = connected_session()
    for _ in range(3):
        session.close(session.open(watch_spec("a")))
    session.open(watch_spec("b"))
    assert (session.unanswered, session.abandoned) == (4, 3)
    receive(session, created(0), created(1))
    assert (session.unanswered, session.abandoned) == (2, 1)
    session.disconnect()
    assert (session.unanswered, session.abandoned) == (0, 0)


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
    deliveries = session.fail_all(error)
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
    # The creation (revision 10) has not moved the first, but has set the second.
    session.disconnect()
    session.connect()
    assert sent(session) == [
        ("create", b"past", 5),
        ("create", b"now", 11),
        ("create", b"unconfirmed", 0),
    ]
    receive(session, created(0), created(1), events(0, 5, 6), events(1, 30))
    assert (past.cursor.next_revision, now.cursor.next_revision) == (7, 31)
    # Repeated events are dropped, whether all of a response or some.
    (delivery,) = receive(session, events(0, 6, 7), events(1, 30))
    assert revisions(delivery) == [7]
