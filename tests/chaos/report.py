"""The options of a run of chaos, and its report."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Options:
    """What to run.

    Attributes:
        seconds: how long faults are caused.
        storm: if not 0, how many watches are parked and woken, instead of a few of
            every kind.
        parks: how often each of these is parked.
        compact: whether history is compacted now and then; None leaves it to chance.
    """

    seed: int
    seconds: float
    cluster: bool = False
    binary: str | os.PathLike[str] | None = None
    storm: int = 0
    parks: int = 10
    compact: bool | None = None


@dataclass(slots=True)
class MirrorReport:
    """The results of the mirrors.

    Attributes:
        opened: how many mirrors were opened.
        by_history: how often one was compared with the history of the run.
        by_range: how many of these were also compared with a Range at the same
            revision.
        compacted: how often that revision could no longer be read.
        unanswered: how often no server answered the Range.
        updates: how many updates consumers got, each compared with the mirror.
        syncs: how often `sync()` returned.
        waits: how often `wait_for()` returned.
        proofs: how often `verify()` returned.
        resyncs: how often a range was read again, by reason.
        silent: how a mirror differed until it was repaired, on a server that is known
            to lose events silently: etcd #17529.
    """

    opened: int = 0
    by_history: int = 0
    by_range: int = 0
    compacted: int = 0
    unanswered: int = 0
    updates: int = 0
    syncs: int = 0
    waits: int = 0
    proofs: int = 0
    resyncs: Counter[str] = field(default_factory=Counter)
    silent: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.opened} mirrors: {self.by_history} comparisons with the history, "
            f"{self.by_range} of them with a Range too ({self.compacted} more were "
            f"compacted, {self.unanswered} unanswered), {self.updates} updates, "
            f"{self.syncs} sync(), {self.waits} wait_for(), {self.proofs} verify(), "
            f"{self.resyncs.total()} resyncs ({listed(self.resyncs)}), "
            f"{len(self.silent)} differed by etcd #17529"
        )


@dataclass(slots=True)
class Report:
    """The results of a run."""

    options: Options
    seconds: float = 0.0
    written: int = 0
    delivered: int = 0
    sessions: int = 0
    parked: int = 0
    compacted: int = 0
    reconnects: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    """Violations that are due to a known bug of the server: etcd #17529."""
    mirrors: MirrorReport = field(default_factory=MirrorReport)

    def __str__(self) -> str:
        options = self.options
        return (
            f"seed {options.seed}, {'cluster' if options.cluster else 'one server'}: "
            f"{self.seconds:.0f} s, {self.written} events written, "
            f"{self.delivered} delivered in {self.sessions} sessions, "
            f"parked {self.parked} times, {self.compacted} ends by compaction, "
            f"{self.faults.total()} faults ({listed(self.faults)}), "
            f"{self.reconnects} reconnects, "
            f"{len(self.violations)} violations, {len(self.silent)} of etcd #17529; "
            f"{self.mirrors}"
        )


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{kind} {n}" for kind, n in sorted(counts.items()))
