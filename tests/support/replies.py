"""Short forms of a server's messages to a session, and of what the session returns."""

from __future__ import annotations

import math

from tests.machine.model import PERMISSION_DENIED
from tests.machine.session_machine import MAX_MESSAGE_SIZE
from trio_etcd_watch import WatchResponse
from trio_etcd_watch._face import construct
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._pb.watch_pb2 import WatchResponse as RawResponse
from trio_etcd_watch._requests import watch_spec
from trio_etcd_watch._responses import decode
from trio_etcd_watch._session import Session
from trio_etcd_watch._subscription import Delivery, State, Subscription
from trio_etcd_watch._tokens import StreamTokens

CLUSTER = 7
NOW = 100.0


def connected_session(
    *,
    can_authenticate: bool = False,
    has_new_token: bool = False,
    max_message_size: int = MAX_MESSAGE_SIZE,
) -> Session:
    tokens = StreamTokens(can_renew=can_authenticate)
    tokens.opening(NOW if has_new_token else -math.inf)
    session = Session(
        max_message_size=max_message_size,
        tokens=tokens,
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
    max_buffered_bytes: int = 2**20,
) -> Subscription:
    """Return a watch that the server has confirmed at revision 10."""
    spec = watch_spec(
        key,
        prev_kv=prev_kv,
        progress_notify=progress_notify,
        max_buffered_events=max_buffered_events,
        max_buffered_bytes=max_buffered_bytes,
    )
    subscription = session.open(spec)
    receive(session, created(watch_id))
    session.requests()
    assert subscription.state is State.LIVE
    return subscription


def header(revision: int = 10, cluster_id: int = CLUSTER) -> pb.ResponseHeader:
    return pb.ResponseHeader(cluster_id=cluster_id, revision=revision)


def created(
    watch_id: int, cluster_id: int = CLUSTER, *, revision: int = 10
) -> RawResponse:
    return RawResponse(
        header=header(revision, cluster_id), watch_id=watch_id, created=True
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
        delivery
        for response in responses
        for delivery in session.receive_messages([response.SerializeToString()], NOW)
    ]


def response_of(raw: RawResponse) -> WatchResponse:
    """The user's side of it."""
    return construct(WatchResponse, decode(raw.SerializeToString()))


def sent(session: Session) -> list[tuple[str, bytes | int, int]]:
    """Return the sent ("create", key, start), ("cancel", id, 0), ("progress", …)."""
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


def receive_read(session: Session, *responses: RawResponse) -> list[Delivery]:
    """What one read brings."""
    messages = [response.SerializeToString() for response in responses]
    return list(session.receive_messages(messages, NOW))


def receive_oversized(
    session: Session, watch_id: int, size: int = 2 * MAX_MESSAGE_SIZE
) -> list[Delivery]:
    head = pb.WatchResponse(header=header(), watch_id=watch_id).SerializeToString()
    return list(session.receive_messages([Oversized(size, head)], NOW))


def changes(watch_id: int, *revisions: int, prev_kv: bool) -> RawResponse:
    """Return puts of existing keys."""
    response = events(watch_id, *revisions)
    for event in response.events:
        event.kv.create_revision = 1
        if prev_kv:
            event.prev_kv.mod_revision = 1
    return response
