"""The order in which endpoints are tried, as a state machine."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.unit.test_rotation import NAME, A, B, C, D, E, F
from trio_etcd_watch._endpoints import Endpoint, SrvName
from trio_etcd_watch._rotation import Rotation


class RotationMachine(RuleBasedStateMachine):
    """Each endpoint has its turn, and removed ones are forgotten, whatever happens."""

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
    def forget(self) -> None:
        self.rotation.forget(NAME)
        self.targets = []

    @rule(
        endpoint=st.sampled_from([A, B, C, D, E, F]), served=st.sampled_from([1, 5, 90])
    )
    def lose(self, endpoint: Endpoint, served: int) -> None:
        self.rotation.lost(endpoint, served)

    @invariant()
    def each_is_known(self) -> None:
        known = {endpoint for endpoint, _ in self.rotation.known()}
        assert known == {A, B, *self.members, *self.targets}
        assert self.rotation._worked.keys() <= known
        assert len(self.rotation._waiting) <= 12

    def teardown(self) -> None:
        # A round that begins now tries each of them, and ends.
        seen: set[Endpoint | SrvName] = set()
        for _ in range(40):
            seen.add(self.rotation.take())
        assert seen >= {A, B, NAME, *self.members}


RotationMachine.TestCase.settings = settings(max_examples=50, deadline=None)
TestRotation = RotationMachine.TestCase
