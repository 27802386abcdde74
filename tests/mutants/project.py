"""The modules that are mutated, and the tests that should detect it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.mutants import survivors
from tests.mutants.operators import Mutant, mutants_of

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Project:
    """A package and its tests.

    Attributes:
        copied: the files and folders that its tests need, with the package itself.
        tests: for each module, the test files that should detect its mutants, the
            fastest first. None of them may read the source of the module, which would
            detect every change.
        environment: for some modules, the environment variables of their tests.
        listing: the file that lists the mutants that change nothing.
        margin: the time limit of a test on a mutant, in seconds, on top of three times
            its time on the unchanged module.
    """

    root: Path
    package: str
    copied: tuple[str, ...]
    tests: Mapping[str, tuple[str, ...]]
    listing: Path
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    margin: float = 5.0

    def file(self, module: str) -> Path:
        """Return the path of a module below the root."""
        return Path(self.package, *module.split(".")).with_suffix(".py")

    def mutants(self, module: str) -> list[Mutant]:
        """Return all mutants of a module."""
        return mutants_of(module, (self.root / self.file(module)).read_bytes())

    def listed(self) -> list[survivors.Survivor]:
        """Return the list of mutants that change nothing."""
        return survivors.listed(self.listing)

    def copy_to(self, folder: Path) -> None:
        """Copy what the tests need, without bytecode."""
        for name in self.copied:
            if (self.root / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
                shutil.copytree(self.root / name, folder / name, ignore=ignored)
            else:
                shutil.copy2(self.root / name, folder / name)


@contextmanager
def mutated(file: Path, mutant: Mutant) -> Iterator[None]:
    """Replace a module and its bytecode by a mutant; restore both at the end."""
    source = file.read_bytes()
    cached = list(file.parent.glob(f"__pycache__/{file.stem}.*.pyc"))
    kept = {each: each.with_name(f"{each.name}.kept") for each in (file, *cached)}
    for each, aside in kept.items():
        each.rename(aside)
    try:
        file.write_bytes(mutant.apply(source))
        yield
    finally:
        # Renaming keeps the time of the source, so the bytecode stays valid.
        for each, aside in kept.items():
            aside.replace(each)


PURE = {"TRIO_ETCD_WATCH_PURE": "1"}


def unit(*names: str) -> tuple[str, ...]:
    """Return the paths of unit tests."""
    return tuple(f"tests/unit/test_{name}.py" for name in names)


SESSION = (
    *unit("session", "session_bounds", "session_edges", "batches"),
    "tests/machine/test_session_machine.py",
)
REPLICA = (*unit("replica"), "tests/machine/test_replica_machine.py")
TESTS = {
    "_arguments": unit("watch_arguments", "channel"),
    "_backoff": unit("backoff"),
    "_batches": (*unit("batches"), *SESSION),
    "_chain": unit("chain", "replica"),
    "_changes": unit("changes"),
    "_cli.arguments": unit("arguments", "connecting", "docs_reference"),
    "_cli.bookmark": unit("bookmark"),
    "_cli.failures": unit("failures"),
    "_cli.printing": unit("printing"),
    "_cli.progress": (*unit("progress"), "tests/io/test_output.py"),
    "_columns": unit("columns", "values", "decode"),
    "_creations": (*unit("roster"), *SESSION),
    "_cursor": (*unit("cursor"), *SESSION),
    "_endpoints": unit("channel", "srv", "rotation"),
    "_errors": unit("errors", "values", "responses", "verdicts", "session"),
    "_face": unit("face"),
    "_fragments": (*unit("fragments"), *SESSION),
    "_grpc.frames": (
        *unit("frames_edges", "messages", "frames"),
        "tests/io/test_connection.py",
    ),
    "_grpc.messages": unit("messages", "frames"),
    "_grpc.metadata": unit("metadata", "channel"),
    "_grpc.reading": unit("reading"),
    "_grpc.status": unit("status", "verdicts"),
    "_grpc.steps": unit("steps"),
    "_lifecycle": (*unit("lifecycle", "roster"), *SESSION),
    "_log": unit("log"),
    "_mapping": unit("mapping", "replica", "snapshot"),
    "_members": (*unit("members"), "tests/io/test_following.py"),
    "_outage": unit("outage"),
    "_pages": unit("snapshot", "speedups", "decode"),
    "_parsing": unit("parsing"),
    "_pure": unit("responses", "values", "decode", "columns"),
    "_replica": REPLICA,
    "_requests": unit("watch_arguments", "session"),
    "_responses": unit(
        "responses", "snapshot", "values", "decode", "session", "speedups"
    ),
    "_roster": (*unit("roster", "lifecycle"), *SESSION),
    "_rotation": (
        *unit("rotation", "rotation_machine"),
        "tests/io/test_following_turns.py",
    ),
    "_session": SESSION,
    "_snapshot": (
        *unit("snapshot", "page_requests"),
        "tests/io/test_whole_ranges.py",
    ),
    "_srv": unit("srv"),
    "_statistics": unit("factories"),
    "_subscription": (*unit("subscription", "roster"), *SESSION),
    "_tokens": (*unit("tokens"), *SESSION),
    "_twins": unit("speedups"),
    "_verdicts": (*unit("verdicts"), "tests/io/test_scripted_verdicts.py"),
    "_views": unit("changes", "replica"),
    "testing._factories": unit("factories"),
    "testing._store": unit("store"),
}

OURS = Project(
    root=ROOT,
    package="trio_etcd_watch",
    copied=(
        "trio_etcd_watch",
        "tests",
        "benchmarks",
        "docs",
        "servers",
        "pyproject.toml",
        "README.md",
    ),
    tests=TESTS,
    listing=survivors.FILE,
    # The decoder in C would hide mutants of its twin in Python.
    environment=dict.fromkeys(("_chain", "_columns", "_grpc.messages", "_pure"), PURE),
)
