"""`python -m tests.chaos --help`."""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Sequence

import trio

from tests.chaos import run as chaos
from tests.chaos.report import Options


def _parse(arguments: Sequence[str] | None = None) -> tuple[Options, bool]:
    parser = argparse.ArgumentParser(prog="tests.chaos", description=chaos.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--cluster", action="store_true", help="three members")
    parser.add_argument("--binary", help="the etcd to run")
    parser.add_argument(
        "--storm",
        type=int,
        nargs="?",
        const=1_000,
        default=0,
        metavar="WATCHES",
        help="watches that are parked and woken, ten times each",
    )
    parser.add_argument("--parks", type=int, default=10)
    parser.add_argument(
        "--compact",
        action=argparse.BooleanOptionalAction,
        help="default: odd seeds, no storms",
    )
    parser.add_argument("--verbose", action="store_true", help="the client's log")
    options = vars(parser.parse_args(arguments))
    verbose = options.pop("verbose")
    return Options(**options), verbose


def main() -> int:
    options, verbose = _parse()
    logging.basicConfig(format="%(asctime)s %(message)s")
    logger = logging.getLogger("trio_etcd_watch")
    logger.setLevel(logging.DEBUG if verbose else logging.ERROR)
    try:
        report = trio.run(chaos.run, options)
    except Exception:
        traceback.print_exc()
        sys.stdout.write(f"seed {options.seed}: crashed\n")
        return 1
    for silent in report.silent[:10]:
        sys.stdout.write(f"etcd #17529: {silent}\n")
    for violation in report.violations[:100]:
        sys.stdout.write(f"{violation}\n")
    sys.stdout.write(f"{report}\n")
    return bool(report.violations)


if __name__ == "__main__":
    sys.exit(main())
