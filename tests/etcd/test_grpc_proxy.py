"""etcd's grpc-proxy, which merges watches and answers creations out of order."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager

import trio

from tests.support.helpers import LIMIT, eventually, take
from trio_etcd_watch import Mirror, open_watcher
from trio_etcd_watch.testing import Delete, Etcd, Put, open_etcd
from trio_etcd_watch.testing._servers import reserve_port


@asynccontextmanager
async def open_grpc_proxy(etcd: Etcd, program: str) -> AsyncGenerator[str]:
    """Run a grpc-proxy in front of etcd; yield its endpoint."""
    with ExitStack() as resources:
        endpoint, metrics = reserve_port(resources), reserve_port(resources)
        process = await trio.lowlevel.open_process(
            [
                program,
                "grpc-proxy",
                "start",
                f"--endpoints={etcd.endpoint}",
                f"--listen-addr={endpoint}",
                f"--metrics-addr=http://{metrics}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield endpoint
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def test_nobody_gets_what_another_asked_for(etcd_binary: str) -> None:
    async with (
        open_etcd(binary=etcd_binary) as etcd,
        open_grpc_proxy(etcd, etcd_binary) as endpoint,
        open_watcher(endpoint) as neighbour,
        open_watcher(endpoint) as watcher,
        # This opens the stream, so that it is open for the two watches below.
        watcher.watch("z"),
    ):
        for turn in range(10):
            # The proxy has a watch on the second key already, and confirms it at once.
            keys = [f"a{turn}", f"b{turn}"]
            start = await etcd.put("x", "") + 1
            async with (
                neighbour.watch(keys[1], start_revision=start),
                trio.open_nursery() as nursery,
            ):

                async def read(key: str, start: int = start) -> None:
                    async with watcher.watch(key, start_revision=start) as watch:
                        events = await take(watch, 2)
                    assert [e.kv.key for e in events] == [key.encode()] * 2

                nursery.start_soon(read, keys[0])
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(read, keys[1])
                for key in keys * 2:
                    await etcd.put(key, "")


async def test_resumes_though_the_proxy_hides_the_cluster(etcd_binary: str) -> None:
    async with (
        open_etcd(binary=etcd_binary) as etcd,
        open_grpc_proxy(etcd, etcd_binary) as endpoint,
        open_watcher(endpoint) as neighbour,
        open_watcher(endpoint) as watcher,
        watcher.watch("c", start_revision=2) as watch,
        # It joins the first watch; when that is created again, it joins this one.
        neighbour.watch("c", start_revision=2),
    ):
        connection = watcher._connector._connection
        assert connection is not None
        connection.close("a test wants it")

        async def resumed() -> bool:
            # If it has failed, there is nothing to wait for.
            state = watch.statistics().state
            made = watcher.statistics().connections_made
            return made == 2 and state in ("live", "ended")

        await eventually(resumed)
        await etcd.put("c", "1")
        assert len(await take(watch, 1)) == 1
        assert watcher.statistics().reconnects == 1


def cluster_of_creation(mirror: Mirror) -> int:
    """The cluster in the header of its creation; 0 if that is made up."""
    watch = mirror._follower._watch
    assert watch is not None
    return watch.created.header.cluster_id


def has_keys(count: int, mirror: Mirror) -> bool:
    return len(mirror) == count


async def test_a_mirror_whose_watch_joins_another(etcd_binary: str) -> None:
    async with (
        open_etcd(binary=etcd_binary) as etcd,
        open_grpc_proxy(etcd, etcd_binary) as endpoint,
        open_watcher(endpoint) as neighbour,
        open_watcher(endpoint) as watcher,
    ):
        await etcd.put("a0", "before")
        with trio.fail_after(LIMIT):
            async with (
                neighbour.mirror("a", prefix=True) as first,
                watcher.mirror("a", prefix=True) as second,
            ):
                # The header must be real at first, or the test shows nothing.
                assert cluster_of_creation(first) != 0
                assert cluster_of_creation(second) == 0
                for count in range(1, 6):
                    await etcd.txn(Put(f"a{count}", ""), Put("outside", ""))
                    for mirror in (first, second):
                        await mirror.wait_for(functools.partial(has_keys, count + 1))
                last = await etcd.txn(Delete("a0"), Put("a9", ""), Put("outside", ""))
                # A key that is not in the range.
                newest = await etcd.put("outside", "")
                for mirror in (first, second):
                    await mirror.sync()
                    assert mirror.revision >= newest > last
                    assert list(mirror) == [b"a1", b"a2", b"a3", b"a4", b"a5", b"a9"]
                    assert await mirror.verify()
                    assert mirror.copy().header.cluster_id == cluster_of_creation(first)
                    assert mirror.statistics().resyncs == 0


async def test_a_mirror_comes_back_to_a_watch_that_it_joins(etcd_binary: str) -> None:
    async with (
        open_etcd(binary=etcd_binary) as etcd,
        open_grpc_proxy(etcd, etcd_binary) as endpoint,
        open_watcher(endpoint) as neighbour,
        open_watcher(endpoint) as watcher,
    ):
        await etcd.put("a0", "before")
        with trio.fail_after(LIMIT):
            async with (
                neighbour.mirror("a", prefix=True) as first,
                watcher.mirror("a", prefix=True) as second,
            ):
                for turn in range(3):
                    connection = watcher._connector._connection
                    assert connection is not None
                    connection.close("a test wants it")
                    await etcd.put("a1", str(turn))
                    for mirror in (first, second):
                        await mirror.sync()
                        assert mirror["a1"].value == str(turn).encode()
                        assert await mirror.verify()
                        assert mirror.statistics().resyncs == 0
                assert watcher.statistics().reconnects >= 1


async def test_a_made_up_header_is_no_history(etcd_binary: str) -> None:
    async with (
        open_etcd(binary=etcd_binary) as etcd,
        open_grpc_proxy(etcd, etcd_binary) as endpoint,
        open_watcher(endpoint) as neighbour,
        open_watcher(endpoint) as watcher,
    ):
        start = await etcd.put("a0", "before") + 1
        first = neighbour.watch("a", prefix=True, start_revision=start)
        with trio.fail_after(LIMIT):
            await first.__aenter__()
            async with watcher.mirror("a", prefix=True) as mirror:
                # Its header has a revision that is still to come.
                assert cluster_of_creation(mirror) == 0
                await first.__aexit__(None, None, None)
                connection = watcher._connector._connection
                assert connection is not None
                connection.close("a test wants it")

                async def resumed() -> bool:
                    made = watcher.statistics().connections_made
                    return made == 2 and mirror.statistics().connected

                await eventually(resumed)
                await mirror.sync()
                assert await mirror.verify()
                assert mirror.statistics().resyncs == 0
