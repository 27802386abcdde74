"""The follower and the mirror with one rule broken, for `test_follower_mutations.py`.

It works as `mutations` does for the session. Each hunk is a rule, a line that occurs
exactly once in its module, and the lines that replace it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.machine.follower_cluster import Core
from tests.machine.follower_hunks import FOLLOWER
from tests.machine.mirror_hunks import MIRROR
from tests.machine.mutations import Mutation, mutated_modules
from trio_etcd_watch import _follower, _mirror

SHARED = (
    "_backoff",
    "_changes",
    "_errors",
    "_face",
    "_log",
    "_mapping",
    "_outage",
    "_reads",
    "_replica",
    "_responses",
    "_snapshot",
    "_views",
    "_watch",
)

MUTABLE = ("_follower", "_mirror")

REAL = Core(_follower.Follower, _mirror.open_mirror)


@contextmanager
def mutated(mutation: Mutation | None) -> Iterator[Core]:
    """Yield the core with this mutation, or, for None, loaded likewise but unchanged."""
    with mutated_modules(mutation, shared=SHARED, mutable=MUTABLE) as modules:
        follower, mirror = modules
        yield Core(follower.Follower, mirror.open_mirror)


def parse(module: str, hunks: str) -> Iterator[Mutation]:
    """Yield the mutations that hunks describe: a rule, a `-` line and `+` lines."""
    for hunk in hunks.strip("\n").split("\n\n"):
        rule, old, *new = hunk.split("\n")
        assert old[0] == "-"
        assert all(line[0] == "+" for line in new)
        indent = len(old[1:]) - len(old[1:].lstrip())
        # The first line gets the indentation of the one that it replaces.
        text = "\n".join(line[1:] for line in new)[indent:]
        yield Mutation(rule, module, indent, old[1:].strip(), text)


MUTATIONS = (*parse("_follower", FOLLOWER), *parse("_mirror", MIRROR))
