"""A program that runs tests in forks of itself; it imports no module of this project.

It loads Python and the libraries once; each fork imports the package under test, from
the working directory. Each request is a line of JSON on the standard input, each answer
a line of JSON on the standard output.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest

PRELOADED = (
    "google.protobuf.message",
    "h2.connection",
    "hypothesis.stateful",
    "pytest_trio.plugin",
    "trio.testing",
)

# pytest warns about plugins that are loaded before it can rewrite their assertions.
QUIET = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
OPTIONS = (
    "-x",
    "-q",
    "--no-header",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    # In the copy: where all runs share one folder, each removes what the others left.
    "--basetemp=basetemp",
    *QUIET,
)

MEMORY = 4 << 30
"""The limit of address space in bytes, at which a mutant that allocates on fails."""

GREEN, RED, BROKEN, LATE = "green", "red", "broken", "late"


class Witness:
    """Notes whether a test file itself cannot be imported, which no mutant causes."""

    broken = False

    def pytest_exception_interact(self, call: pytest.CallInfo[object]) -> None:
        assert call.excinfo is not None
        # pytest wraps SyntaxError and ImportError in this.
        self.broken |= call.excinfo.errisinstance(pytest.Collector.CollectError)


def outcome_of(module: str, test: str) -> str:
    """Run one test file on one module, in this process."""
    sys.path.insert(0, os.getcwd())
    try:
        loaded = import_module(module)
    except ImportError:
        traceback.print_exc()
        return BROKEN
    except Exception:  # of any kind: the mutant breaks the import, which is red
        traceback.print_exc()
        return RED
    assert loaded.__file__ is not None
    if not Path(loaded.__file__).is_relative_to(Path.cwd()):
        print(f"{loaded.__file__} is not in the copy")
        return BROKEN
    witness = Witness()
    code = pytest.main([*OPTIONS, test], plugins=[witness])
    if code == pytest.ExitCode.OK:
        return GREEN
    caught = (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    return RED if code in caught and not witness.broken else BROKEN


def child(request: dict[str, Any], answers: int) -> NoReturn:
    """Answer one request, and exit."""
    try:
        os.setsid()
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.environ.update(request["environment"])
        sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
        outcome = outcome_of(request["module"], request["test"])
    except BaseException:
        traceback.print_exc()
        outcome = BROKEN
    sys.stdout.flush()
    os.write(answers, outcome.encode())
    os._exit(0)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run the test of one request in a fork, within the time limit of the request."""
    started = time.monotonic()
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        child(request, theirs)
    os.close(theirs)
    ready, _, _ = select.select([ours], [], [], request["limit"])
    # A fork that ends without an answer has crashed.
    outcome = (os.read(ours, 100).decode() or RED) if ready else LATE
    os.close(ours)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # with all processes that a test has started
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return {"outcome": outcome, "seconds": time.monotonic() - started}


def main() -> None:
    """Answer requests until the standard input ends."""
    for name in PRELOADED:
        with suppress(ImportError):
            import_module(name)
    gc.freeze()  # forks need not collect the objects that they share
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
