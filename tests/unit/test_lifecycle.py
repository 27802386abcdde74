"""How the watches of one stream begin and end: what a reply says, and what it costs."""

from __future__ import annotations

import pytest

from tests.machine.model import INVALID_TOKEN, NO_ID
from tests.support.replies import (
    canceled,
    connected_session,
    created,
    events,
    live,
    receive,
    refused,
    sent,
)
from trio_etcd_watch import PermissionDeniedError, RpcError, WatchResponse
from trio_etcd_watch._grpc.status import StatusCode
from trio_etcd_watch._requests import mirror_spec, watch_spec
from trio_etcd_watch._session import Session
from trio_etcd_watch._subscription import State, Subscription

LARGE = 256 * 1024
"""Bytes of a key that every server takes, unless its limit was lowered."""


def resume(session: Session) -> None:
    session.disconnect()
    session.note_loss("cut", 5.0)
    session.connect()


@pytest.mark.parametrize(
    ("key", "range_end", "fails"),
    [
        ("k" * LARGE, None, False),
        ("k" * (LARGE + 1), None, True),
        ("k", "l" * (LARGE - 1), False),
        ("k", "l" * LARGE, True),
    ],
    ids=["key", "larger key", "range end", "larger range end"],
)
def test_a_creation_of_a_quarter_of_a_mebibyte_is_not_large(
    key: str, range_end: str | None, fails: bool
) -> None:
    session = connected_session()
    subscription = session.open(watch_spec(key, range_end=range_end))
    session.requests()
    error = RpcError(StatusCode.RESOURCE_EXHAUSTED, "larger than max")
    failed = [each.subscription for each in session.refuse_largest(error)]
    assert failed == [subscription] * fails


def test_an_id_that_is_assigned_again_is_canceled_again() -> None:
    session = connected_session()
    for _ in range(2):
        session.close(live(session, 0))
        assert sent(session) == [("cancel", 0, 0)]
        assert receive(session, canceled(0)) == []


def test_only_a_mirror_is_told_of_later_creations() -> None:
    session = connected_session()
    mirror = session.open(mirror_spec(b"m", b"n", 11))
    session.open(watch_spec("w", start_revision=11))
    assert len(receive(session, created(0), created(1))) == 2
    for revision in (12, 13):
        resume(session)
        replies = [created(each, revision=revision) for each in range(2)]
        (delivery,) = receive(session, *replies)
        assert delivery.subscription is mirror
        assert isinstance(delivery.item, WatchResponse)
        assert delivery.item.created
        assert (delivery.header_revision, delivery.next_revision) == (revision, 11)


def behind() -> tuple[Session, Subscription]:
    """Return a mirror's watch that is resumed, and has got events of revision 30."""
    session = connected_session()
    subscription = session.open(mirror_spec(b"m", b"n", 11))
    receive(session, created(0), events(0, 30))
    resume(session)
    session.requests()
    return session, subscription


def test_a_member_that_is_behind_ends_no_loss_and_confirms_nothing() -> None:
    session, subscription = behind()
    assert receive(session, created(0, revision=29)) == []
    assert session.unproved == [subscription]
    assert subscription.lost_at == 5.0
    session.prove(30, session.unproved)
    assert len(receive(session, created(1, revision=30))) == 1
    assert subscription.lost_at is None


def test_a_watch_that_moved_to_a_member_that_is_behind_is_not_confirmed() -> None:
    session = connected_session(can_authenticate=True)
    watch = live(session, 0)
    receive(session, events(0, 30))
    receive(session, canceled(0, INVALID_TOKEN))
    assert session.expelled() == [watch]
    other = connected_session(can_authenticate=True)
    other.adopt(watch)
    assert receive(other, created(0, revision=29)) == []
    assert other.unproved == [watch]


def test_a_proof_that_comes_after_its_stream_creates_nothing_twice() -> None:
    session, subscription = behind()
    receive(session, created(0, revision=29))
    doubtful = session.unproved
    resume(session)
    assert session.unproved == []
    assert sent(session) == [("create", b"m", 31)]
    assert session.prove(30, doubtful) == []
    assert sent(session) == []
    assert subscription.state is State.CREATING


def test_a_header_that_a_proxy_made_up_shows_no_member_behind() -> None:
    session, subscription = behind()
    assert len(receive(session, created(0, 0, revision=0))) == 1
    assert (session.unproved, subscription.state) == ([], State.LIVE)
    assert sent(session) == []


@pytest.mark.parametrize("can_authenticate", [False, True])
def test_who_gave_no_credentials_is_told_so(can_authenticate: bool) -> None:
    session = connected_session(can_authenticate=can_authenticate, has_new_token=True)
    session.open(watch_spec("k"))
    (delivery,) = receive(session, refused(NO_ID))
    assert isinstance(delivery.item, PermissionDeniedError)
    told = "neither credentials nor a token" in str(delivery.item)
    assert told is not can_authenticate
