"""The scenarios detect every broken rule of the follower and the mirror."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from unittest.mock import patch

import pytest
import trio
from trio.testing import MockClock

from tests.machine import follower_scenarios, mirror_scenarios, proof_scenarios
from tests.machine.follower_cluster import Cluster, Core
from tests.machine.follower_mutations import MUTATIONS, REAL, mutated, parse
from tests.machine.follower_scenarios import Scenario
from tests.machine.mutations import Mutation, source_of

SCENARIOS = (
    *follower_scenarios.SCENARIOS,
    *proof_scenarios.SCENARIOS,
    *mirror_scenarios.SCENARIOS,
)

LIMIT = 1000.0
"""Virtual seconds after which a scenario counts as stuck."""

MISTAKES = (AttributeError, ImportError, NameError, SyntaxError, TypeError)
"""Errors that a mutation which is not valid code raises, rather than a broken rule."""


def run(scenario: Scenario, core: Core) -> None:
    async def main() -> None:
        cluster = Cluster()
        logger = logging.getLogger("trio_etcd_watch")
        logger.addHandler(cluster)
        try:
            with trio.fail_after(LIMIT):
                await scenario(core, cluster)
        finally:
            logger.removeHandler(cluster)

    # Each pause has its maximum length.
    with patch.object(random, "random", lambda: 1.0):
        trio.run(main, clock=MockClock(autojump_threshold=0))


def leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for each in exc.exceptions:
            yield from leaves(each)
    else:
        yield exc


def failure(scenario: Scenario, core: Core) -> BaseException | None:
    """Return what a scenario raises; a mutant may raise anything, also Cancelled."""
    try:
        run(scenario, core)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # returned to the caller
        return exc
    return None


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_scenario(scenario: Scenario) -> None:
    run(scenario, REAL)


def test_a_hunk_is_a_mutation() -> None:
    hunks = "\nrule\n-    old\n+    if it:\n+        new\n\nother\n-old\n+new\n"
    assert list(parse("module", hunks)) == [
        Mutation("rule", "module", 4, "old", "if it:\n        new"),
        Mutation("other", "module", 0, "old", "new"),
    ]


def test_unchanged_all_pass() -> None:
    with mutated(None) as core:
        for scenario in SCENARIOS:
            run(scenario, core)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_mutation_is_caught(mutation: Mutation) -> None:
    source = source_of(mutation.module)
    assert mutation.apply(source) != source
    with mutated(mutation) as core:
        failures = (failure(scenario, core) for scenario in SCENARIOS)
        first = next((each for each in failures if each is not None), None)
    assert first is not None, "no scenario sees it"
    assert not any(isinstance(each, MISTAKES) for each in leaves(first)), repr(first)
