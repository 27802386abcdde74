"""What each row of the table of verdicts does to a watch, end to end.

There are two members. The first one sends the status once, in answer to one of the
calls that the row is about.
"""

from __future__ import annotations

import functools
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import pytest
import trio

from tests.support.members import (
    AUTHENTICATE,
    LIMIT,
    RANGE,
    Member,
    create,
    ended,
    serve_for_ever,
)
from tests.support.peer import GRPC, Peer, serve_tcp, watch_response
from trio_etcd_watch import (
    AuthenticationError,
    Channel,
    CompactedError,
    Credentials,
    PermissionDeniedError,
    RpcError,
    StatusCode,
    Watch,
    WatchCanceledError,
    Watcher,
    WatchError,
    open_watcher,
)
from trio_etcd_watch._grpc.status import Status
from trio_etcd_watch._lifecycle import LARGE_REQUEST
from trio_etcd_watch._verdicts import (
    TABLE,
    Call,
    Row,
    Verdict,
)

End: TypeAlias = Callable[[Peer, int], Awaitable[None]]
"""Handles a scripted stream."""

ROOT = Credentials("root", "secret")

NO_ROW = "etcdserver: words of which no row knows"

WORDS = {
    "": [NO_ROW],
    "^etcdserver: no leader$": ["etcdserver: no leader"],
    "^etcdserver: authentication is not enabled$": [
        "etcdserver: authentication is not enabled"
    ],
    "^etcdserver: invalid auth token$|^etcdserver: revision of auth store is old$": [
        "etcdserver: invalid auth token",
        "etcdserver: revision of auth store is old",
    ],
    "^etcdserver: user name is empty$": ["etcdserver: user name is empty"],
    "received message larger than max": [
        "grpc: received message larger than max (3145800 vs. 2097152)"
    ],
    "(?i)^(?!etcdserver:).*(larger than|too large|exceeds max)": [
        "grpc: trying to send message larger than max (9 vs. 5)",
        "CLIENT: Received message larger than max (9 vs. 5)",
        "Error, decoded message length too large: found 9 bytes, the limit is: 5 bytes",
        "gRPC message exceeds maximum size 5: 9",
    ],
    "^etcdserver: (request is too large|duplicate key given)": [
        "etcdserver: request is too large",
        "etcdserver: duplicate key given in txn request",
    ],
    "^etcdserver: (user|role|password|root user)": [
        "etcdserver: user name not found",
        "etcdserver: role name not found",
        "etcdserver: password was given, but password not expected",
        "etcdserver: root user does not exist",
    ],
    "^etcdserver: mvcc: ": ["etcdserver: mvcc: required revision has been compacted"],
}
"""By the message of each row, real messages of servers that it matches."""


def decided_by(call: Call, status: Status) -> Row | None:
    return next((row for row in TABLE if row.fits(call, status)), None)


def cases(call: Call) -> list[tuple[Status, Verdict]]:
    """Return statuses of these calls, at least one for each row that decides any."""
    found = [(Status(StatusCode.NOT_FOUND, NO_ROW), Verdict.ELSEWHERE)]
    for row in TABLE:
        # A message that means the same with every code is sent with an unlikely one.
        code = StatusCode.ALREADY_EXISTS if row.code is None else row.code
        for message in WORDS.get(row.message, []):
            status = Status(code, message)
            if decided_by(call, status) is row:
                found.append((status, row.verdict))
    return found if call is not Call.CREATION else found[1:]


CASES = {call: cases(call) for call in Call.ANY}


@pytest.mark.parametrize("row", TABLE)
def test_each_row_has_a_case_for_each_of_its_calls(row: Row) -> None:
    whatever = Status(StatusCode.UNKNOWN, NO_ROW)
    last_of_creations = decided_by(Call.CREATION, whatever)
    assert last_of_creations is not None
    for call in row.calls:
        if call is Call.CREATION and TABLE.index(row) > TABLE.index(last_of_creations):
            # For creations an earlier row has decided everything.
            continue
        decided = [decided_by(call, status) for status, _ in CASES[call]]
        assert row in decided, f"no words for {row.message!r} in {call}"


