"""Client with this library: `async for response in watch`, or `watch.events()`."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

import trio

from benchmarks.metering import PREFIX, Job, Meter, memory, read_job, report
from trio_etcd_watch import Watcher, open_watcher


async def replay(watcher: Watcher, job: Job) -> None:
    """Read until all events have arrived, with a task for each watch."""
    meter = Meter(job)

    async def read(done: trio.CancelScope) -> None:
        async with watcher.watch(
            PREFIX, prefix=True, start_revision=job.start_revision
        ) as watch:
            if job.mode == "events":
                await meter.add_each(watch.events())
            else:
                async for response in watch:
                    if meter.add(response.events):
                        break
            meter.report()
            done.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(job.watches):
            nursery.start_soon(read, nursery.cancel_scope)


async def resume(watcher: Watcher, job: Job) -> None:
    """Report when all watches are open, and when each has had an event."""
    began = time.time()
    closed = opened = 0

    async def read() -> None:
        nonlocal closed, opened
        async with watcher.watch(PREFIX, prefix=True) as watch:
            opened += 1
            if opened == job.watches:
                report(opened_in=time.time() - began)
            async for _ in watch:
                break
            closed += 1
            if closed == job.watches:
                report(resumed_at=time.time())

    async with trio.open_nursery() as nursery:
        for _ in range(job.watches):
            nursery.start_soon(read)


async def hold(watcher: Watcher, job: Job) -> None:
    """Report the memory of watches, without the first one and the connection."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(watcher.watch(PREFIX, prefix=True))
        before = memory()
        for _ in range(job.watches - 1):
            await stack.enter_async_context(watcher.watch(PREFIX, prefix=True))
        report(bytes_per_watch=(memory() - before) / (job.watches - 1))


async def main() -> None:
    """Do the job."""
    job = read_job("replay", "latency", "resume", "memory")
    do = {"resume": resume, "memory": hold}.get(job.task, replay)
    async with open_watcher(job.endpoint) as watcher:
        await do(watcher, job)


if __name__ == "__main__":
    trio.run(main)
