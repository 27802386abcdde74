"""Measure what a snapshot and a mirror cost: time, memory, events, checks.

    python -m benchmarks.present [SCENARIO ...] [--etcd ETCD ...] [--keys 100000]

`snapshot` compares a snapshot with one unpaged read by gRPC's own client, with and
without building a dict. `memory` measures bytes per key beyond those of keys and
values. `checks` compares `sync()` and `verify()` with a linearizable count. `snapshot`
and `checks` run on each etcd. `events` compares an event in a mirror with a loop over a
watch that keeps a dict, on the stream of `replay_server`. `consumers` measures what 100
sleeping consumers cost, each of which last saw a different state.

Each round runs all in turn; medians are shown, and `x` is the median of the ratios to
the first row. Time is that of one process; CPU is that of client and server (Linux
only), which varies less on a busy machine.
"""

from __future__ import annotations

import argparse
import functools
import gc
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import grpc
import trio

from benchmarks.catch_up import cpu_seconds
from benchmarks.harness import ROOT, python, serving
from benchmarks.metering import PREFIX, PREFIX_END
from benchmarks.replay_server import FIRST_REVISION
from benchmarks.report import Comparison, Metric, show
from trio_etcd_watch import (
    EventType,
    KeyValue,
    Mirror,
    ResponseHeader,
    Snapshot,
    Watcher,
    __speedups__,
    open_watcher,
)
from trio_etcd_watch._face import LIBRARY, construct
from trio_etcd_watch._follower import Follower
from trio_etcd_watch._outage import LineBudget
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._replica import Replica
from trio_etcd_watch._responses import decode
from trio_etcd_watch._snapshot import (
    RANGE,
    PagedRead,
    Range,
    check_of,
    count_request,
    put_key_values,
    snapshot_of,
)
from trio_etcd_watch._views import Consumer
from trio_etcd_watch.testing import Etcd, open_etcd

KEYS: Final = Range(PREFIX, PREFIX_END)
VALUE_SIZE: Final = 100
PUTS: Final = 100
"""Puts in a transaction."""
EVENTS: Final = 1_000_000
"""Events of the replayed stream."""
CONSUMERS: Final = 100

TIME: Final = Metric("time", "ms", "{:,.1f}")
CPU: Final = Metric("cpu", "CPU ms", "{:,.1f}")
CLIENT: Final = Metric("client", "client CPU ms", "{:,.1f}")

T = TypeVar("T")

Runs: TypeAlias = Mapping[str, Callable[[], Awaitable[object]]]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    etcds: list[str | None]
    keys: int
    rounds: int


@asynccontextmanager
async def filled(binary: str | None, keys: int) -> AsyncIterator[Etcd]:
    """Run an etcd that holds `keys` keys."""
    async with open_etcd(binary=binary) as etcd:
        await trio.run_process(
            python(
                "writer",
                f"--endpoint={etcd.endpoint}",
                f"--puts={keys}",
                f"--puts-per-revision={PUTS}",
                f"--keys={keys}",
                f"--value-size={VALUE_SIZE}",
            ),
            cwd=ROOT,
        )
        yield etcd


def version_of(etcd: Etcd) -> str:
    """Return the version of an etcd as text."""
    return ".".join(map(str, etcd.version))


async def compare(title: str, rounds: int, etcd: Etcd | None, runs: Runs) -> None:
    """Run each in turn, and print how they compare with the first."""
    metrics = [TIME, CPU, CLIENT] if etcd else [TIME, CPU]
    comparison = Comparison(title, metrics, baseline=next(iter(runs)))
    names = list(runs)
    for number in range(rounds + 1):
        # To and fro, so that each runs after every other: what the one before has left
        # to the server's garbage collector slows it down.
        for name in names if number % 2 else reversed(names):
            run = runs[name]
            gc.collect()
            server = cpu_seconds(etcd.pid) if etcd else 0.0
            began, client = time.perf_counter(), time.process_time()
            kept = await run()
            wall = time.perf_counter() - began
            client = time.process_time() - client
            server = cpu_seconds(etcd.pid) - server if etcd else 0.0
            del kept
            if number:
                # The first round is a warm-up, which does not count.
                values = {"time": wall, "cpu": client + server, "client": client}
                comparison.add(
                    name, {key: value * 1e3 for key, value in values.items()}
                )
    print(show(comparison), flush=True)


