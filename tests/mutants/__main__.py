"""Mutates the sans-IO modules, one place at a time, and checks that a test fails.

    python -m tests.mutants [--module _backoff ...] [--only TEXT ...] [--jobs 2] [--list]

`operators.py` says what is mutated, what is not, and why; `project.py` says which tests
should detect it. A mutant that no test detects shows that a test is missing, unless
`survivors.txt` lists it with the reason why it changes nothing.
"""

from __future__ import annotations

import argparse
import signal
import sys

from tests.mutants.project import OURS
from tests.mutants.run import HarnessError, report, verdicts


def main() -> None:
    """Run the selected mutants; exit with 1 unless exactly the listed ones survive."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument(
        "--module",
        dest="modules",
        action="append",
        choices=sorted(OURS.tests),
        metavar="NAME",
        help="of the package, as _grpc.status; again for more; all, if none is given",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="TEXT",
        help="mutants with this in their lines; again for more",
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    parser.add_argument(
        "--list", action="store_true", help="run nothing: what is there"
    )
    arguments = parser.parse_args()
    # Leaves no copies of the tree behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    modules = arguments.modules or sorted(OURS.tests)
    if arguments.list:
        for module in modules:
            print(*OURS.mutants(module), sep="\n\n", end="\n\n")
        return
    try:
        good = [
            report(
                OURS,
                [module],
                verdicts(OURS, [module], arguments.jobs, arguments.only or [""]),
            )
            for module in modules
        ]
    except HarnessError as exc:
        sys.exit(f"the tests do not run: {exc}")
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
