"""Whose turn it is."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trio_etcd_watch._endpoints import Endpoint, SrvName
from trio_etcd_watch._rotation import Rotation

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


class RotationMachine(RuleBasedStateMachine):
    """Whatever happens: each has its turn, and nothing that is gone is held."""

    def __init__(self) -> None:
        super().__init__()
        self.rotation = Rotation([A, NAME, B])
        self.members: list[Endpoint] = []
        self.targets: list[Endpoint] = []

    @rule(members=st.lists(st.sampled_from([A, C, D, E, F]), unique=True))
    def join(self, members: list[Endpoint]) -> None:
        self.rotation.join(members)
        self.members = members

    @rule(
        found=st.lists(st.sampled_from([C, D, E]), unique=True, min_size=1),
        works=st.booleans(),
    )
    def take(self, found: list[Endpoint], works: bool) -> None:
        turn = self.rotation.take()
        if isinstance(turn, SrvName):
            self.rotation.expand(turn, found)
            self.targets = found
            turn = self.rotation.take()
            assert turn == found[0]
        assert isinstance(turn, Endpoint)
        (self.rotation.worked if works else self.rotation.failed)(turn)

    @rule()
    def lose(self) -> None:
        self.rotation.forget(NAME)
        self.targets = []

    @invariant()
    def each_is_known(self) -> None:
        known = {endpoint for endpoint, _ in self.rotation.known()}
        assert known == {A, B, *self.members, *self.targets}
        assert self.rotation._failed <= known

    def teardown(self) -> None:
        # A round from now on has them all, and ends.
        seen: set[Endpoint | SrvName] = set()
        for _ in range(40):
            seen.add(self.rotation.take())
        assert seen >= {A, B, NAME, *self.members}


RotationMachine.TestCase.settings = settings(max_examples=50, deadline=None)
TestRotation = RotationMachine.TestCase
