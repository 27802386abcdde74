"""The state machine of the replica passes, and detects every broken rule.

`REPLICA_PROFILE=replica-thorough` makes it run for minutes; give pytest
`-o faulthandler_timeout=0` with it.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.mutations import Mutation, source_of
from tests.machine.replica_machine import ReplicaMachine
from tests.machine.replica_mutations import MUTATIONS, Core, mutated

settings.register_profile(
    "replica",
    max_examples=300,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "replica-thorough", settings.get_profile("replica"), max_examples=20_000
)

TestReplica = ReplicaMachine.TestCase
TestReplica.settings = settings.get_profile(
    os.environ.get("REPLICA_PROFILE", "replica")
)


def run_machine(core: Core, examples: int) -> None:
    @seed(0)
    class Machine(ReplicaMachine):
        pass

    Machine.core = core
    run_state_machine_as_test(
        Machine,
        settings=settings(
            settings.get_profile("replica"),
            max_examples=examples,
            database=None,
            # The first failure is enough, so it is not shrunk.
            phases=[Phase.generate],
            report_multiple_bugs=False,
        ),
    )


def test_the_replica_unchanged_passes() -> None:
    with mutated(None) as core:
        run_machine(core, examples=100)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_mutation_is_caught(mutation: Mutation) -> None:
    source = source_of(mutation.module)
    assert mutation.apply(source) != source
    with mutated(mutation) as core, pytest.raises(AssertionError):
        run_machine(core, examples=5_000)
