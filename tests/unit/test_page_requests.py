"""What the paged read asks for: how many keys, which ones, and what of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import trio_etcd_watch
from tests.unit.test_snapshot import (
    ALL,
    Server,
    limited,
    read_all,
    snapshot_read,
)
from trio_etcd_watch import KeyValue, _snapshot
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._grpc.status import Status, StatusCode
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._snapshot import (
    PagedRead,
    Reply,
    T,
    page_read,
    put_key_values,
    read_pages,
)

ROOT = Path(__file__).parents[2]

KIB, MIB = 2**10, 2**20

IN_C = trio_etcd_watch.__speedups__


def limit_of(read: PagedRead[KeyValue]) -> int:
    """Return how many keys the next request asks for."""
    return pb.RangeRequest.FromString(read.request()).limit


def limits(server: Server) -> list[int]:
    """Return how many keys each request has asked for."""
    return [asked.limit for asked in server.asked]


def limit_after(first_page: int, size: int) -> int:
    """Return how many keys follow this many of this size, if a million are left."""
    server = Server(first_page + 1, size)
    read = snapshot_read(first_page=first_page)
    reply = pb.RangeResponse.FromString(server(read.request()))
    reply.count = 1_000_000
    read.receive(reply.SerializeToString())
    return limit_of(read)


def refusing(server: Server, size: int) -> Callable[[bytes], Reply]:
    """Return the server as seen through a proxy that refuses larger messages."""

    def answer(request: bytes) -> Reply:
        reply = server(request)
        words = f"trying to send message larger than max ({len(reply)} vs. {size})"
        if len(reply) > size:
            return Status(StatusCode.RESOURCE_EXHAUSTED, words)
        return reply

    return answer


@pytest.mark.parametrize(("count", "pages"), [(1_000, 1), (1_001, 2)])
def test_a_thousand_keys_are_one_page(count: int, pages: int) -> None:
    server = Server(count)
    read_all(PagedRead(ALL, put_key_values), server)
    assert len(server.asked) == pages


def test_all_keys_are_asked_for_with_their_values_and_without_a_filter() -> None:
    asked = pb.RangeRequest.FromString(PagedRead(ALL, put_key_values).request())
    assert (asked.revision, asked.keys_only) == (0, False)
    # For a filter, servers read the whole range again for each page.
    assert asked.min_mod_revision == 0


def test_pages_grow_to_what_a_message_should_have() -> None:
    server = Server(2_000, size=(8 if IN_C else 4) * MIB // 200)
    read = snapshot_read(first_page=1)
    read_all(read, server)
    assert limits(server)[:3] == [1, 100, 199]
    assert set(limits(server)[3:]) == {199}
    assert len(read.data) == 2_000


def test_pages_of_small_values_have_a_bound_in_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_snapshot, "MAX_KEYS", 50)
    server = Server(200, size=1)
    read = snapshot_read(first_page=10)
    read_all(read, server)
    assert limits(server) == [10, 50, 50, 50, 50]
    assert len(read.data) == 200


def test_not_more_is_asked_for_than_is_left() -> None:
    server = Server(50, size=1)
    read_all(snapshot_read(first_page=10), server)
    assert limits(server) == [10, 40]


def test_a_page_is_at_most_a_hundred_times_the_one_before() -> None:
    assert limit_after(first_page=4, size=1) == 400


def test_a_page_has_at_most_a_hundred_thousand_keys() -> None:
    assert limit_after(first_page=2_000, size=1) == 100_000


@pytest.mark.skipif(not IN_C, reason="without speedups: the next test")
def test_a_later_page_aims_at_eight_mebibytes() -> None:
    # With the keys, one less fits.
    assert limit_after(first_page=4, size=32 * KIB) == 8 * MIB // (32 * KIB) - 1


def test_a_later_page_aims_at_four_mebibytes_in_python() -> None:
    """Decoding takes longer there."""
    program = """
from tests.unit.test_page_requests import KIB, limit_after
print(limit_after(first_page=4, size=32 * KIB))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TRIO_ETCD_WATCH_PURE": "1"},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) == 4 * MIB // (32 * KIB) - 1


def test_a_page_that_is_far_too_large_becomes_what_a_page_should_be() -> None:
    read = snapshot_read(first_page=100)
    read.receive(Oversized(100 * MIB, b""))
    assert limit_of(read) == (8 if IN_C else 4)


@pytest.mark.parametrize("through", [limited, refusing])
def test_a_size_that_was_refused_is_not_asked_for_again(
    through: Callable[[Server, int], Callable[[bytes], Reply]],
) -> None:
    server = Server(1_000, size=100)
    read = snapshot_read(first_page=100)
    read_all(read, through(server, 10_000))
    first, *later = limits(server)
    assert first == 100
    # A page of 100 keys is halved, once.
    assert set(later) <= {48, 49, 50}
    assert list(read.data) == sorted(server.keys)


def test_a_refusal_that_names_no_size_halves_the_page() -> None:
    server = Server(60)
    words = "grpc: received message larger than max"
    refused: list[int] = []

    def answer(request: bytes) -> Reply:
        limit = pb.RangeRequest.FromString(request).limit
        if limit > 30:
            refused.append(limit)
            return Status(StatusCode.RESOURCE_EXHAUSTED, words)
        return server(request)

    read = snapshot_read(first_page=100)
    read_all(read, answer)
    # The page after 25 keys is what is left; it is halved again.
    assert (refused, limits(server)) == ([100, 50, 35], [25, 17, 18])
    assert list(read.data) == sorted(server.keys)


def test_keys_that_fit_only_alone_come_one_by_one() -> None:
    server = Server(6, size=50_000)
    read = snapshot_read(first_page=8)
    read_all(read, limited(server, 50_100))
    assert limits(server) == [8, 4, 2, *[1] * 6]
    assert len(read.data) == 6


def test_a_key_may_be_the_first_that_can_follow_another() -> None:
    server = Server(0)
    for key in (b"a", b"a\0", b"a\0\0", b"a\0A"):
        server.put(key, b"")
    read = snapshot_read()
    read_all(read, lambda request: server(one_key(request)))
    assert list(read.data) == sorted(server.keys)
    assert len(server.asked) == 4


def one_key(request: bytes) -> bytes:
    """Return the request with a limit of one key."""
    asked = pb.RangeRequest.FromString(request)
    asked.limit = 1
    return asked.SerializeToString()


def test_a_caller_may_say_how_many_keys_one_request_asks_for() -> None:
    read = snapshot_read(first_page=10)
    assert pb.RangeRequest.FromString(read.request(limit=12)).limit == 12
    assert limit_of(read) == 10


async def test_each_answer_shows_how_many_keys_have_come_and_how_many_there_are() -> (
    None
):
    server = Server(8)
    replies: list[Reply] = [Oversized(1_000, b"")]

    async def ask(
        request: bytes,
        accept: Callable[[Reply], T],
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        return accept(replies.pop() if replies else server(request))

    shown: list[tuple[int, int]] = []
    token = page_read.set(lambda received, count: shown.append((received, count)))
    await read_pages(ask, snapshot_read(first_page=10))
    page_read.reset(token)
    assert shown == [(0, 0), (5, 8), (8, 8)]
