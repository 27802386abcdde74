"""The scenarios that are compared, with one function for each."""

from __future__ import annotations

import json
import re
import statistics
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio

from benchmarks.harness import (
    AETCD,
    GO,
    GRPC,
    LIMIT,
    OUR_EVENTS,
    OURS,
    PURERPC,
    ROOT,
    TRIO,
    Bench,
    Line,
    python,
    read_line,
    run_client,
    serving,
    started,
)
from benchmarks.replay_server import checksum
from benchmarks.report import Comparison, Metric
from trio_etcd_watch.testing import Etcd, open_etcd

ROUND_TRIP: Final = 0.02
"""The round trip that the proxy adds, in seconds."""

ALL: Final = (OURS, OUR_EVENTS, GO, AETCD, GRPC, PURERPC)
WITH_TRIO: Final = (*ALL, TRIO)
WITH_MANY_WATCHES: Final = (OURS, GO, AETCD)

EVENTS_PER_SECOND: Final = Metric("wall", "events/s", "{:,.0f}", higher_is_better=True)
CPU_PER_EVENT: Final = Metric("cpu", "client CPU us/event", "{:.2f}")


def replaying(
    *, watches: int = 1, responses: int, events_per_response: int = 1, busy: int = 1
) -> AbstractAsyncContextManager[tuple[trio.Process, str]]:
    """Run the replay server."""
    return serving(
        python(
            "replay_server",
            f"--watches={watches}",
            f"--responses={responses}",
            f"--events-per-response={events_per_response}",
            f"--busy={busy}",
        )
    )


def _rates(report: Line) -> dict[str, float]:
    return {
        "wall": report["events"] / report["wall"],
        "cpu": report["cpu"] / report["events"] * 1e6,
    }


def check_sum(report: Line) -> None:
    """Fail if a client has not read all fields of each event."""
    assert report["checksum"] == checksum(report["events"]), report


async def throughput(
    bench: Bench, events_per_response: int, ours: int, slow: int
) -> Comparison:
    """Compare one watch, with this number of events per response."""
    responses = bench.events(OURS, ours, slow) // events_per_response

    async def run(name: str, command: Sequence[str]) -> dict[str, float]:
        events = bench.events(name, ours, slow)
        report = await run_client(command, endpoint=endpoint, events=events)
        check_sum(report)
        return _rates(report)

    async with replaying(
        responses=responses, events_per_response=events_per_response
    ) as (_, endpoint):
        plural = "s" if events_per_response > 1 else ""
        title = f"{events_per_response} event{plural} a response"
        return await bench.compare(title, [EVENTS_PER_SECOND, CPU_PER_EVENT], run, ALL)


async def many_watches(bench: Bench, watches: int) -> Comparison:
    """Compare many watches on one stream, which take turns to get one event."""
    ours, slow = 200_000, 20_000

    async def run(name: str, command: Sequence[str]) -> dict[str, float]:
        events = bench.events(name, ours, slow)
        report = await run_client(
            command, endpoint=endpoint, watches=watches, events=events
        )
        check_sum(report)
        return _rates(report)

    async with replaying(
        watches=watches, responses=bench.events(OURS, ours, slow), busy=watches
    ) as (_, endpoint):
        title = f"{watches:,} watches, all busy"
        return await bench.compare(
            title, [EVENTS_PER_SECOND, CPU_PER_EVENT], run, (*WITH_MANY_WATCHES, TRIO)
        )


async def idle_watches(bench: Bench, watches: int) -> Comparison:
    """Measure by which factor idle watches raise the CPU of a busy one."""
    events = bench.events(OURS, 200_000, 0)

    async def run(name: str, command: Sequence[str]) -> dict[str, float]:
        alone = await run_client(command, endpoint=one, events=events)
        beside = await run_client(
            command, endpoint=many, watches=watches, events=events
        )
        return {"factor": beside["cpu"] / alone["cpu"]}

    metric = Metric("factor", "CPU per event / alone", "{:.3f}")
    async with (
        replaying(responses=events) as (_, one),
        replaying(responses=events, watches=watches) as (_, many),
    ):
        title = f"one busy watch beside {watches - 1:,} idle ones"
        return await bench.compare(title, [metric], run, (OURS, GO))


async def memory(bench: Bench, watches: int) -> Comparison:
    """Compare the memory of an idle watch, without its user's task."""

    async def run(name: str, command: Sequence[str]) -> dict[str, float]:
        report = await run_client(
            command, task="memory", endpoint=endpoint, watches=watches
        )
        return {"memory": report["bytes_per_watch"]}

    metric = Metric("memory", "resident bytes a watch", "{:,.0f}")
    async with replaying(watches=watches, responses=0) as (_, endpoint):
        title = f"{watches:,} idle watches"
        return await bench.compare(title, [metric], run, WITH_MANY_WATCHES)


