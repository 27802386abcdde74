"""The state of one watch: what its statistics say, and how often it is tried again."""

from __future__ import annotations

from typing import get_args

from tests.support.replies import (
    canceled,
    changes,
    connected_session,
    created,
    events,
    live,
    progress,
    receive,
    revisions,
)
from trio_etcd_watch import Watch, WatchResponse, WatchState, WatchStatistics
from trio_etcd_watch._face import construct
from trio_etcd_watch._inbox import Inbox
from trio_etcd_watch._requests import watch_spec
from trio_etcd_watch._session import Session
from trio_etcd_watch._subscription import Subscription


def resuming(session: Session) -> Subscription:
    subscription = live(session, 0)
    session.disconnect()
    return subscription


def creating(session: Session) -> Subscription:
    return session.open(watch_spec("k"))


def parked(session: Session) -> Subscription:
    subscription = live(session, 0, max_buffered_events=1)
    receive(session, events(0, 11, 12))
    return subscription


def ended(session: Session) -> Subscription:
    subscription = live(session, 0)
    receive(session, canceled(0))
    return subscription


def statistics(subscription: Subscription) -> WatchStatistics:
    return construct(Watch, Inbox(subscription)).statistics()


def test_states_have_the_names_that_users_compare_them_with() -> None:
    brought = (creating, lambda session: live(session, 0), parked, resuming, ended)
    names = [statistics(bring(connected_session())).state for bring in brought]
    assert names == ["creating", "live", "parked", "resuming", "ended"]
    assert set(names) == set(get_args(WatchState))


def test_a_new_watch_has_received_nothing_and_lost_nothing() -> None:
    new = WatchStatistics(
        state="resuming",
        events_received=0,
        events_delivered=0,
        unread_events=0,
        lag=0,
        last_loss=None,
        disconnected_since=None,
    )
    assert statistics(Subscription(watch_spec("k", start_revision=11))) == new


def test_what_is_no_response_has_no_events_and_no_header() -> None:
    session = connected_session()
    live(session, 0)
    hidden, error = receive(session, progress(0, 20), canceled(0))
    for delivery in (hidden, error):
        assert not isinstance(delivery.item, WatchResponse)
        assert (delivery.events, delivery.size, delivery.header_revision) == (0, 0, 0)


def test_first_events_without_prev_kv_come_after_three_more_tries() -> None:
    session = connected_session()
    live(session, 0, prev_kv=True)
    for watch_id in range(3):
        assert receive(session, changes(watch_id, 12, prev_kv=False)) == []
        receive(session, created(watch_id + 1))
    (delivery,) = receive(session, changes(3, 12, prev_kv=False))
    assert revisions(delivery) == [12]
