"""Measures the memory that is still held after 200 responses of 1 MB: a program.

    python -m tests.support.keeping values
watches

For each response it keeps one value of 1 kB, or the watch that delivered it all, and
prints the growth as JSON. It is a process of its own so that its resident memory can be
measured: protobuf allocates outside of Python's allocator, where nothing is traced.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import trio

from trio_etcd_watch import KeyValue, Watch, WatchResponse
from trio_etcd_watch._face import construct
from trio_etcd_watch._inbox import Inbox
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._requests import watch_spec
from trio_etcd_watch._responses import decode
from trio_etcd_watch._subscription import Delivery, Subscription

RESPONSES = 200
EVENTS = 11


def message() -> bytes:
    """Return a response with an event of 1 kB and ten events of 100 kB."""
    response = pb.WatchResponse(header=pb.ResponseHeader(revision=EVENTS))
    for revision in range(1, EVENTS + 1):
        kv = response.events.add().kv
        kv.key, kv.mod_revision = b"key", revision
        kv.value = bytes(1000 if revision == 1 else 100_000)
    return response.SerializeToString()


class Nobody:
    """A server that hears of nothing."""

    def take(self, *_: object) -> None:
        """Do nothing."""

    def close(self, *_: object) -> None:
        """Do nothing."""


async def keep_value(data: bytes, _: int) -> KeyValue:
    """Keep the small one."""
    return construct(WatchResponse, decode(data)).events[0].kv


async def keep_watch(data: bytes, number: int) -> Watch:
    """Keep the watch that has handed it over: whole, one by one, or both."""
    subscription = Subscription(watch_spec("k"))
    subscription.server = Nobody()
    inbox = Inbox(subscription)
    watch = construct(Watch, inbox)
    reply = pb.WatchResponse(created=True).SerializeToString()
    created = construct(WatchResponse, decode(reply))
    inbox.deliver(Delivery(subscription, created, 1))
    response = construct(WatchResponse, decode(data))
    count = len(response.events)
    inbox.deliver(Delivery(subscription, response, EVENTS + 1, count))
    del response
    one_by_one = (0, 1, EVENTS)[number % 3]
    events = watch.events()
    for revision in range(1, one_by_one + 1):
        await anext(events)
        assert watch.next_revision == revision + 1
    if one_by_one < EVENTS:
        await anext(watch)
    assert watch.next_revision == EVENTS + 1
    return watch


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def main() -> None:
    """Measure first the memory that Python traces, then that of the process."""
    keep = {"values": keep_value, "watches": keep_watch}[sys.argv[1]]
    data = message()
    assert len(data) > 1e6
    # One-time costs of the first calls are not to be measured.
    warm = [await keep(data, number) for number in range(3)]

    async def grown(measure: Callable[[], int]) -> int:
        gc.collect()
        before = measure()
        kept = [await keep(data, number) for number in range(RESPONSES)]
        gc.collect()
        after = measure()
        assert len(kept) == RESPONSES
        return after - before

    held = await grown(resident)
    tracemalloc.start()
    traced = await grown(lambda: tracemalloc.get_traced_memory()[0])
    print(json.dumps({"resident": held, "traced": traced}))
    del warm


if __name__ == "__main__":
    trio.run(main)
