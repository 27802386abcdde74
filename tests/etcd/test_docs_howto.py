"""The programs of the how-to pages about keys do what their pages say."""

from __future__ import annotations

import json
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio

from tests.support.cli import Cli, objects, open_command
from tests.support.helpers import LIMIT, eventually
from tests.support.howto import cli_command, open_shell
from tests.support.pages import typed
from tests.support.programs import blocks, open_program, write_program
from trio_etcd_watch import open_watcher
from trio_etcd_watch.testing import Etcd, Put, open_etcd


async def until(program: Cli, line: str) -> int:
    """Wait for a line; return how many lines there are by then."""
    count = 1
    with trio.fail_after(LIMIT):
        while (await program.lines(count))[count - 1] != line.encode():
            count += 1
    return count


def shown(page: str) -> list[bytes]:
    """Return the first output that a page shows."""
    return blocks(f"howto/{page}", "text")[0].encode().splitlines()


async def test_hot_reload(newest_etcd: Etcd) -> None:
    await newest_etcd.txn(Put("/config/limit", "5"), Put("/config/mode", "fast"))
    async with open_program("reload_validated.py", newest_etcd.endpoint) as program:
        await program.lines(1)
        await newest_etcd.put("/config/limit", "0")
        await program.lines(2)
        await newest_etcd.restart()
        await newest_etcd.put("/config/limit", "7")
        assert await program.lines(3) == shown("hot-reload.md")


async def test_hot_reload_as_it_is_typed(
    newest_etcd: Etcd, etcdctl: str, tmp_path: Path
) -> None:
    write_program(tmp_path, "reload_validated.py", newest_etcd.endpoint, {})
    *before, program, refused, accepted = typed("howto/hot-reload.md")
    where = {"ETCDCTL_ENDPOINTS": newest_etcd.endpoint}
    async with open_shell(tmp_path, etcdctl, **where) as shell:
        for command in before:
            await shell.type(f"{command} >/dev/null")
        await shell.type(program)
        await shell.cli.lines(1)
        await shell.type(f"{refused} >/dev/null")
        await shell.cli.lines(2)
        await shell.type(f"{accepted} >/dev/null")
        assert await shell.cli.lines(3) == shown("hot-reload.md")


async def test_discovery(newest_etcd: Etcd) -> None:
    async def is_watched() -> bool:
        return (await newest_etcd.metrics())["etcd_debugging_mvcc_watcher_total"] > 0

    async with open_program("pick_instance.py", newest_etcd.endpoint) as program:
        # It waits as long as there is none.
        await eventually(is_watched)
        await newest_etcd.put("/services/mail/one", "10.0.0.1:25")
        assert await program.lines(1) == [b"sending to 10.0.0.1:25"]
        await newest_etcd.put("/services/mail/two", "10.0.0.2:25")
        await until(program, "sending to 10.0.0.2:25")
        await newest_etcd.delete("/services/mail/two")
        await newest_etcd.delete("/services/mail/one")
        await newest_etcd.put("/services/mail/three", "10.0.0.3:25")
        count = await until(program, "sending to 10.0.0.3:25")
        rest = (await program.lines(count + 5))[count:]
        assert set(rest) == {b"sending to 10.0.0.3:25"}


async def test_checked_bookmark(newest_etcd: Etcd, tmp_path: Path) -> None:
    bookmark = tmp_path / "jobs.bookmark"

    def program() -> AbstractAsyncContextManager[Cli]:
        name = "checked_bookmark.py"
        return open_program(name, newest_etcd.endpoint, folder=tmp_path)

    async def is_stored() -> bool:
        return await trio.Path(bookmark).exists()

    async with program() as first:
        await eventually(is_stored)
        await newest_etcd.put("/jobs/1", "sweep")
        assert await first.lines(1) == [b"PUT b'/jobs/1' b'sweep'"]
        await eventually(is_past(bookmark, await newest_etcd.revision()))
    await newest_etcd.put("/jobs/2", "mop")
    async with program() as second:
        assert await second.lines(1) == [b"PUT b'/jobs/2' b'mop'"]
        await eventually(is_past(bookmark, await newest_etcd.revision()))
    cluster_id, revision = json.loads(bookmark.read_text())
    for wrong, said in (
        ([cluster_id + 1, revision], b"the bookmark is of another cluster"),
        ([cluster_id, revision + 1], b"the cluster has lost history"),
    ):
        bookmark.write_text(json.dumps(wrong))
        async with program() as third:
            assert await third.wait() == 1
            assert said in await third.errors()


def is_past(bookmark: Path, revision: int) -> Callable[[], Awaitable[bool]]:
    """Whether a program has stored that it has processed a revision."""

    async def is_stored() -> bool:
        text = await trio.Path(bookmark).read_text()
        return bool(json.loads(text)[1] > revision)

    return is_stored


