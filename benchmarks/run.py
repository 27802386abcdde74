"""Run all clients in each scenario, and report how they compare: `make bench`.

Each scenario has one server and several rounds; a round runs every client once, one
after the other. Clients are compared within a round, and the median of the rounds is
reported, because a busy machine slows down consecutive runs alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import trio

from benchmarks.harness import HERE, Bench, Clients, built_clients
from benchmarks.report import Results, draw
from benchmarks.scenarios import SCENARIOS


async def main(args: argparse.Namespace, clients: Clients) -> None:
    """Run the scenarios, and write the results."""
    bench = Bench(clients, rounds=args.rounds, scale=args.scale)
    results = Results()
    for name in args.scenarios or SCENARIOS:
        results.comparisons[name] = await SCENARIOS[name](bench)
    results.write(args.output.with_suffix(".json"))
    draw(results, args.output.with_suffix(".png"))


def read_arguments() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS)
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="a factor for the event counts"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results")
    args = parser.parse_args()
    if unknown := set(args.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(unknown)}")
    return args


if __name__ == "__main__":
    with built_clients() as built:
        trio.run(main, read_arguments(), built)
