"""Run the proxy of the tests as a process of its own, which adds latency.

The program prints its endpoint. Each line on its standard input resets all connections.
"""

from __future__ import annotations

import argparse
import sys

import trio

from tests.support.proxy import open_proxy


async def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True)
    parser.add_argument("--round-trip", type=float, required=True, help="seconds")
    args = parser.parse_args()
    host, _, port = args.target.rpartition(":")
    async with open_proxy(host, int(port)) as proxy:
        proxy.delay(args.round_trip / 2)
        print(proxy.endpoint, flush=True)
        async for _ in trio.wrap_file(sys.stdin):
            proxy.reset_all()


if __name__ == "__main__":
    trio.run(main)
