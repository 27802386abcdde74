"""The register of watches, and what it counts for the tasks of a stream."""

from __future__ import annotations

import pytest

from tests.support.replies import (
    NOW,
    canceled,
    connected_session,
    created,
    events,
    live,
    receive,
    sent,
)
from trio_etcd_watch import RpcError
from trio_etcd_watch._grpc.status import StatusCode, StreamLost
from trio_etcd_watch._requests import watch_spec
from trio_etcd_watch._session import Session
from trio_etcd_watch._subscription import State, Subscription


def register(session: Session) -> tuple[list[Subscription], bool]:
    return list(session.registered), session.is_empty


def has_requests(session: Session) -> bool:
    return session.has_requests


def test_a_watch_is_registered_until_its_user_closes_it() -> None:
    session = connected_session()
    assert register(session) == ([], True)
    first, second = live(session, 0, "a"), session.open(watch_spec("b"))
    assert register(session) == ([first, second], False)
    # The server ends the first: its user has still to get the error.
    receive(session, canceled(0))
    assert register(session) == ([first, second], False)
    assert session.subscriptions == [second]
    session.close(second)
    assert register(session) == ([first], False)
    session.close(first)
    assert register(session) == ([], True)


def test_answers_are_counted_over_all_streams() -> None:
    session = connected_session()
    assert (session.answered, session.unanswered) == (0, 0)
    for key in "ab":
        session.open(watch_spec(key))
    assert (session.answered, session.unanswered) == (0, 2)
    receive(session, created(0))
    assert (session.answered, session.unanswered) == (1, 1)
    session.disconnect()
    session.connect()
    assert (session.answered, session.unanswered) == (1, 2)


def test_a_request_for_progress_is_something_to_send() -> None:
    session = connected_session()
    assert not has_requests(session)
    session.request_progress()
    assert has_requests(session)
    assert sent(session) == [("progress", b"", 0)]
    assert not has_requests(session)
    session.open(watch_spec("a"))
    assert has_requests(session)
    session.requests()
    session.disconnect()
    session.request_progress()
    assert not has_requests(session)


def test_a_loss_is_noted_with_its_first_time_and_its_last_reason() -> None:
    session = connected_session()
    alive, ended = live(session, 0), live(session, 1)
    parked = live(session, 2, max_buffered_events=1)
    receive(session, events(2, 11, 12), canceled(1))
    assert parked.state is State.PARKED
    session.disconnect()
    session.note_loss("first", 5.0)
    session.note_loss("second", 6.0)
    assert (alive.last_loss, alive.lost_at) == ("second", 5.0)
    # A parked watch needs no stream.
    assert (parked.last_loss, parked.lost_at) == ("second", None)
    assert (ended.last_loss, ended.lost_at) == (None, None)


def test_a_watch_that_is_confirmed_again_has_its_stream() -> None:
    session = connected_session()
    watch = live(session, 0)
    session.disconnect()
    session.note_loss("cut", 5.0)
    session.connect()
    lost_at = [watch.lost_at]
    assert receive(session, created(0)) == []
    lost_at.append(watch.lost_at)
    assert lost_at == [5.0, None]


def suspects_of(session: Session) -> int:
    """Return how many watches fail if the server refuses the stream."""
    return len(session.refuse(RpcError(StatusCode.INTERNAL, "refused")))


def test_a_refused_stream_is_blamed_on_a_creation_that_was_sent() -> None:
    session = connected_session()
    session.open(watch_spec("a"))
    # It has not been sent.
    assert suspects_of(session) == 0
    session = connected_session()
    session.open(watch_spec("a"))
    session.requests()
    session.open(watch_spec("b"))
    assert suspects_of(session) == 1


def test_what_was_not_sent_is_forgotten_with_its_stream() -> None:
    session = connected_session()
    session.open(watch_spec("a"))
    session.disconnect()
    session.connect()
    session.open(watch_spec("b"))
    assert suspects_of(session) == 0


def test_ten_thousand_unknown_ids_are_borne_on_each_stream() -> None:
    session = connected_session()
    for _ in range(2):
        for watch_id in range(1, 10_001):
            receive(session, events(watch_id, 11))
        with pytest.raises(StreamLost, match="not assigned"):
            receive(session, events(0, 11))
        session.disconnect()
        session.connect()


def test_a_moved_watch_keeps_the_time_of_its_loss() -> None:
    for lost_at, expected in ((None, NOW), (5.0, 5.0)):
        session = connected_session()
        subscription = session.open(watch_spec("a"))
        subscription.lost_at = lost_at
        session._expel(subscription, NOW)
        assert subscription.lost_at == expected
        assert (subscription.state, session.is_empty) == (State.RESUMING, True)
        assert session.expelled() == [subscription]
        assert session.expelled() == []
