"""The order in which endpoints are tried."""

from __future__ import annotations

from operator import sub

import pytest

from trio_etcd_watch._endpoints import Endpoint, SrvName
from trio_etcd_watch._rotation import LASTING, Rotation

NAME = SrvName("example.com")


def at(host: str) -> Endpoint:
    return Endpoint(host, 2379, "", False)


A, B, C, D, E, F = (at(host) for host in "abcdef")


def turns(rotation: Rotation, count: int) -> list[Endpoint | SrvName]:
    return [rotation.take() for _ in range(count)]


def test_each_in_turn() -> None:
    rotation = Rotation([B, A, C])
    assert turns(rotation, 7) == [B, A, C, B, A, C, B]


def test_without_members_a_failure_changes_no_order() -> None:
    rotation = Rotation([A, B, C])
    rotation.failed(A)
    assert turns(rotation, 6) == [A, B, C, A, B, C]


def test_members_have_their_turn_in_this_round() -> None:
    rotation = Rotation([A, B])
    assert rotation.take() == A
    assert rotation.join([C, D])
    assert turns(rotation, 3) == [B, C, D]
    assert turns(rotation, 4) == [A, B, C, D]


def test_a_name_that_waits_keeps_its_turn_when_members_join() -> None:
    rotation = Rotation([A, NAME])
    assert rotation.take() == A
    rotation.join([C])
    assert turns(rotation, 2) == [NAME, C]


def test_members_that_are_gone_have_no_turn() -> None:
    rotation = Rotation([A])
    rotation.take()
    rotation.join([B, C])
    assert turns(rotation, 3) == [B, C, A]
    rotation.join([C, D])
    assert turns(rotation, 2) == [C, D]
    assert turns(rotation, 3) == [A, C, D]


def test_the_same_members_change_nothing() -> None:
    rotation = Rotation([A])
    rotation.take()
    rotation.join([B, C])
    assert rotation.take() == B
    assert not rotation.join([C, B])
    assert rotation.take() == C


def test_what_was_given_is_never_forgotten() -> None:
    rotation = Rotation([A, B])
    assert rotation.take() == A
    rotation.join([B, C])
    rotation.join([])
    assert turns(rotation, 3) == [B, A, B]
    assert list(rotation.known()) == [(A, "given"), (B, "given")]


def test_with_members_those_that_failed_come_last() -> None:
    rotation = Rotation([A, B])
    rotation.take()
    rotation.join([C, D])
    assert turns(rotation, 3) == [B, C, D]
    for dead in (A, B, C):
        rotation.failed(dead)
    assert turns(rotation, 4) == [D, A, B, C]
    rotation.worked(B)
    assert turns(rotation, 4) == [B, D, A, C]


@pytest.mark.parametrize("given", [(A, NAME), (NAME, A)])
def test_those_that_failed_keep_their_order(
    given: tuple[Endpoint | SrvName, ...],
) -> None:
    rotation = Rotation(given)
    for turn in turns(rotation, 2):
        if turn == NAME:
            rotation.expand(NAME, [C])
            assert rotation.take() == C
    rotation.join([D])
    assert rotation.take() == D
    rotation.failed(A)
    rotation.failed(C)
    assert turns(rotation, 3) == [D, *given]


def test_a_member_that_was_given_has_one_turn() -> None:
    rotation = Rotation([A])
    assert rotation.take() == A
    rotation.join([A, C])
    assert turns(rotation, 3) == [C, A, C]


def test_a_target_that_comes_again_is_not_in_doubt() -> None:
    rotation = Rotation([NAME, A])
    assert rotation.take() == NAME
    rotation.expand(NAME, [C])
    assert rotation.take() == C
    rotation.failed(C)
    rotation.expand(NAME, [D])
    rotation.expand(NAME, [C])
    rotation.join([E])
    assert turns(rotation, 3) == [C, A, E]


def test_a_target_that_fails_when_it_is_gone_is_not_in_doubt() -> None:
    rotation = Rotation([NAME, A])
    assert rotation.take() == NAME
    rotation.expand(NAME, [C])
    assert rotation.take() == C
    rotation.forget(NAME)
    rotation.failed(C)
    rotation.expand(NAME, [C])
    rotation.join([E])
    assert turns(rotation, 3) == [C, A, E]