def each(call: Call, *verdicts: Verdict) -> pytest.MarkDecorator:
    """Parametrize a test with the cases of these calls, or of these verdicts."""
    chosen = [case for case in CASES[call] if not verdicts or case[1] in verdicts]
    ids = [f"{status.code.name}-{status.message[:40]}" for status, _ in chosen]
    return pytest.mark.parametrize(("status", "verdict"), chosen, ids=ids)


@asynccontextmanager
async def watcher_on(*members: Member) -> AsyncGenerator[Watcher]:
    """Open a watcher that tries the members in this order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "sample", lambda endpoints, count: endpoints)
        async with (
            serve_tcp(members[0].serve) as first,
            serve_tcp(members[-1].serve) as second,
            open_watcher(Channel(first, second, credentials=ROOT)) as watcher,
        ):
            with trio.fail_after(LIMIT):
                yield watcher


async def expect_event(watch: Watch, revision: int = 5) -> None:
    events = (await anext(watch)).events
    assert [event.kv.mod_revision for event in events] == [revision]


def end_second(status: Status) -> End:
    """Confirm one watch, and end the stream when the next is created."""

    async def end(peer: Peer, stream_id: int) -> None:
        await create(peer, stream_id)
        await peer.message(stream_id)
        await peer.status(stream_id, status.code, status.message)

    return end


@each(Call.STREAM)
async def test_status_of_a_stream(status: Status, verdict: Verdict) -> None:
    first, second = Member(end_second(status)), Member()
    async with watcher_on(first, second) as watcher:
        async with watcher.watch("a") as neighbour:
            if verdict in (Verdict.FINAL, Verdict.TOO_LARGE):
                key = "b" * (LARGE_REQUEST + 1 if verdict is Verdict.TOO_LARGE else 1)
                with pytest.raises(RpcError) as caught:
                    async with watcher.watch(key):
                        pytest.fail("entered")
                assert type(caught.value) is RpcError
                assert caught.value.code is status.code
                assert caught.value.message == status.message
            else:
                async with watcher.watch("b") as watch:
                    await expect_event(watch)
            await expect_event(neighbour)
            assert watcher.statistics().reconnects == 1
    moved = verdict in (Verdict.ELSEWHERE, Verdict.NO_LEADER)
    assert (first.connections, second.connections) == (1, int(moved))
    if verdict is Verdict.NEW_TOKEN:
        assert first.tokens == ["token 0", "token 1"]
    elif not moved:
        assert first.tokens == ["token 0", "token 0"]


def refuse_second(reason: str) -> End:
    """Confirm one watch, refuse the next, and serve the rest."""

    async def end(peer: Peer, stream_id: int) -> None:
        await create(peer, stream_id)
        await peer.message(stream_id)
        refusal = watch_response(-1, created=True, canceled=True, cancel_reason=reason)
        event = watch_response(revision=5, events=[(b"a", 5)])
        await peer.messages(stream_id, refusal, event)

    return end


def go_error(status: Status) -> str:
    """Return a status as Go formats it, and etcd puts it into cancel_reason."""
    code = status.code.name.title().replace("_", "")
    return f"rpc error: code = {code} desc = {status.message}"


@each(Call.CREATION)
async def test_reason_of_a_refused_creation(status: Status, verdict: Verdict) -> None:
    member = Member(refuse_second(go_error(status)))
    async with watcher_on(member) as watcher:
        async with watcher.watch("a") as neighbour:
            if verdict is Verdict.NEW_TOKEN:
                async with watcher.watch("b") as watch:
                    await expect_event(watch)
                assert member.tokens == ["token 0", "token 1"]
            else:
                assert verdict is Verdict.FINAL
                with pytest.raises(WatchCanceledError, match=status.message):
                    async with watcher.watch("b"):
                        pytest.fail("entered")
                assert member.tokens == ["token 0"]
            await expect_event(neighbour)
            assert watcher.statistics().reconnects == 0


@each(Call.AUTHENTICATE)
async def test_status_of_authenticate(status: Status, verdict: Verdict) -> None:
    first, second = Member(refusals={AUTHENTICATE: [status]}), Member()
    async with watcher_on(first, second) as watcher:
        if verdict is Verdict.FINAL:
            with pytest.raises(AuthenticationError) as caught:
                async with watcher.watch("a"):
                    pytest.fail("entered")
            assert caught.value.code is status.code
            assert caught.value.message == status.message
        else:
            async with watcher.watch("a") as watch:
                await expect_event(watch)
    # A token needs a quorum, which another member may have: retries also go there.
    stays = verdict in (Verdict.FINAL, Verdict.NO_AUTH)
    assert (first.connections, second.connections) == (1, int(not stays))
    assert first.tokens == ([None] if verdict is Verdict.NO_AUTH else [])
    assert second.tokens == ([] if stays else ["token 0"])


@each(Call.READ)
async def test_status_of_a_read(status: Status, verdict: Verdict) -> None:
    """A watch asks a member that is behind it how far the cluster is.

    Whatever the answer, the same is then asked of the next member.
    """

    async def advance(peer: Peer, stream_id: int) -> None:
        await create(peer, stream_id, revision=10)
        await peer.status(stream_id, StatusCode.UNAVAILABLE)

    first = Member(advance, refusals={RANGE: [status]})
    second = Member(functools.partial(serve_for_ever, revision=10))
    async with watcher_on(first, second) as watcher, watcher.watch("a") as watch:
        await expect_event(watch, 11)
        assert watcher.statistics().reconnects == 2
        assert status.message in str(watcher.statistics().last_loss)
    assert (first.connections, second.connections) == (1, 1)
    assert first.tokens == ["token 0", "token 0"]
    assert second.authentications == (verdict is Verdict.NEW_TOKEN)


@each(Call.READ)
async def test_status_of_a_snapshot(status: Status, verdict: Verdict) -> None:
    first, second = Member(refusals={RANGE: [status]}), Member()
    async with watcher_on(first, second) as watcher:
        if verdict is Verdict.FINAL:
            with pytest.raises(WatchError) as caught:
                await watcher.snapshot("a", revision=4)
            compacted = isinstance(caught.value, CompactedError)
            assert compacted == ("compacted" in status.message)
            assert compacted or status.message in str(caught.value)
        else:
            assert (await watcher.snapshot("a", revision=4)).revision == 4
    # A read needs a quorum, which another member may have: retries also go there.
    stays = verdict in (Verdict.FINAL, Verdict.NEW_TOKEN, Verdict.TOO_LARGE)
    assert (first.connections, second.connections) == (1, int(not stays))
    assert first.authentications == 1 + (verdict is Verdict.NEW_TOKEN)


def refused(reason: str) -> End:
    """Refuse the watch of a stream."""

    async def end(peer: Peer, stream_id: int) -> None:
        await peer.headers(stream_id, GRPC)
        await peer.message(stream_id)
        refusal = watch_response(-1, created=True, canceled=True, cancel_reason=reason)
        await peer.messages(stream_id, refusal)

    return end


REFUSED_TOKENS = [
    *(
        ended(status.code, status.message, created=False)
        for status, verdict in CASES[Call.STREAM]
        if verdict is Verdict.NEW_TOKEN
    ),
    *(
        refused(go_error(status))
        for status, verdict in CASES[Call.CREATION]
        if verdict is Verdict.NEW_TOKEN
    ),
]


@pytest.mark.parametrize("end", REFUSED_TOKENS)
async def test_tokens_are_refused_again_and_again(end: End) -> None:
    member = Member(*[end] * 10)
    async with watcher_on(member) as watcher:
        with pytest.raises((AuthenticationError, PermissionDeniedError)):
            async with watcher.watch("a"):
                pytest.fail("entered")
    assert len(member.tokens) == 4