# Scenarios


async def snapshot(options: Options) -> None:
    """Compare a snapshot with one read by gRPC's client."""
    for binary in options.etcds:
        async with (
            filled(binary, options.keys) as etcd,
            open_watcher(etcd.endpoint) as watcher,
        ):
            limits = [("grpc.max_receive_message_length", -1)]
            with grpc.insecure_channel(etcd.endpoint, options=limits) as channel:
                read = channel.unary_unary(
                    RANGE,
                    request_serializer=pb.RangeRequest.SerializeToString,
                    response_deserializer=pb.RangeResponse.FromString,
                )
                title = f"{options.keys:,} keys, etcd {version_of(etcd)}"
                runs = snapshot_runs(read, watcher)
                await compare(title, options.rounds, etcd, runs)


def snapshot_runs(read: Callable[..., Any], watcher: Watcher) -> Runs:
    """Return the runs, each of which reads all keys."""
    request = pb.RangeRequest(key=KEYS.key, range_end=KEYS.range_end)

    async def ours() -> object:
        return await watcher.snapshot(PREFIX, prefix=True)

    async def bare() -> object:
        return read(request)

    async def with_dict() -> object:
        return {
            kv.key: (kv.value, kv.mod_revision, kv.version) for kv in read(request).kvs
        }

    return {
        "trio-etcd-watch": ours,
        "grpcio, one message": bare,
        "grpcio, and a dict of it": with_dict,
    }


