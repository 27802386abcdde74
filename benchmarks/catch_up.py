"""Measure what a catch-up costs the server, and another watch on the same stream.

    python -m benchmarks.catch_up [ETCD ...]

150 transactions of 128 puts are replayed to one watch, while another watch of the same
stream, its neighbour, waits for one event. The program prints for each etcd the CPU
seconds that the server used (Linux only), the seconds until the last event, and the
seconds until the event of the neighbour.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import trio

from trio_etcd_watch import Watch, open_watcher
from trio_etcd_watch.testing import Etcd, Put, open_etcd

TRANSACTIONS, PUTS = 150, 128


def cpu_seconds(pid: int) -> float:
    """Return the user and system time that a process has used so far."""
    # The name, in parentheses, may hold spaces (proc(5)).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def catch_up(etcd: Etcd) -> tuple[float, float, float]:
    """Return the server's CPU, the time of the replay, and the neighbour's wait."""
    value = "v" * 128
    for _ in range(TRANSACTIONS):
        await etcd.txn(*(Put(f"/bench/{i}", value) for i in range(PUTS)))
    waited = took = 0.0

    async def be_neighbour(watch: Watch) -> None:
        nonlocal waited
        # etcd sends history to watches that are behind every 100 ms.
        await trio.sleep(0.15)
        began = trio.current_time()
        await etcd.put("/neighbour", "1")
        await anext(watch)
        waited = trio.current_time() - began

    async with open_watcher(etcd.endpoint) as watcher:
        async with watcher.watch("/neighbour") as neighbour:
            cpu, began = cpu_seconds(etcd.pid), trio.current_time()
            async with trio.open_nursery() as nursery:
                async with watcher.watch(
                    "/bench/", prefix=True, start_revision=2
                ) as watch:
                    nursery.start_soon(be_neighbour, neighbour)
                    seen = 0
                    async for response in watch:
                        seen += len(response.events)
                        if seen == TRANSACTIONS * PUTS:
                            break
                took = trio.current_time() - began
            cpu = cpu_seconds(etcd.pid) - cpu
    return cpu, took, waited


async def main(binaries: list[str | None]) -> None:
    """Measure each etcd."""
    for binary in binaries:
        async with open_etcd(binary=binary) as etcd:
            cpu, took, waited = await catch_up(etcd)
            version = ".".join(map(str, etcd.version))
            print(
                f"{version:8} server CPU {cpu:6.2f} s, replay {took:6.2f} s, "
                f"neighbour {waited:6.2f} s"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="benchmarks.catch_up", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("etcd", nargs="*", help="programs; default: that of the tests")
    sys.exit(trio.run(main, parser.parse_args().etcd or [None]))
