"""A cluster under faults, judged by the validator of etcd's own robustness suite.

    python -m tests.chaos.validate --binary ETCD [--seconds 60] [--seed 7]

Three members are killed, paused, cut off and compacted, and their leader moves, while
writers record every operation with its times, and watches everything that they get.
Both become a report in the format of etcd's suite. `judge`, which is etcd's code,
compares it with the members' logs and is the only judge.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from tests.chaos.reports import copy_logs, write_clients
from tests.chaos.trial import Options, Outcome, Trial
from tests.support.helpers import split
from tests.support.proxy import open_proxy
from tests.support.servers import servers
from trio_etcd_watch import Channel, open_watcher
from trio_etcd_watch.testing import open_cluster
from trio_etcd_watch.testing._program import find_program, inspect_program

JUDGE = Path(__file__).parents[2] / ".judge" / "judge"
"""etcd's validator, as built by `make validate`."""

OLDEST = (3, 5, 16)
"""Older servers lose events that they compact, and a DELETE at the compact revision:
https://github.com/etcd-io/etcd/issues/17529 and pull/18274."""

SHOWN = 20
"""How many lines of the validator's output to show; the verdicts come first."""


SERVER_ARGS = (
    "--experimental-watch-progress-notify-interval=300ms",
    # Above this and 512 KiB a response is split.
    "--max-request-bytes=131072",
)


async def run(options: Options, folder: Path) -> Outcome:
    """Run, and write the report into the folder."""
    random.seed(options.seed)
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(
            open_cluster(options.size, binary=options.binary, args=SERVER_ARGS)
        )
        trial = Trial(options, cluster.members)
        async with AsyncExitStack() as clients:
            proxies = [
                await clients.enter_async_context(open_proxy(*split(each)))
                for each in cluster.endpoints
            ]
            channel = Channel(
                *(each.endpoint for each in proxies),
                connect_timeout=2.0,
                keepalive_time=1.0,
                keepalive_timeout=1.0,
            )
            watchers = [
                await clients.enter_async_context(open_watcher(channel))
                for _ in range(3)
            ]
            await trial.run(proxies, watchers)
        for member in cluster.members:
            await member.kill()
        copy_logs(folder, cluster.members)
        write_clients(folder, trial.clients)
    return trial.outcome


def judge(folder: Path) -> tuple[bool, str]:
    """Return whether every guarantee holds, and the output of the validator."""
    result = subprocess.run(
        [JUDGE, folder], capture_output=True, text=True, check=False
    )
    return result.returncode == 0, result.stdout + result.stderr


def _newest() -> str | None:
    here = servers()
    by_version = {
        tuple(map(int, version.split("."))): here[version] for version in here
    }
    return by_version[max(by_version)] if here else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos.validate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--binary", help="the etcd to run; by default the newest here")
    arguments = parser.parse_args()
    arguments.binary = arguments.binary or _newest()
    version = inspect_program(find_program(arguments.binary)).version
    if version < OLDEST:
        found, needed = (".".join(map(str, each)) for each in (version, OLDEST))
        parser.error(
            f"etcd {found} loses events by itself: --binary must be {needed} or newer"
        )
    logging.getLogger("trio_etcd_watch").setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="trio-etcd-watch-report-"))
    outcome = trio.run(run, Options(**vars(arguments)), folder)
    holds, said = judge(folder)
    # One wrong bookmark may violate the guarantee for a thousand events.
    lines = said.splitlines()[:SHOWN]
    sys.stdout.write("\n".join([*lines, f"seed {arguments.seed}: {outcome}\n"]))
    if holds and not outcome.hanging:
        shutil.rmtree(folder)
        return 0
    sys.stdout.write(f"the report is kept in {folder}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
