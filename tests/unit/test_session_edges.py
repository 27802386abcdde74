"""The session by itself: odd replies, and the edges of its rules."""

from __future__ import annotations

import pytest

from tests.machine.model import INVALID_TOKEN, NO_ID
from tests.machine.session_machine import MAX_MESSAGE_SIZE
from tests.support.replies import (
    NOW,
    canceled,
    connected_session,
    created,
    events,
    live,
    progress,
    receive,
    receive_oversized,
    receive_read,
    refused,
    revisions,
    sent,
)
from trio_etcd_watch import AuthenticationError, CompactedError, RpcError
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._pb.watch_pb2 import WatchResponse as RawResponse
from trio_etcd_watch._requests import watch_spec
from trio_etcd_watch._session import Session
from trio_etcd_watch._subscription import State


def test_a_compaction_ends_a_watch_even_if_it_is_not_called_a_cancel() -> None:
    session = connected_session()
    watch = live(session, 0)
    (delivery,) = receive(session, RawResponse(watch_id=0, compact_revision=20))
    assert isinstance(delivery.item, CompactedError)
    assert delivery.item.compact_revision == 20
    assert watch.state is State.ENDED
    assert sent(session) == [("cancel", 0, 0)]


def test_progress_under_an_unknown_id_is_no_answer_to_a_request() -> None:
    session = connected_session()
    live(session, 0)
    assert receive(session, progress(6, 50)) == []
    assert sent(session) == [("cancel", 6, 0)]


def test_events_under_the_id_of_answers_are_of_no_watch() -> None:
    session = connected_session()
    live(session, 0)
    assert receive(session, events(NO_ID, 50)) == []
    assert sent(session) == [("cancel", NO_ID, 0)]


def test_a_batch_under_an_unknown_id_is_canceled_once() -> None:
    session = connected_session()
    assert receive_read(session, events(6, 11), events(6, 12)) == []
    assert sent(session) == [("cancel", 6, 0)]


def test_what_is_too_large_under_an_unknown_id_is_canceled_once() -> None:
    session = connected_session()
    neighbour = live(session, 0)
    assert receive_oversized(session, 6) == receive_oversized(session, 6) == []
    assert sent(session) == [("cancel", 6, 0)]
    assert neighbour.state is State.LIVE


def test_an_answer_may_have_overtaken_the_events_of_its_own_revision() -> None:
    session = connected_session()
    watch = session.open(watch_spec("k", start_revision=10))
    # It was created at revision 10, the first that it is to get, and is answered there.
    receive(session, created(0, revision=10))
    assert receive(session, progress(NO_ID, 10)) == []
    receive(session, events(0, 10))
    (delivery,) = receive(session, progress(NO_ID, 10))
    assert delivery.subscription is watch


def test_a_session_without_tokens_cannot_renew_any() -> None:
    session = Session(max_message_size=MAX_MESSAGE_SIZE)
    session.connect()
    session.open(watch_spec("k"))
    (delivery,) = receive(session, refused(NO_ID, INVALID_TOKEN))
    assert isinstance(delivery.item, AuthenticationError)


@pytest.mark.parametrize(
    "served", [events(0, 11), progress(0, 20)], ids=["events", "progress"]
)
def test_once_a_watch_was_served_its_next_token_is_tried_without_a_pause(
    served: RawResponse,
) -> None:
    session = connected_session(can_authenticate=True)
    watch = live(session, 0)
    pauses = []
    for responses in ([], [], [served]):
        receive(session, *responses)
        assert receive(session, canceled(0, INVALID_TOKEN)) == []
        assert session.expelled() == [watch]
        pauses.append(watch.tokens.pause)
        session = connected_session(can_authenticate=True)
        session.adopt(watch)
        receive(session, created(0))
    assert pauses[1] > pauses[0] == pauses[2] == 0


def test_received_bytes_are_those_of_all_messages_that_are_not_skipped() -> None:
    session = connected_session()
    assert session.bytes_received == 0
    session.open(watch_spec("k"))
    read = [each.SerializeToString() for each in (created(0), events(0, 11))]
    skipped = Oversized(2 * MAX_MESSAGE_SIZE, b"")
    list(session.receive_messages([*read, skipped], NOW))
    assert session.bytes_received == sum(map(len, read))


def test_a_batch_of_exactly_the_bytes_that_fit_is_one_response() -> None:
    session = connected_session()
    batch = events(0, 11), events(0, 12)
    size = sum(message.ByteSize() for message in batch)
    watch = live(session, 0, max_buffered_bytes=size)
    (delivery,) = receive_read(session, *batch)
    assert revisions(delivery) == [11, 12]
    assert (watch.state, watch.unread_bytes) == (State.LIVE, size)


def test_endless_empty_fragments_end() -> None:
    session = connected_session()
    watch = live(session, 0)
    empty = events(0, fragment=True)
    # etcd's fragments have 2 MiB each, so a response in as many would have 128 GiB.
    assert receive_read(session, *[empty] * 65_536) == []
    (delivery,) = receive(session, empty)
    assert isinstance(delivery.item, RpcError)
    assert watch.state is State.ENDED
    assert sent(session) == [("cancel", 0, 0)]