async def history(bench: Bench, puts_per_revision: int) -> Comparison:
    """Replay the history of a real etcd, from revision 1.

    etcd sends at most 1,000 revisions of it every 100 ms, so only CPU is comparable.
    """
    puts = bench.events(OURS, 200_000, 0) // puts_per_revision * puts_per_revision
    sums: set[int] = set()

    async def run(name: str, command: Sequence[str]) -> dict[str, float]:
        report = await run_client(
            command, endpoint=etcd.endpoint, events=puts, start_revision=1
        )
        sums.add(report["checksum"])
        assert len(sums) == 1, "the clients have read different events"
        return _rates(report)

    async with open_etcd() as etcd:
        await trio.run_process(
            python(
                "writer",
                f"--endpoint={etcd.endpoint}",
                f"--puts={puts}",
                f"--puts-per-revision={puts_per_revision}",
            ),
            cwd=ROOT,
        )
        title = f"history of a real etcd, {puts_per_revision} puts a revision"
        return await bench.compare(title, [EVENTS_PER_SECOND, CPU_PER_EVENT], run, ALL)


async def latency(bench: Bench, rate: int) -> Comparison:
    """Compare the time from just before a put to its event, on a real etcd."""
    count = max(200, int(500 * bench.scale))

    async def run(name: str, command: Sequence[str]) -> dict[str, float]:
        report = await run_client(
            command, task="latency", endpoint=etcd.endpoint, events=count
        )
        percentiles = statistics.quantiles(report["latencies"], n=100)
        return {"p50": percentiles[49] * 1e3, "p99": percentiles[98] * 1e3}

    metrics = [Metric("p50", "p50 ms", "{:.3f}"), Metric("p99", "p99 ms", "{:.3f}")]
    async with open_etcd() as etcd:
        writer = python("writer", f"--endpoint={etcd.endpoint}", f"--rate={rate}")
        async with started(writer):
            title = f"latency at {rate} puts/s"
            return await bench.compare(title, metrics, run, WITH_TRIO)


async def resume(bench: Bench, ours: int, slow: int) -> Comparison:
    """Open watches with a long round trip, reset the connection, and let them resume.

    The other clients open and resume one watch after the other, with a round trip for
    each, so they get fewer watches.
    """

    async def run(name: str, command: Sequence[str]) -> dict[str, float]:
        watches = ours if name == OURS else slow
        args = ["--task=resume", f"--watches={watches}", f"--endpoint={endpoint}"]
        async with started([*command, *args]) as client:
            opened_in = json.loads(await read_line(client))["opened_in"]
            values = {"watches": watches, "opened": opened_in}
            if name != AETCD:  # its watches do not resume
                resumed_in = await reset_and_wait(etcd, proxy, watches, client)
                values["resumed"] = resumed_in
            return values

    metrics = [
        Metric("watches", "watches", "{:,.0f}", compared=False),
        Metric("opened", "s to open", "{:.2f}", compared=False),
        Metric("resumed", "s to resume", "{:.2f}", compared=False),
    ]
    async with open_etcd() as etcd:
        command = python(
            "proxy", f"--target={etcd.endpoint}", f"--round-trip={ROUND_TRIP}"
        )
        async with serving(command) as (proxy, endpoint):
            title = f"opening and resuming over {ROUND_TRIP * 1e3:.0f} ms"
            return await bench.compare(title, metrics, run, WITH_MANY_WATCHES)


async def reset_and_wait(
    etcd: Etcd, proxy: trio.Process, watches: int, client: trio.Process
) -> float:
    """Reset the connections; return the seconds until each watch has had an event.

    The event is put when the server has all watches again. Before that, they would have
    to wait until etcd has synchronized them, at 512 watches every 100 ms.
    """
    assert proxy.stdin is not None
    with trio.fail_after(LIMIT):
        # The server may still have the watches of the previous client.
        await _until_watchers(etcd, lambda count: count == watches)
        began = time.time()
        await proxy.stdin.send_all(b"reset\n")
        await _until_watchers(etcd, lambda count: count < watches)
        await _until_watchers(etcd, lambda count: count == watches)
        await etcd.put("/config/service/time", "")
        resumed_at: float = json.loads(await read_line(client))["resumed_at"]
    return resumed_at - began


async def _until_watchers(etcd: Etcd, condition: Callable[[int], bool]) -> None:
    """Wait until the number of watches on the server meets the condition."""

    def count() -> int:
        with urllib.request.urlopen(f"http://{etcd.endpoint}/metrics") as response:
            metrics = response.read().decode()
        name = "etcd_debugging_mvcc_watcher_total"
        match = re.search(rf"^{name} (\S+)$", metrics, re.MULTILINE)
        assert match, f"{name} is missing"
        return int(float(match[1]))

    while not condition(await trio.to_thread.run_sync(count)):  # noqa: ASYNC110  # etcd sends no signal
        await trio.sleep(0.005)


SCENARIOS: Final[Mapping[str, Callable[[Bench], Awaitable[Comparison]]]] = {
    "1-event": lambda bench: throughput(bench, 1, 200_000, 20_000),
    "10-events": lambda bench: throughput(bench, 10, 600_000, 100_000),
    "500-events": lambda bench: throughput(bench, 500, 1_000_000, 200_000),
    "100-watches": lambda bench: many_watches(bench, 100),
    "10000-watches": lambda bench: many_watches(bench, 10_000),
    "idle-watches": lambda bench: idle_watches(bench, 10_000),
    "memory": lambda bench: memory(bench, 10_000),
    "history": lambda bench: history(bench, 10),
    "latency": lambda bench: latency(bench, 100),
    "resume": lambda bench: resume(bench, 10_000, 250),
}
