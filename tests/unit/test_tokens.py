"""What a refused token means: who needs another one, and how often it is tried."""

from __future__ import annotations

import math

import pytest

from trio_etcd_watch._backoff import MAX_DELAY
from trio_etcd_watch._grpc.status import Status, StatusCode
from trio_etcd_watch._tokens import Refusal, StreamTokens, WatchTokens
from trio_etcd_watch._verdicts import MAX_REFUSED_TOKENS

INVALID = Status(StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token")
DENIED = Status(StatusCode.UNKNOWN, "etcdserver: permission denied")
OTHER = Status(StatusCode.UNKNOWN, "etcdserver: duplicate watch ID provided")


def refuse(
    tokens: StreamTokens, watch: WatchTokens, status: Status, now: float = 0.0
) -> Refusal:
    """Refuse a watch, by a server that calls an expired token a denied permission."""
    return tokens.watch_refused(
        watch, status, now, denied=status is DENIED, is_precise=False
    )


def test_a_stream_has_limited_tries_until_one_works() -> None:
    tokens = StreamTokens(can_renew=True)
    for _ in range(2):
        tries = [tokens.stream_refused() for _ in range(MAX_REFUSED_TOKENS + 1)]
        assert tries == [True] * MAX_REFUSED_TOKENS + [False]
        tokens.worked()
    assert not StreamTokens().stream_refused()


def test_streams_that_are_refused_together_have_their_own_tries() -> None:
    streams = [StreamTokens(can_renew=True) for _ in range(3)]
    for _ in range(MAX_REFUSED_TOKENS):
        assert [stream.stream_refused() for stream in streams] == [True] * 3
    streams[0].worked()
    assert [stream.stream_refused() for stream in streams] == [True, False, False]


def test_a_watch_has_limited_tries_on_all_streams_together() -> None:
    watch, neighbour = WatchTokens(), WatchTokens()
    for _ in range(MAX_REFUSED_TOKENS):
        stream = StreamTokens(can_renew=True)
        assert refuse(stream, watch, INVALID) is Refusal.RENEW
    stream = StreamTokens(can_renew=True)
    assert refuse(stream, watch, INVALID) is Refusal.UNAUTHENTICATED
    # These tries count neither for its neighbour nor for the stream.
    assert refuse(stream, neighbour, INVALID) is Refusal.RENEW
    assert (neighbour.refused, neighbour.expulsions) == (1, 1)
    assert stream.stream_refused()


def test_without_another_token_the_first_refusal_is_the_last() -> None:
    watch = WatchTokens()
    assert refuse(StreamTokens(), watch, INVALID) is Refusal.UNAUTHENTICATED
    assert refuse(StreamTokens(), watch, DENIED) is Refusal.OTHER
    assert watch == WatchTokens()


def test_what_is_not_about_the_token() -> None:
    watch = WatchTokens()
    assert refuse(StreamTokens(can_renew=True), watch, OTHER) is Refusal.OTHER
    assert watch == WatchTokens()


@pytest.mark.parametrize(
    ("age", "refusal"),
    [
        (math.inf, Refusal.RENEW),
        (2.0, Refusal.RENEW),
        (1.9, Refusal.OTHER),
        (0.0, Refusal.OTHER),
    ],
)
def test_denied_is_denied_where_the_token_is_new(age: float, refusal: Refusal) -> None:
    tokens = StreamTokens(can_renew=True)
    tokens.opening(100.0 - age)
    assert refuse(tokens, WatchTokens(), DENIED, now=100.0) is refusal


def test_a_server_that_distinguishes_the_reasons_is_believed() -> None:
    tokens, watch = StreamTokens(can_renew=True), WatchTokens()
    refusal = tokens.watch_refused(watch, DENIED, 0.0, denied=True, is_precise=True)
    assert (refusal, watch) == (Refusal.OTHER, WatchTokens())


def test_a_user_denied_with_every_token_is_denied() -> None:
    watch = WatchTokens(refused=MAX_REFUSED_TOKENS)
    tokens = StreamTokens(can_renew=True)
    assert refuse(tokens, watch, DENIED) is Refusal.OTHER


def test_a_watch_that_is_given_up_again_and_again_pauses() -> None:
    pauses = [WatchTokens(expulsions=count).pause for count in (1, 2, 3, 100)]
    assert pauses == [0.0, 0.05, 0.1, MAX_DELAY]
