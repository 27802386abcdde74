"""The messages of a call, delivered in steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest

from trio_etcd_watch._grpc.messages import Inbound, Oversized
from trio_etcd_watch._grpc.status import StreamLost
from trio_etcd_watch._grpc.steps import Steps

Messages = list[bytes | Oversized]


def make(deliver: Callable[[Messages], Iterable[None] | None]) -> tuple[Inbound, Steps]:
    inbound = Inbound(100)
    return inbound, Steps(inbound, deliver)


def test_a_receiver_without_steps_takes_all_at_once() -> None:
    taken: list[Messages] = []
    inbound, steps = make(taken.append)
    assert not steps.take()
    inbound.messages = [b"1", b"2"]
    assert not steps.take()
    assert taken == [[b"1", b"2"]]
    assert inbound.messages == []


def test_each_step_is_made_once_and_in_order() -> None:
    made: Messages = []

    def deliver(messages: Messages) -> Iterator[None]:
        for message in messages:
            made.append(message)
            yield

    inbound, steps = make(deliver)
    inbound.messages = [b"1", b"2"]
    assert steps.take()
    assert made == [b"1"]
    # What comes meanwhile is after the rest.
    inbound.messages = [b"3"]
    assert [steps.take() for _ in range(3)] == [True, True, False]
    assert made == [b"1", b"2", b"3"]


def test_an_error_ends_the_delivery() -> None:
    def deliver(messages: Messages) -> Iterator[None]:
        yield
        raise StreamLost("that is no message")

    inbound, steps = make(deliver)
    inbound.messages = [b"1"]
    assert steps.take()
    with pytest.raises(StreamLost, match="that is no message"):
        steps.take()
    assert not steps.take()


def test_a_step_within_a_step_makes_none() -> None:
    within: list[bool] = []

    def deliver(messages: Messages) -> Iterator[None]:
        within.append(steps.take())
        yield

    inbound, steps = make(deliver)
    inbound.messages = [b"1"]
    assert steps.take()
    assert not steps.take()
    assert within == [False]
