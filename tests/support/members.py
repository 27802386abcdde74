"""Scripted etcds, whose calls are served or end as the test says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import h2.events
import trio

from tests.support.peer import CLUSTER_ID, GRPC, Peer, watch_response
from trio_etcd_watch import Channel, open_watcher
from trio_etcd_watch._grpc.status import Status
from trio_etcd_watch._pb import watch_pb2 as pb

LIMIT = 20.0
AUTHENTICATE = "/etcdserverpb.Auth/Authenticate"
RANGE = "/etcdserverpb.KV/Range"
MEMBER_LIST = "/etcdserverpb.Cluster/MemberList"

NOTHING = pb.RangeResponse(header=pb.ResponseHeader(cluster_id=CLUSTER_ID, revision=4))
"""The answer to every read of a range: no keys."""


class Member:
    """An etcd that treats its first streams as the test says, and serves later ones.

    Args:
        ends: how the first Watch streams are served, one after the other.
        refusals: by path, the statuses of the first unary calls; later calls succeed.
        urls: the client URLs of the one member in its list of members.

    Attributes:
        connections: how many connections were opened.
        authentications: how many tokens were requested.
        tokens: the token of each Watch stream.
        lists: the requests for the list of members, each with its token.
        list_reply: if set, the bytes to answer these requests with.
        token_reply: if set, the bytes to answer Authenticate with.
        lists_wait: whether requests for the list of members get no answer.
        tokens_wait: what calls of Authenticate after the first wait for.
        refuses_connections: whether new connections are closed at once.
    """

    def __init__(
        self,
        *ends: Callable[[Peer, int], Awaitable[None]],
        refusals: Mapping[str, Sequence[Status]] | None = None,
        urls: Sequence[str] = (),
    ) -> None:
        self.ends = list(ends)
        self.connections = 0
        self.authentications = 0
        self.tokens: list[str | None] = []
        self.urls = urls
        self.lists: list[tuple[pb.MemberListRequest, str | None]] = []
        self.list_reply: bytes | None = None
        self.token_reply: bytes | None = None
        self.lists_wait = False
        self.tokens_wait: trio.Event | None = None
        self.refuses_connections = False
        self._asked = trio.Event()
        self._refusals = {path: list(ends) for path, ends in (refusals or {}).items()}

    async def serve(self, stream: trio.abc.Stream) -> None:
        if self.refuses_connections:
            return
        self.connections += 1
        peer = Peer(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve_calls, peer, nursery)
            await peer.run()
            nursery.cancel_scope.cancel()

    def refuse(self, path: str, *statuses: Status) -> None:
        """Answer the next unary calls of this path with these statuses."""
        self._refusals.setdefault(path, []).extend(statuses)

    async def wait_lists(self, count: int) -> None:
        """Wait until the list of members was requested this many times."""
        while len(self.lists) < count:
            await self._asked.wait()

    async def wait_authentications(self, count: int) -> None:
        """Wait until this many tokens were requested."""
        while self.authentications < count:
            await self._asked.wait()

    async def _serve_calls(self, peer: Peer, nursery: trio.Nursery) -> None:
        while True:
            request = await peer.next(h2.events.RequestReceived)
            stream_id, headers = request.stream_id, dict(request.headers)
            if headers[":path"] == MEMBER_LIST:
                message = await peer.message(stream_id)
                asked = pb.MemberListRequest.FromString(message)
                self.lists.append((asked, headers.get("token")))
                self._asked.set()
                self._asked = trio.Event()
                if not self.lists_wait:
                    await self._reply(peer, stream_id, MEMBER_LIST)
                continue
            if headers[":path"] in (AUTHENTICATE, RANGE):
                await peer.message(stream_id)
                await self._reply(peer, stream_id, headers[":path"])
                continue
            self.tokens.append(headers.get("token"))
            end = self.ends.pop(0) if self.ends else serve_for_ever
            nursery.start_soon(end, peer, stream_id)

    async def _reply(self, peer: Peer, stream_id: int, path: str) -> None:
        await peer.headers(stream_id, GRPC)
        if path == AUTHENTICATE:
            self.authentications += 1
            self._asked.set()
            self._asked = trio.Event()
            if self.tokens_wait is not None and self.authentications > 1:
                await self.tokens_wait.wait()
        if refusals := self._refusals.get(path):
            refusal = refusals.pop(0)
            await peer.status(stream_id, refusal.code, refusal.message)
            return
        if path == MEMBER_LIST:
            reply = self.list_reply or members_at(*self.urls)
        elif path == AUTHENTICATE:
            token = f"token {self.authentications - 1}"
            reply = pb.AuthenticateResponse(token=token).SerializeToString()
            reply = self.token_reply or reply
        else:
            reply = NOTHING.SerializeToString()
        await peer.messages(stream_id, reply)
        await peer.status(stream_id)


def members_at(*urls: str) -> bytes:
    """Return a list of one member, serialized."""
    listed = pb.Member(ID=1, name="m1", clientURLs=urls)
    return pb.MemberListResponse(members=[listed]).SerializeToString()


async def create(peer: Peer, stream_id: int, *, revision: int = 4) -> None:
    """Confirm the watch of a stream."""
    await peer.headers(stream_id, GRPC)
    await peer.message(stream_id)
    await peer.messages(stream_id, watch_response(revision=revision, created=True))


async def serve_one(peer: Peer, stream_id: int) -> None:
    """Confirm the watch of a stream, and send it an event."""
    await create(peer, stream_id)
    await peer.messages(stream_id, watch_response(revision=5, events=[(b"k", 5)]))


async def serve_for_ever(peer: Peer, stream_id: int, *, revision: int = 4) -> None:
    """Confirm every watch, and send each the event at the next revision."""
    await peer.headers(stream_id, GRPC)
    watch_id = 0
    while True:
        request = pb.WatchRequest.FromString(await peer.message(stream_id))
        if request.HasField("create_request"):
            event = (request.create_request.key, revision + 1)
            await peer.messages(
                stream_id,
                watch_response(watch_id, revision=revision, created=True),
                watch_response(watch_id, revision=revision + 1, events=[event]),
            )
            watch_id += 1


def ended(
    code: int, message: str = "", *, created: bool
) -> Callable[[Peer, int], Awaitable[None]]:
    """Return a handler that ends a stream with a status, perhaps after a creation."""

    async def end(peer: Peer, stream_id: int) -> None:
        if created:
            await create(peer, stream_id)
        else:
            await peer.headers(stream_id, GRPC)
        await peer.status(stream_id, code, message)

    return end


async def watch_one(channel: Channel | str) -> int:
    """Watch until the one event that these servers send; return the reconnects."""
    with trio.fail_after(LIMIT):
        async with open_watcher(channel) as watcher:
            async with watcher.watch("k") as watch:
                event = await anext(watch.events())
                assert event.kv.mod_revision == 5
            return watcher.statistics().reconnects