async def memory(options: Options) -> None:
    """Print the bytes per key of a snapshot and a mirror, beyond keys and values."""
    async with filled(options.etcds[0], options.keys) as etcd:
        async with open_watcher(etcd.endpoint) as watcher:
            await watcher.snapshot(PREFIX)
            with traced() as held:
                read = await watcher.snapshot(PREFIX, prefix=True)
                print(
                    f"a snapshot: {held() / len(read) - own_bytes(read):.0f} B per key"
                )
                del read
            with traced() as held:
                async with watcher.mirror(PREFIX, prefix=True) as mirror:
                    beyond = held() / len(mirror) - own_bytes(mirror)
                    print(f"a mirror: {beyond:.0f} B per key\n")


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Provide a function that returns the memory allocated since the block began."""

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    gc.collect()
    tracemalloc.start()
    try:
        yield held
    finally:
        tracemalloc.stop()


def own_bytes(mapping: Mapping[bytes, KeyValue]) -> float:
    """Return the bytes of the keys and values, per key."""
    return sum(len(key) + len(kv.value) for key, kv in mapping.items()) / len(mapping)


async def checks(options: Options) -> None:
    """Measure `sync()` and `verify()` on each etcd."""
    for binary in options.etcds:
        async with (
            filled(binary, options.keys) as etcd,
            open_watcher(etcd.endpoint) as watcher,
            watcher.mirror(PREFIX, prefix=True) as mirror,
        ):
            title = f"{options.keys:,} keys, etcd {version_of(etcd)}"
            await compare(title, options.rounds, etcd, check_runs(etcd, mirror))


def check_runs(etcd: Etcd, mirror: Mirror) -> Runs:
    """Return the runs, each of which checks the mirror against the cluster."""
    reads = mirror._follower._reads

    async def count() -> None:
        await reads.ask(
            count_request(KEYS), lambda reply: check_of(reply, 0, counted=True)
        )

    async def behind() -> None:
        # The put raises the store's revision without an event in the range.
        await etcd.put("/other", "")
        await mirror.sync()

    async def verify() -> None:
        assert await mirror.verify(), "the mirror was wrong"

    return {
        "a count": count,
        "sync()": mirror.sync,
        "sync(), after a put elsewhere": behind,
        "verify()": verify,
    }


async def events(options: Options) -> None:
    """Compare an event in a mirror with one in a loop that keeps a dict."""
    for size in (1, 10, 500):
        count = EVENTS if size > 1 else EVENTS // 4
        command = python(
            "replay_server",
            f"--responses={count // size}",
            f"--events-per-response={size}",
            # The time of a round begins before it connects.
            "--settle=0",
        )
        async with serving(command) as (_, endpoint):
            title = f"{size} event{'s' * (size > 1)} a response, {count:,} in all"
            runs: Runs = {
                "dict": functools.partial(keep_dict, endpoint, count),
                "mirror": functools.partial(keep_mirror, endpoint, count),
            }
            await compare(title, options.rounds, None, runs)


async def keep_dict(endpoint: str, count: int) -> None:
    """Keep a dict with a loop over a watch."""
    data: dict[bytes, KeyValue] = {}
    last = FIRST_REVISION + count
    async with open_watcher(endpoint) as watcher:
        async with watcher.watch(PREFIX, prefix=True) as watch:
            async for response in watch:
                for event in response.events:
                    if event.type is EventType.PUT:
                        data[event.kv.key] = event.kv
                    else:
                        data.pop(event.kv.key, None)
                if watch.next_revision >= last:
                    break


class EmptyReads:
    """Reads of a range that is empty until the stream begins."""

    _reply = pb.RangeResponse(
        header=pb.ResponseHeader(revision=FIRST_REVISION - 1)
    ).SerializeToString()

    async def snapshot(self, keys: Range) -> Snapshot:
        """Answer without a delay."""
        await trio.lowlevel.checkpoint()
        read = PagedRead(keys, put_key_values)
        read.receive(self._reply)
        return snapshot_of(read)


async def keep_mirror(endpoint: str, count: int) -> None:
    """Keep the mapping of a `Mirror`."""
    async with open_watcher(endpoint) as watcher:
        reads: Any = EmptyReads()
        follower = Follower(
            KEYS,
            reads,
            lambda start: watcher.watch(PREFIX, prefix=True, start_revision=start),
            LineBudget(),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.follow, nursery.cancel_scope.cancel)
            await follower.ready.wait()
            while follower.replica.revision < FIRST_REVISION + count - 1:  # noqa: ASYNC110  # a waiter would add its cost
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()


async def consumers(options: Options) -> None:
    """Measure sleeping consumers, while all keys are written again and again."""
    keys = min(options.keys, 10_000) // CONSUMERS * CONSUMERS
    header = ResponseHeader(cluster_id=1, member_id=1, revision=0, raft_term=1)
    replica = Replica(construct(Snapshot, header, 0, {}, LIBRARY))
    for _ in write_all(replica, keys, version=1):
        pass
    with traced() as held:
        sleeping = [
            Consumer(replica, initial=False)
            for _ in write_all(replica, keys, version=2)
        ]
        for version in range(3, 7):
            each = held() / keys / len(sleeping)
            print(
                f"{len(sleeping)} sleeping consumers, {keys:,} keys, "
                f"{keys * (version - 2):,} events: {each:.1f} B per key and consumer"
            )
            for _ in write_all(replica, keys, version=version):
                pass


def write_all(replica: Replica, keys: int, version: int) -> Iterator[None]:
    """Write every key once, and yield after each response."""
    revision, size = replica.revision, keys // CONSUMERS
    for first in range(0, keys, size):
        raw = pb.WatchResponse()
        for number in range(first, first + size):
            revision += 1
            raw.events.add().kv.CopyFrom(
                pb.KeyValue(
                    key=PREFIX + b"%08d" % number,
                    value=b"v" * VALUE_SIZE,
                    create_revision=number + 1,
                    mod_revision=revision,
                    version=version,
                )
            )
        replica.apply(decode(raw.SerializeToString()).events)
        yield


SCENARIOS: Final[Mapping[str, Callable[[Options], Awaitable[None]]]] = {
    "snapshot": snapshot,
    "memory": memory,
    "events": events,
    "consumers": consumers,
    "checks": checks,
}


async def main(names: list[str], options: Options) -> None:
    """Run the scenarios."""
    print(f"speedups: {__speedups__}\n")
    for name in names:
        await SCENARIOS[name](options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="benchmarks.present", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    parser.add_argument("--etcd", nargs="+", help="programs; default: that of tests")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if unknown := set(args.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(unknown)}")
    options = Options(args.etcd or [None], args.keys, args.rounds)
    trio.run(main, args.scenarios or list(SCENARIOS), options)
