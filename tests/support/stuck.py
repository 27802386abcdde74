"""Measures a stuck consumer while 60 MB arrive for it, and its neighbour: a program.

test_slow_consumers.py runs it in a process of its own, for its memory. It prints JSON:
by how much the process grew, what the stuck consumer read in the end, and how long the
neighbour's events took with and without the flood.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import trio

from trio_etcd_watch import Watch, open_watcher
from trio_etcd_watch.testing import open_etcd

FLOOD = 600
SIZE = 100_000


def resident() -> int:
    """Return the resident memory of the process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


async def main(binary: str) -> None:
    delays: list[float] = []
    peak = 0

    async def follow(watch: Watch, count: int) -> None:
        events = watch.events()
        for _ in range(count):
            event = await anext(events)
            delays.append(time.time() - float(event.kv.value))

    async def sample() -> None:
        nonlocal peak
        while True:
            peak = max(peak, resident())
            await trio.sleep(0.01)

    async with open_etcd(binary=binary) as etcd, open_watcher(etcd.endpoint) as watcher:
        async with (
            watcher.watch("stuck", max_buffered_events=100) as stuck,
            watcher.watch("quick") as quick,
            trio.open_nursery() as nursery,
        ):
            value = "x" * SIZE
            async with trio.open_nursery() as followers:
                followers.start_soon(follow, quick, 50)
                for _ in range(50):
                    await etcd.put("quick", str(time.time()))
            usual, delays = statistics.median(delays), []
            before = resident()
            nursery.start_soon(sample)
            async with trio.open_nursery() as followers:
                followers.start_soon(follow, quick, FLOOD)
                for i in range(FLOOD):
                    await etcd.put("stuck", f"{i:06}{value}")
                    await etcd.put("quick", str(time.time()))
            unread = stuck.statistics().unread_events
            state = stuck.statistics().state
            grown = peak - before
            read: list[int] = []
            async for event in stuck.events():
                read.append(int(event.kv.value[:6]))
                if len(read) == FLOOD:
                    break
            nursery.cancel_scope.cancel()
    print(
        json.dumps(
            {
                "grown": grown,
                "unread": unread,
                "state": state,
                "in_order": read == list(range(FLOOD)),
                "neighbour": len(delays),
                "usual": usual,
                "slowest": max(delays),
            }
        )
    )


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
