"""Client with purerpc alone: one stream, read by one task."""

from __future__ import annotations

import purerpc
import trio

from benchmarks.metering import PREFIX, PREFIX_END, Meter, read_job
from trio_etcd_watch._pb import watch_pb2 as pb


async def main() -> None:
    """Read until all events have arrived."""
    job = read_job("replay", "latency")
    meter = Meter(job)
    request = pb.WatchRequest()
    request.create_request.key = PREFIX
    request.create_request.range_end = PREFIX_END
    request.create_request.start_revision = job.start_revision
    async with purerpc.insecure_channel(job.host, job.port) as channel:
        client = purerpc.Client("etcdserverpb.Watch", channel)
        stream = await client.rpc("Watch", pb.WatchRequest, pb.WatchResponse)
        for _ in range(job.watches):
            await stream.send_message(request)
        while True:
            response = await stream.receive_message()
            if response.events and meter.add(response.events):
                break
        meter.report()


if __name__ == "__main__":
    trio.run(main)
