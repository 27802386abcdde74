"""Write to a real etcd: a history to replay, or puts at a constant rate.

The program uses grpc.aio and aetcd's messages, because the gateway that
`trio_etcd_watch.testing` uses handles only a thousand requests per second, and a
history has many.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any, Final

import grpc.aio
from aetcd import rpc

_CONCURRENCY: Final = 32


async def write_history(kv: Any, args: argparse.Namespace) -> None:  # noqa: ANN401  # generated, without types
    """Put values to the keys in turn, several in a transaction."""
    puts, puts_per_revision = args.puts, args.puts_per_revision
    value = b"v" * args.value_size
    starts = iter(range(0, puts, puts_per_revision))

    async def write() -> None:
        for start in starts:
            request = rpc.TxnRequest()
            for i in range(start, start + puts_per_revision):
                put = request.success.add().request_put
                put.key, put.value = b"/config/service/key%03d" % (i % args.keys), value
            await kv.Txn(request)

    await asyncio.gather(*(write() for _ in range(_CONCURRENCY)))


async def write_steadily(kv: Any, rate: float) -> None:  # noqa: ANN401
    """Put the time in nanoseconds, `rate` times per second, until the process ends."""
    began = time.monotonic()
    count = 0
    while True:
        value = str(time.time_ns()).encode()
        await kv.Put(rpc.PutRequest(key=b"/config/service/time", value=value))
        count += 1
        await asyncio.sleep(began + count / rate - time.monotonic())


async def main() -> None:
    """Write the history or, with --rate, write until the process ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--puts", type=int)
    parser.add_argument("--puts-per-revision", type=int)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--value-size", type=int, default=64)
    args = parser.parse_args()
    async with grpc.aio.insecure_channel(args.endpoint) as channel:
        kv = rpc.KVStub(channel)
        if args.rate:
            await write_steadily(kv, args.rate)
        else:
            await write_history(kv, args)


if __name__ == "__main__":
    asyncio.run(main())