async def test_bookmark_from_the_shell(newest_etcd: Etcd, tmp_path: Path) -> None:
    command = cli_command("howto/bookmark.md")
    where = {"ETCDCTL_ENDPOINTS": newest_etcd.endpoint}
    async with open_command(command, where, tmp_path) as program:
        with trio.fail_after(LIMIT):
            # It prints events from when its watch begins.
            written = 0
            while not program.output:
                await newest_etcd.put("/jobs/a", str(written))
                written += 1
                with trio.move_on_after(0.2):
                    await program.lines(1)
        assert await program.end() == -signal.SIGTERM
    printed = [line["kv"]["value_utf8"] for line in objects(program.output)]
    missed = int(printed[0])
    await newest_etcd.put("/jobs/b", str(written))
    async with open_command(command, where, tmp_path) as program:
        rest = await program.objects(written + 1 - missed - len(printed))
        printed += [line["kv"]["value_utf8"] for line in rest]
    assert printed == [str(number) for number in range(missed, written + 1)]


async def test_fan_out(newest_etcd: Etcd) -> None:
    await newest_etcd.put("/tenants/blue/limit", "1")
    async with open_program("fan_out.py", newest_etcd.endpoint) as program:
        assert await program.lines(1) == [b"blue has 1 settings"]
        await newest_etcd.txn(
            Put("/tenants/red/limit", "1"), Put("/tenants/red/mode", "fast")
        )
        assert (await program.lines(2))[1:] == [b"red has 2 settings"]
        await newest_etcd.delete("/tenants/blue/limit")
        assert await program.lines(3) == shown("fan-out.md")


async def test_worker_pool(newest_etcd: Etcd) -> None:
    async with open_program("worker_pool.py", newest_etcd.endpoint) as program:
        assert await program.lines(1) == [b"watching"]
        for value in range(5):
            await newest_etcd.txn(*(Put(f"/jobs/{i}", str(value)) for i in range(8)))
        done = [line.decode().split(": ") for line in await program.lines(41)][1:]
    # Each key has one worker, which gets its values in order.
    by_key: dict[str, list[tuple[str, str]]] = {}
    for worker, job in done:
        key, _, text = job.partition(" = ")
        by_key.setdefault(key, []).append((worker, text))
    assert len(by_key) == 8
    for jobs in by_key.values():
        assert [text for _, text in jobs] == list("01234")
        assert len({worker for worker, _ in jobs}) == 1
    assert len({worker for worker, _ in done}) > 1


async def test_leader(newest_etcd: Etcd, etcdctl: str) -> None:
    elect = [etcdctl, f"--endpoints={newest_etcd.endpoint}", "elect"]

    def run_for_it(name: str) -> AbstractAsyncContextManager[Cli]:
        return open_command([*elect, "/election/mail", name], {})

    async with open_program("leader.py", newest_etcd.endpoint) as program:
        await program.lines(1)
        async with run_for_it("host-1") as first:
            await program.lines(2)
            async with run_for_it("another") as second:
                await until_candidates(newest_etcd, 2)
                async with run_for_it("host-2"):
                    await until_candidates(newest_etcd, 3)
                    # The candidates resign.
                    await second.end(signal.SIGINT)
                    await first.end(signal.SIGINT)
                    assert await program.lines(3) == shown("leader.md")


async def test_leader_as_it_is_typed(
    newest_etcd: Etcd, etcdctl: str, tmp_path: Path
) -> None:
    write_program(tmp_path, "leader.py", newest_etcd.endpoint, {})
    program, first, second, stop = typed("howto/leader.md")
    where = {"ETCDCTL_ENDPOINTS": newest_etcd.endpoint}
    async with open_shell(tmp_path, etcdctl, **where) as shell:
        await shell.type(program)
        await shell.cli.lines(1)
        await shell.type(first)
        await shell.cli.lines(2)
        await shell.type(second)
        await until_candidates(newest_etcd, 2)
        await shell.type(stop)
        assert await shell.cli.lines(3) == shown("leader.md")


async def test_snapshot_then_watch(newest_binary: str) -> None:
    # A compaction cannot be undone, so this needs a server of its own.
    async with open_etcd(binary=newest_binary) as etcd:
        page = shown("snapshot-then-watch.md")
        await etcd.put("/jobs/1", "sweep")
        async with open_program("snapshot_then_watch.py", etcd.endpoint) as program:
            assert await program.lines(1) == page[:1]
            await etcd.put("/jobs/2", "mop")
            await etcd.delete("/jobs/1")
            assert await program.lines(3) == page[:3]
            # Missed while the program is paused and its connection is broken.
            program.process.send_signal(signal.SIGSTOP)
            await etcd.restart()
            await etcd.put("/jobs/3", "")
            await etcd.delete("/jobs/3")
            revision = await etcd.put("/jobs/4", "dust")
            await etcd.compact(revision)
            program.process.send_signal(signal.SIGCONT)
            page[3] = b"compacted at revision %d" % revision
            assert await program.lines(6) == page


async def until_candidates(etcd: Etcd, count: int) -> None:
    """Wait until the election has this many candidates."""
    async with open_watcher(etcd.endpoint) as watcher:
        async with watcher.mirror("/election/mail/", prefix=True) as election:
            with trio.fail_after(LIMIT):
                await election.wait_for(lambda election: len(election) == count)
