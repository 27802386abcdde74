"""Each rule has one name, which the docs, the code, a model and a mutation cite."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.machine import follower_mutations, mutations, replica_mutations

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/guarantees.md").read_text()
MODELS = (
    "session_machine",
    "replica_machine",
    "follower_scenarios",
    "mirror_scenarios",
    "proof_scenarios",
)
"""The modules that assert the rules, and fail where one is broken."""
MUTATIONS = (
    *mutations.MUTATIONS,
    *replica_mutations.MUTATIONS,
    *follower_mutations.MUTATIONS,
)


def section(title: str) -> str:
    _, _, rest = PAGE.partition(f"\n## {title}\n")
    assert rest
    return rest.partition("\n## ")[0]


def names_in(table: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


NAMES = names_in(PAGE)
"""The names of all guarantees and rules."""
RULES = [
    "exact_start",
    *names_in(section("How a watch resumes")),
    *names_in(section("How a stream is shared")),
    *names_in(section("What a mirror gives you")),
    *names_in(section("How a mirror is kept right")),
]
"""The rules that sans-IO code and the models must cite."""


def words(paths: Iterable[Path]) -> set[str]:
    return {word for path in paths for word in re.findall(r"\b\w+\b", path.read_text())}


CITED_IN_CODE = words((ROOT / "trio_etcd_watch").rglob("*.py"))
CITED_IN_MODELS = words(ROOT / f"tests/machine/{name}.py" for name in MODELS)
MUTATED = {mutation.rule.partition(":")[0] for mutation in MUTATIONS}


def test_a_name_is_that_of_one_rule() -> None:
    assert len(RULES) > 40
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("rule", RULES)
def test_code_a_model_and_a_mutation_cite_it(rule: str) -> None:
    assert rule in CITED_IN_CODE
    assert rule in CITED_IN_MODELS
    assert rule in MUTATED


def test_what_a_mutation_breaks_is_listed() -> None:
    assert MUTATED - set(NAMES) == set()
