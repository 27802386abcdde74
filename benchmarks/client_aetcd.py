"""Client with aetcd, for asyncio on grpc.aio. It delivers events one by one."""

from __future__ import annotations

import asyncio
import os
import time

import aetcd

from benchmarks.metering import PREFIX, Job, Meter, memory, read_job, report


async def replay(client: aetcd.Client, job: Job) -> None:
    """Read until all events have arrived, with a task for each watch."""
    meter = Meter(job)
    watches = [
        await client.watch_prefix(PREFIX, start_revision=job.start_revision)
        for _ in range(job.watches)
    ]
    tasks = [asyncio.create_task(meter.add_each(watch)) for watch in watches]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    meter.report()


async def resume(client: aetcd.Client, job: Job) -> None:
    """Report when all watches are open. aetcd does not resume any."""
    began = time.time()
    for _ in range(job.watches):
        await client.watch_prefix(PREFIX)
    report(opened_in=time.time() - began)


async def hold(client: aetcd.Client, job: Job) -> None:
    """Report the memory of watches, without the first one and the connection."""
    first = await client.watch_prefix(PREFIX)
    before = memory()
    others = [await client.watch_prefix(PREFIX) for _ in range(job.watches - 1)]
    report(bytes_per_watch=(memory() - before) / len(others))
    del first


async def main() -> None:
    """Do the job."""
    job = read_job("replay", "latency", "resume", "memory")
    do = {"resume": resume, "memory": hold}.get(job.task, replay)
    # The history of a real etcd comes in responses above gRPC's limit of 4 MiB.
    options = {"grpc.max_receive_message_length": -1}
    client = aetcd.Client(job.host, job.port, options=options)
    await client.connect()
    await do(client, job)
    # Closing thousands of watches one by one would take long, and is not measured.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
