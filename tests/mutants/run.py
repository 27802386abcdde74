"""Runs the tests of each mutant, in copies of the tree, and reports the results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from tests.mutants import forks, survivors
from tests.mutants.operators import Mutant
from tests.mutants.project import Project, mutated

NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}


class HarnessError(Exception):
    """Tests fail on the unchanged module, or cannot run on a mutant."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of the tests on a mutant: `forks.GREEN` if it survived all of them."""

    mutant: Mutant
    outcome: str
    test: str = ""


class Worker:
    """A copy of the tree, and a process that runs tests in it, one at a time."""

    def __init__(self, project: Project, folder: Path) -> None:
        self._project = project
        self._folder = folder
        self._output = folder / "output.txt"
        # With CI set, Hypothesis draws the same for every mutant, and stores nothing.
        environment = os.environ | {"CI": "true"}
        environment.pop("TRIO_ETCD_WATCH_PURE", None)
        self._process = subprocess.Popen(
            # With -P the program cannot import the files beside it.
            [sys.executable, "-P", str(Path(forks.__file__))],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """Terminate the process."""
        self._process.terminate()
        self._process.communicate()

    def measure(self, module: str, test: str) -> float:
        """Run a test on the unchanged module, writing bytecode; return the seconds.

        Raises:
            HarnessError: the test fails.
        """
        outcome, seconds = self._ask(module, test, limit=600.0, environment={})
        if outcome != forks.GREEN:
            raise HarnessError(f"{module} as it is: {test}\n{self._output.read_text()}")
        return seconds

    def judge(self, mutant: Mutant, limits: Mapping[str, float]) -> Verdict:
        """Run the tests on a mutant until one fails.

        Args:
            limits: the time limit of each test, in seconds.

        Raises:
            HarnessError: the tests cannot be run.
        """
        module = mutant.module
        with mutated(self._folder / self._project.file(module), mutant):
            for test, limit in limits.items():
                outcome, _ = self._ask(module, test, limit, NO_BYTECODE)
                if outcome == forks.BROKEN:
                    raise HarnessError(f"{mutant}\n{self._output.read_text()}")
                if outcome != forks.GREEN:
                    return Verdict(mutant, outcome, test)
        return Verdict(mutant, forks.GREEN)

    def _ask(
        self, module: str, test: str, limit: float, environment: Mapping[str, str]
    ) -> tuple[str, float]:
        request = {
            "module": f"{self._project.package}.{module}",
            "test": test,
            "limit": limit,
            "environment": {
                **self._project.environment.get(module, {}),
                **environment,
            },
            "output": str(self._output),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return answer["outcome"], answer["seconds"]


@contextmanager
def workers(
    project: Project, jobs: int, modules: Iterable[str]
) -> Iterator[tuple[SimpleQueue[Worker], dict[str, dict[str, float]]]]:
    """Yield workers, and the time limit of each test of each module.

    Raises:
        HarnessError: tests fail on the unchanged module.
    """
    with ExitStack() as stack:
        made = SimpleQueue[Worker]()
        parent = Path(stack.enter_context(TemporaryDirectory(prefix="mutants-")))
        first = parent / "0"
        first.mkdir()
        project.copy_to(first)
        worker = Worker(project, first)
        stack.callback(worker.close)
        limits = {
            module: {
                test: 3 * worker.measure(module, test) + project.margin
                for test in project.tests[module]
            }
            for module in modules
        }
        made.put(worker)
        for number in range(1, jobs):
            # The copies have the bytecode that measuring has written.
            shutil.copytree(first, parent / str(number))
            worker = Worker(project, parent / str(number))
            stack.callback(worker.close)
            made.put(worker)
        yield made, limits


def verdicts(
    project: Project, modules: Sequence[str], jobs: int = 1, only: Sequence[str] = ("",)
) -> Iterator[Verdict]:
    """Yield the verdict on each mutant of the modules, in their order.

    Args:
        only: texts; a mutant is run if its printed form contains one of them.

    Raises:
        HarnessError: tests fail on the unchanged module, or cannot run on a mutant.
    """
    with workers(project, jobs, modules) as (idle, limits):

        def judge(mutant: Mutant) -> Verdict:
            worker = idle.get()
            try:
                return worker.judge(mutant, limits[mutant.module])
            finally:
                idle.put(worker)

        mutants = [
            mutant
            for module in modules
            for mutant in project.mutants(module)
            if any(text in str(mutant) for text in only)
        ]
        with ThreadPoolExecutor(jobs) as pool:
            try:
                yield from pool.map(judge, mutants)
            finally:
                pool.shutdown(cancel_futures=True)


def report(project: Project, modules: Sequence[str], found: Iterable[Verdict]) -> bool:
    """Print the verdicts on the mutants of some modules.

    Returns:
        Whether the survivors are exactly those in the list of survivors.
    """
    entries = [each for each in project.listed() if each.module in modules]
    listed = {each.mutant for each in entries}
    counts = dict.fromkeys((forks.RED, forks.LATE, forks.GREEN), 0)
    good = True
    for verdict in found:
        counts[verdict.outcome] += 1
        survived = verdict.outcome == forks.GREEN
        if verdict.outcome == forks.LATE:
            print(f"caught by its time limit, {verdict.test}:\n{verdict.mutant}\n")
        if survived != (str(verdict.mutant) in listed):
            good = False
            what = "survived" if survived else "listed, but caught"
            print(f"{what}:\n{verdict.mutant}\n", flush=True)
    mutants = [each for module in modules for each in project.mutants(module)]
    for gone in survivors.stale(entries, mutants):
        good = False
        print(f"listed, but no longer there:\n{gone}\n")
    caught = counts[forks.RED] + counts[forks.LATE]
    print(
        f"{', '.join(modules)}: {caught} caught, {counts[forks.LATE]} of them by time;"
        f" {counts[forks.GREEN]} survived, {len(listed)} listed",
        flush=True,
    )
    return good