def test_who_worked_has_its_turn_before_members_that_were_never_tried() -> None:
    """Members may announce addresses that can be reached only from inside."""
    rotation = Rotation([A])
    for _ in range(3):
        assert rotation.take() == A
        rotation.worked(A)
        rotation.join([C, D])
        rotation.lost(A, 61.0)
    assert turns(rotation, 3) == [A, C, D]
    assert turns(rotation, 3) == [A, C, D]


def test_who_is_lost_has_its_turn_behind_others_that_are_not_in_doubt() -> None:
    rotation = Rotation([A, B])
    assert rotation.take() == A
    rotation.worked(A)
    rotation.join([C, D, E])
    for failed in (C, D):
        rotation.failed(failed)
    rotation.worked(D)
    rotation.lost(A, 61.0)
    # B was given, and D has worked; E was never tried, and C has failed.
    assert turns(rotation, 5) == [B, D, A, E, C]


def test_who_is_lost_and_does_not_work_again_leads_to_the_next() -> None:
    rotation = Rotation([A, B])
    assert rotation.take() == A
    rotation.worked(A)
    rotation.join([C, D])
    rotation.lost(A, 61.0)
    for dead in (B, A):
        assert rotation.take() == dead
        rotation.failed(dead)
    assert turns(rotation, 2) == [C, D]
    rotation.worked(C)
    assert turns(rotation, 4) == [C, D, A, B]


@pytest.mark.parametrize("served", [3.1, 60.0])
def test_who_comes_and_goes_leads_to_the_next(served: float) -> None:
    rotation = Rotation([A, B])
    assert rotation.take() == A
    rotation.worked(A)
    rotation.join([C])
    assert rotation.take() == B
    rotation.failed(B)
    tried = []
    for _ in range(20):
        rotation.lost(A, served)
        turn = rotation.take()
        assert isinstance(turn, Endpoint)
        (rotation.worked if turn == A else rotation.failed)(turn)
        tried.append(turn)
    gaps = [i for i, each in enumerate(tried) if each == B]
    assert gaps
    assert max(map(sub, gaps[1:], gaps), default=0) <= 6
    assert C in tried[:5]


def that_came_and_went() -> Rotation:
    """A has had all its other turns; C is a member that was never tried."""
    rotation = Rotation([A])
    assert rotation.take() == A
    rotation.worked(A)
    rotation.join([C])
    for _ in range(3):
        rotation.lost(A, 60.0)
        assert rotation.take() == A
    return rotation


def test_who_comes_and_goes_has_three_more_turns() -> None:
    rotation = that_came_and_went()
    rotation.lost(A, 60.0)
    assert turns(rotation, 2) == [C, A]


def test_who_is_lost_before_any_has_worked_has_three_more_turns() -> None:
    rotation = Rotation([A])
    assert rotation.take() == A
    rotation.join([C])
    for turn in (A, A, A, C):
        rotation.lost(A, 3.1)
        assert rotation.take() == turn


def test_who_lasted_comes_and_goes_no_more() -> None:
    rotation = that_came_and_went()
    for served, turn in ((60.1, A), (60.0, A), (60.0, A), (60.0, C)):
        rotation.lost(A, served)
        assert rotation.take() == turn


def test_each_comes_and_goes_for_itself() -> None:
    rotation = that_came_and_went()
    assert rotation.take() == C
    rotation.worked(C)
    rotation.lost(C, 60.0)
    assert turns(rotation, 2) == [C, A]


def test_a_target_that_is_lost_is_looked_up_again() -> None:
    rotation = Rotation([NAME])
    rotation.take()
    rotation.expand(NAME, [C])
    assert rotation.take() == C
    rotation.worked(C)
    rotation.join([E])
    rotation.lost(C, 61.0)
    assert rotation.take() == NAME
    rotation.expand(NAME, [D])
    assert turns(rotation, 2) == [D, E]


def test_who_works_and_does_not_last_leads_to_the_next() -> None:
    rotation = Rotation([A])
    assert rotation.take() == A
    rotation.worked(A)
    rotation.join([C, D])
    rotation.lost(A, 3.0)
    assert turns(rotation, 3) == [C, D, A]


