"""Client with grpc.aio alone: one stream, read by one task."""

from __future__ import annotations

import asyncio

import grpc.aio

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
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(job.endpoint, options=options) as channel:
        call = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )()
        for _ in range(job.watches):
            await call.write(request)
        async for response in call:
            if response.events and meter.add(response.events):
                break
        meter.report()


if __name__ == "__main__":
    asyncio.run(main())
