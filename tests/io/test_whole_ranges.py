"""A range of a small database is read in one page; what comes instead does no harm."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import trio

from tests.io.test_reads import (
    LIMIT,
    Answer,
    Member,
    close,
    messages,
    reset,
    silence,
    status,
)
from tests.support.peer import serve_tcp
from trio_etcd_watch import Channel, StatusCode, _reads, open_watcher
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._snapshot import FIRST_PAGE, MAX_KEYS


def database_of(size: int) -> Answer:
    return messages(pb.StatusResponse(dbSizeInUse=size).SerializeToString())


async def read_after(
    *answers: Answer, channel: Callable[[str], Channel] = Channel
) -> Member:
    """Read a range of a member that gives these answers, the first one to Status."""
    member = Member(answers[0])
    member.answers = list(reversed(answers))
    async with (
        serve_tcp(member.serve) as endpoint,
        open_watcher(channel(endpoint)) as watcher,
    ):
        with trio.fail_after(LIMIT):
            assert list(await watcher.snapshot("a", prefix=True)) == [b"a"]
    return member


def limits(member: Member) -> list[int]:
    """Return how many keys each read has asked for."""
    status_request, *reads = member.requests
    assert status_request == b""
    return [pb.RangeRequest.FromString(read).limit for read in reads]


def small_messages(endpoint: str) -> Channel:
    """Return a channel for messages that are a little larger than the right answer."""
    return Channel(endpoint, max_message_size=1_500)


@pytest.mark.parametrize(
    ("size", "limit"),
    [
        (1, MAX_KEYS),
        (_reads.WHOLE_SIZE, MAX_KEYS),
        (_reads.WHOLE_SIZE + 1, FIRST_PAGE),
        # Servers before 3.4 do not say.
        (0, FIRST_PAGE),
        (-1, FIRST_PAGE),
    ],
)
async def test_a_small_database_is_read_at_once(size: int, limit: int) -> None:
    member = await read_after(database_of(size))
    assert (limits(member), member.connections) == ([limit], 1)
    assert member.paths == [
        "/etcdserverpb.Maintenance/Status",
        "/etcdserverpb.KV/Range",
    ]


async def test_a_page_is_not_to_be_larger_than_a_message_may_be() -> None:
    def channel(endpoint: str) -> Channel:
        return Channel(endpoint, max_message_size=100_000)

    for size, limit in ((100_000, MAX_KEYS), (100_001, FIRST_PAGE)):
        member = await read_after(database_of(size), channel=channel)
        assert limits(member) == [limit]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(status(StatusCode.UNAVAILABLE), id="unavailable"),
        pytest.param(messages(b"\xff"), id="nonsense"),
        pytest.param(reset, id="reset"),
        pytest.param(close, id="closed"),
        pytest.param(silence, id="silence"),
    ],
)
async def test_a_whole_range_is_asked_for_once(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is silence:
        monkeypatch.setattr(_reads, "SILENCE", 0.25)
    member = await read_after(database_of(1), answer)
    assert (limits(member), member.connections) == ([MAX_KEYS, FIRST_PAGE], 2)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(status(StatusCode.UNIMPLEMENTED), id="unknown to a proxy"),
        pytest.param(status(StatusCode.PERMISSION_DENIED), id="refused"),
        pytest.param(status(StatusCode.UNAUTHENTICATED), id="an old token"),
        pytest.param(status(StatusCode.UNAVAILABLE), id="unavailable"),
        pytest.param(status(StatusCode.OK), id="no message"),
        pytest.param(messages(b"\xff"), id="nonsense"),
        pytest.param(messages(bytes(2_000)), id="too large"),
        pytest.param(reset, id="reset"),
        pytest.param(close, id="closed"),
        pytest.param(silence, id="silence"),
    ],
)
async def test_a_member_that_does_not_tell_its_size_is_read_all_the_same(
    first: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if first is silence:
        monkeypatch.setattr(_reads, "SILENCE", 0.25)
    member = await read_after(first, channel=small_messages)
    assert limits(member) == [FIRST_PAGE]
    # The member is not left for that.
    assert member.connections == 1 + (first is close)


@pytest.mark.parametrize(
    "answer",
    [
        status(StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max"),
        messages(bytes(2_000)),
    ],
)
async def test_a_whole_range_that_is_too_large_is_read_in_pages(answer: Answer) -> None:
    member = await read_after(database_of(1), answer, channel=small_messages)
    assert (limits(member), member.connections) == ([MAX_KEYS, FIRST_PAGE], 1)


async def test_an_outage_ends_with_a_read_and_not_with_a_size_that_is_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    changed = status(StatusCode.UNAVAILABLE, "etcdserver: leader changed")
    member = Member(changed)
    member.answers.append(changed)

    async def serve(stream: trio.abc.Stream) -> None:
        if member.connections == 0:
            member.connections = 1
            raise trio.BrokenResourceError("its end closes the connection")
        await member.serve(stream)

    async with serve_tcp(serve) as endpoint, open_watcher(endpoint) as watcher:
        with trio.fail_after(LIMIT):
            await watcher.snapshot("a", prefix=True)
    *failed, resumed = [record.getMessage() for record in caplog.records]
    assert all(line.startswith("no answer to a read: ") for line in failed)
    assert "answer to a read resumed after 2 tries" in resumed
