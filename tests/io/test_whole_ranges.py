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


async def limits_after(
    *answers: Answer, channel: Callable[[str], Channel] = Channel
) -> list[int]:
    """Return how many keys the reads of a range ask for after these answers.

    The first one is the answer to Status.
    """
    member = Member(answers[0])
    member.answers = list(reversed(answers))
    async with (
        serve_tcp(member.serve) as endpoint,
        open_watcher(channel(endpoint)) as watcher,
    ):
        with trio.fail_after(LIMIT):
            assert list(await watcher.snapshot("a", prefix=True)) == [b"a"]
    # A member that does not tell the size is not left for that.
    assert member.connections == 1 + (len(answers) > 1 or answers[0] is close)
    status_request, *reads = member.requests
    assert status_request == b""
    return [pb.RangeRequest.FromString(read).limit for read in reads]


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
    assert await limits_after(database_of(size)) == [limit]


async def test_a_page_is_not_to_be_larger_than_a_message_may_be() -> None:
    def channel(endpoint: str) -> Channel:
        return Channel(endpoint, max_message_size=100_000)

    fits, does_not = database_of(100_000), database_of(100_001)
    assert await limits_after(fits, channel=channel) == [MAX_KEYS]
    assert await limits_after(does_not, channel=channel) == [FIRST_PAGE]


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
    limits = await limits_after(database_of(1), answer)
    assert limits == [MAX_KEYS, FIRST_PAGE]


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

    def channel(endpoint: str) -> Channel:
        return Channel(endpoint, max_message_size=1_500)

    assert await limits_after(first, channel=channel) == [FIRST_PAGE]


@pytest.mark.parametrize(
    "answer",
    [
        status(StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max"),
        messages(bytes(2_000)),
    ],
)
async def test_a_whole_range_that_is_too_large_is_read_in_pages(answer: Answer) -> None:
    member = Member(database_of(1))
    member.answers.insert(0, answer)
    async with serve_tcp(member.serve) as endpoint:
        channel = Channel(endpoint, max_message_size=1_500)
        async with open_watcher(channel) as watcher:
            with trio.fail_after(LIMIT):
                assert list(await watcher.snapshot("a", prefix=True)) == [b"a"]
    limits = [pb.RangeRequest.FromString(read).limit for read in member.requests[1:]]
    assert limits == [MAX_KEYS, FIRST_PAGE]


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
