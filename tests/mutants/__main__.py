"""Breaks the sans-IO modules in one place after the other, and sees the tests notice.

    python -m tests.mutants [--module _backoff ...] [--only TEXT ...] [--jobs 2] [--list]

`operators.py` says what is broken, and what is not and why; `project.py` by which tests
it should be noticed. A mutant that none of them notices is a missing test, unless it
stands in `survivors.txt` with the reason why it changes nothing.
"""

from __future__ import annotations

import argparse
import signal
import sys

from tests.mutants.project import OURS
from tests.mutants.run import HarnessError, report, verdicts


def main() -> None:
    """Run what the arguments say; exit with 1 unless all is as it should be."""
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
