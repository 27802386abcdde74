"""The state machine of `session_machine` detects every broken rule.

A test that cannot fail proves nothing. Therefore the machine runs each mutation of the
session, from a fixed seed, and must fail; the unmutated session, loaded in the same way,
must pass.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.mutations import MUTATIONS, Core, Mutation, mutated, source_of
from tests.machine.session_machine import SessionMachine
from trio_etcd_watch._grpc.status import StreamLost

EXAMPLES = 5_000
"""The most examples for one mutation; nearly every one fails within 100."""


def run_machine(core: Core, examples: int) -> None:
    @seed(0)
    class Machine(SessionMachine):
        pass

    Machine.core = core
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            database=None,
            # The first failure is enough, so it is not shrunk.
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_line_that_is_gone_or_there_twice_is_refused() -> None:
    mutation = Mutation("rule", "module", 4, "old", "new")
    assert mutation.apply("if it:\n    old\nold\n") == "if it:\n    new\nold\n"
    for source in ("old\n", "    old \n", "    old\n    old\n"):
        with pytest.raises(ValueError, match="times 'old'"):
            mutation.apply(source)


def test_the_session_unchanged_passes() -> None:
    with mutated(None) as core:
        run_machine(core, examples=300)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_mutation_is_caught(mutation: Mutation) -> None:
    source = source_of(mutation.module)
    assert mutation.apply(source) != source
    with mutated(mutation) as core:
        # An assertion of the machine, or an inconsistent table of the session; any
        # other exception would be a mistake in the mutation.
        with pytest.raises((AssertionError, KeyError, StreamLost)):
            run_machine(core, EXAMPLES)