def test_members_that_join_have_their_turn_before_those_that_failed() -> None:
    rotation = Rotation([A, B])
    for dead in (A, B):
        assert rotation.take() == dead
        rotation.failed(dead)
    assert rotation.take() == A
    rotation.worked(A)
    rotation.join([C])
    assert turns(rotation, 2) == [C, B]


def test_who_is_lost_has_one_turn_and_none_if_it_is_gone() -> None:
    rotation = Rotation([A])
    assert rotation.take() == A
    rotation.worked(A)
    rotation.join([C, D])
    for _ in range(3):
        rotation.lost(A, 61.0)
    assert turns(rotation, 3) == [A, C, D]
    rotation.worked(C)
    rotation.join([D])
    rotation.lost(C, 61.0)
    assert turns(rotation, 3) == [A, D, A]


def test_without_members_who_is_lost_has_its_turn_in_the_next_round() -> None:
    rotation = Rotation([A, B, C])
    assert rotation.take() == A
    rotation.worked(A)
    rotation.lost(A, 61.0)
    assert turns(rotation, 5) == [B, C, A, B, C]


def test_a_name_of_which_one_target_works_is_not_in_doubt() -> None:
    rotation = Rotation([NAME])
    rotation.take()
    rotation.expand(NAME, [C, D])
    assert rotation.take() == C
    rotation.worked(C)
    rotation.join([E])
    rotation.lost(C, 61.0)
    assert turns(rotation, 3) == [D, NAME, E]


def test_a_target_that_is_a_member_too_has_its_turn_as_a_target() -> None:
    rotation = Rotation([NAME])
    rotation.take()
    rotation.expand(NAME, [C, D, E])
    assert rotation.take() == C
    rotation.worked(C)
    rotation.join([C, D, F])
    rotation.lost(C, LASTING + 1)
    # It counts as a member, and before F, which is only that; then it is none any more.
    assert turns(rotation, 1) == [D]
    rotation.join([F])
    assert turns(rotation, 3) == [E, NAME, F]


def test_a_name_stands_for_its_targets_in_their_order() -> None:
    rotation = Rotation([A, NAME, B])
    assert turns(rotation, 2) == [A, NAME]
    rotation.expand(NAME, [D, C])
    assert turns(rotation, 3) == [D, C, B]
    assert turns(rotation, 2) == [A, NAME]


def test_a_name_that_is_not_known_now_stands_for_what_it_stood_for() -> None:
    rotation = Rotation([NAME])
    assert rotation.take() == NAME
    rotation.expand_as_before(NAME)
    assert rotation.take() == NAME
    rotation.expand(NAME, [C, D])
    assert turns(rotation, 3) == [C, D, NAME]
    rotation.expand_as_before(NAME)
    assert turns(rotation, 3) == [C, D, NAME]


def test_a_name_that_is_gone_stands_for_nothing() -> None:
    rotation = Rotation([NAME])
    assert rotation.take() == NAME
    rotation.expand(NAME, [C])
    assert turns(rotation, 2) == [C, NAME]
    rotation.forget(NAME)
    rotation.expand_as_before(NAME)
    assert rotation.take() == NAME
    assert list(rotation.known()) == []


def test_a_name_whose_targets_all_failed_comes_behind_members() -> None:
    rotation = Rotation([NAME])
    rotation.take()
    rotation.expand(NAME, [C, D])
    rotation.join([E])
    assert turns(rotation, 3) == [C, D, E]
    rotation.failed(C)
    assert rotation.take() == NAME
    rotation.expand(NAME, [C, D])
    assert turns(rotation, 3) == [C, D, E]
    rotation.failed(D)
    assert turns(rotation, 2) == [E, NAME]


def test_where_each_is_from() -> None:
    rotation = Rotation([NAME, A])
    rotation.take()
    rotation.expand(NAME, [C])
    rotation.join([A, C, D])
    assert list(rotation.known()) == [(A, "given"), (C, "srv"), (D, "member")]
    assert [rotation.source_of(each) for each in (A, C, D)] == [
        "given",
        "srv",
        "member",
    ]
    rotation.forget(NAME)
    rotation.join([])
    assert rotation.source_of(C) == "srv"
