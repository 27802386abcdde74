"""The possible answers to a read, and their effects."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import h2.events
import pytest
import trio

from tests.support.peer import CLUSTER_ID, GRPC, Peer, grpc_message, pieces, serve_tcp
from trio_etcd_watch import (
    AuthenticationError,
    Channel,
    PermissionDeniedError,
    RpcError,
    StatusCode,
    WatchError,
    _reads,
    open_watcher,
)
from trio_etcd_watch._connector import Connector
from trio_etcd_watch._outage import LineBudget
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._snapshot import Range, count_request
from trio_etcd_watch._verdicts import MAX_REFUSED_TOKENS

LIMIT = 20.0

Answer = Callable[[Peer, int], Awaitable[None]]

RESPONSE = pb.RangeResponse(
    header=pb.ResponseHeader(cluster_id=CLUSTER_ID, revision=7),
    kvs=[pb.KeyValue(key=b"a", value=bytes(1_000), mod_revision=7, version=1)],
    count=1,
).SerializeToString()


async def right(peer: Peer, stream_id: int) -> None:
    await peer.headers(stream_id, GRPC)
    await peer.messages(stream_id, RESPONSE)
    await peer.status(stream_id)


def status(code: StatusCode, message: str = "") -> Answer:
    async def answer(peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, GRPC)
        await peer.status(stream_id, code, message)

    return answer


def messages(*payloads: bytes) -> Answer:
    async def answer(peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, GRPC)
        await peer.messages(stream_id, *payloads)
        await peer.status(stream_id)

    return answer


async def reset(peer: Peer, stream_id: int) -> None:
    await peer.headers(stream_id, GRPC)
    await peer.reset(stream_id)


async def close(_peer: Peer, _stream_id: int) -> None:
    raise trio.BrokenResourceError("its end closes the connection")


async def silence(peer: Peer, stream_id: int) -> None:
    await peer.headers(stream_id, GRPC)


async def trickle(peer: Peer, stream_id: int) -> None:
    await peer.headers(stream_id, GRPC)
    for piece in pieces(grpc_message(RESPONSE), 100):
        await trio.sleep(_reads.SILENCE)
        await peer.data(stream_id, piece)
    await peer.status(stream_id)


class Member:
    """Answers its first call as the test says, and the others rightly as reads.

    Attributes:
        requests: what came, in order.
        paths: the methods that were called, in order.
    """

    def __init__(self, first: Answer) -> None:
        self.answers = [first]
        self.connections = 0
        self.requests: list[bytes] = []
        self.paths: list[str] = []

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        peer = Peer(stream)
        async with trio.open_nursery() as nursery:

            async def serve_calls() -> None:
                while True:
                    request = await peer.next(h2.events.RequestReceived)
                    stream_id = request.stream_id
                    self.paths.append(dict(request.headers)[":path"])
                    self.requests.append(await peer.message(stream_id))
                    await (self.answers.pop() if self.answers else right)(
                        peer, stream_id
                    )

            nursery.start_soon(serve_calls)
            await peer.run()
            nursery.cancel_scope.cancel(reason="the client closed")


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(status(StatusCode.UNAVAILABLE, "etcdserver: leader changed")),
        pytest.param(status(StatusCode.UNAVAILABLE, "etcdserver: no leader")),
        pytest.param(status(StatusCode.UNKNOWN, "raft proposal dropped")),
        pytest.param(status(StatusCode.DEADLINE_EXCEEDED)),
        pytest.param(
            status(StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
        ),
        pytest.param(status(StatusCode.RESOURCE_EXHAUSTED, "rate limit exceeded")),
        pytest.param(
            status(
                StatusCode.FAILED_PRECONDITION,
                "etcdserver: rpc not supported for learner",
            )
        ),
        pytest.param(status(StatusCode.UNIMPLEMENTED)),
        pytest.param(status(StatusCode.INTERNAL)),
        pytest.param(status(StatusCode.OK), id="no message"),
        pytest.param(messages(RESPONSE, RESPONSE), id="two messages"),
        pytest.param(messages(b"\xff"), id="nonsense"),
        pytest.param(reset, id="reset"),
        pytest.param(close, id="closed"),
        pytest.param(silence, id="silence"),
    ],
)
async def test_another_try_mends_it(
    first: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if first is silence:
        monkeypatch.setattr(_reads, "SILENCE", 0.25)
    member = Member(first)
    async with serve_tcp(member.serve) as endpoint, open_watcher(endpoint) as watcher:
        with trio.fail_after(LIMIT):
            snapshot = await watcher.snapshot("a")
    assert (list(snapshot), snapshot.revision) == ([b"a"], 7)
    # On another connection, which in a cluster would go to another member.
    assert member.connections == 2


async def test_a_slow_answer_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reads, "SILENCE", 0.1)
    member = Member(trickle)
    async with serve_tcp(member.serve) as endpoint, open_watcher(endpoint) as watcher:
        with trio.fail_after(LIMIT):
            await watcher.snapshot("a")
    assert member.connections == 1


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (status(StatusCode.INVALID_ARGUMENT, "etcdserver: nonsense"), RpcError),
        (status(StatusCode.PERMISSION_DENIED, "permission"), PermissionDeniedError),
        (
            status(StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty"),
            PermissionDeniedError,
        ),
    ],
)
async def test_the_servers_own_refusal_is_final(
    first: Answer, error: type[WatchError]
) -> None:
    member = Member(first)
    async with serve_tcp(member.serve) as endpoint, open_watcher(endpoint) as watcher:
        with trio.fail_after(LIMIT), pytest.raises(error):
            await watcher.snapshot("a")
        assert (await watcher.snapshot("a")).revision == 7
    assert member.connections == 1


async def test_an_outage_of_reads_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    member = Member(status(StatusCode.UNAVAILABLE, "etcdserver: leader changed"))
    async with serve_tcp(member.serve) as endpoint, open_watcher(endpoint) as watcher:
        with trio.fail_after(LIMIT):
            await watcher.snapshot("a")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "no answer to a read: the server answered" in lines[0]
    assert "leader changed" in lines[0]
    assert "answer to a read resumed after 1 tries" in lines[1]


class Guarded:
    """Refuses its first tokens, each once this many reads came with it.

    Attributes:
        given: how many tokens there were.
    """

    def __init__(self, refused: int, together: int) -> None:
        self.given = 0
        self._refused = [f"token {number}" for number in range(refused)]
        self._together = together
        self._arrived: Counter[str] = Counter()
        self._all_here = {token: trio.Event() for token in self._refused}

    async def token(self) -> str:
        self.given += 1
        return f"token {self.given - 1}"

    async def serve(self, stream: trio.abc.Stream) -> None:
        peer = Peer(stream)
        async with trio.open_nursery() as nursery:

            async def answer(stream_id: int, token: str) -> None:
                await peer.message(stream_id)
                if token not in self._refused:
                    await right(peer, stream_id)
                    return
                self._arrived[token] += 1
                if self._arrived[token] == self._together:
                    self._all_here[token].set()
                await self._all_here[token].wait()
                message = "etcdserver: invalid auth token"
                await status(StatusCode.UNAUTHENTICATED, message)(peer, stream_id)

            async def accept() -> None:
                while True:
                    request = await peer.next(h2.events.RequestReceived)
                    token = dict(request.headers)["token"]
                    nursery.start_soon(answer, request.stream_id, token)

            nursery.start_soon(accept)
            await peer.run()
            nursery.cancel_scope.cancel(reason="the client closed")


async def read_together(member: Guarded, reads: int) -> list[object]:
    """Return what this many reads of one user return or raise."""
    outcomes: list[object] = []

    async def read(reads: _reads.Reads) -> None:
        request = count_request(Range(b"a", b""))
        try:
            outcomes.append(await reads.ask(request, lambda reply: reply))
        except AuthenticationError as exc:
            outcomes.append(exc.message)

    async with serve_tcp(member.serve) as endpoint, trio.open_nursery() as serving:
        channel = Channel(endpoint, token=member.token)
        user = _reads.Reads(Connector(channel, serving), (), LineBudget(), lambda: None)
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                for _ in range(reads):
                    nursery.start_soon(read, user)
        serving.cancel_scope.cancel(reason="all reads are done")
    return outcomes


@pytest.mark.parametrize("refused", [1, MAX_REFUSED_TOKENS])
async def test_reads_under_way_with_one_refused_token_count_as_one(
    refused: int,
) -> None:
    reads = 2 * MAX_REFUSED_TOKENS
    member = Guarded(refused, reads)
    assert await read_together(member, reads) == [RESPONSE] * reads
    # They share the new tokens.
    assert member.given == refused + 1


async def test_tokens_that_are_refused_one_after_the_other_end_all_reads() -> None:
    reads = 2 * MAX_REFUSED_TOKENS
    member = Guarded(1 + MAX_REFUSED_TOKENS, reads)
    outcomes = await read_together(member, reads)
    assert outcomes == ["etcdserver: invalid auth token"] * reads
    assert member.given == 1 + MAX_REFUSED_TOKENS
