"""A watch that continues at its bookmark, however the program ended before."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.cli import Cli, objects, open_cli, run_cli
from tests.support.helpers import LIMIT, eventually
from trio_etcd_watch import open_watcher
from trio_etcd_watch.testing import Etcd, open_etcd

KILLS = 20


async def write(etcd: Etcd) -> None:
    """Write until cancelled."""
    for number in itertools.count():
        await etcd.put(f"k{number % 7}", str(number))
        await trio.sleep(0.002)


async def history(etcd: Etcd, first: int, last: int) -> list[int]:
    """Return the revisions to be printed, read without the program."""
    async with (
        open_watcher(etcd.endpoint) as watcher,
        watcher.watch("k", prefix=True, start_revision=first) as watch,
    ):
        revisions = [0]
        with trio.fail_after(LIMIT):
            while revisions[-1] < last:
                revisions += [e.kv.mod_revision for e in (await anext(watch)).events]
    return revisions[1:]


def revisions_of(lines: list[Any]) -> list[int]:
    return [line["kv"]["mod_revision"] for line in lines]


async def revisions_until(cli: Cli, last: int) -> list[int]:
    """Return the printed revisions, once it has come this far."""
    revisions = revisions_of(await cli.objects(1))
    while revisions[-1] < last:
        revisions = revisions_of(await cli.objects(len(revisions) + 1))
    return revisions


def command(etcd: Etcd, start: int, bookmark: Path) -> list[str]:
    return [
        "watch",
        "k",
        "--prefix",
        "--json",
        f"--rev={start}",
        f"--bookmark={bookmark}",
        f"--endpoints={etcd.endpoint}",
    ]


async def follow(
    etcd: Etcd, number: signal.Signals, bookmark: Path
) -> tuple[list[list[int]], list[int]]:
    """Start and end the program again and again while keys are written.

    Returns:
        What each run has printed, and everything that had to be printed.
    """
    start = await etcd.revision() + 1
    arguments = command(etcd, start, bookmark)
    chance = random.Random(7)
    printed = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, etcd)
        for _ in range(KILLS):
            async with open_cli(*arguments) as cli:
                await cli.lines(1)
                await trio.sleep(chance.random() / 10)
                assert await cli.end(number) == -number
            # A crash may truncate the last line.
            whole = cli.output.rpartition(b"\n")[0]
            printed.append(revisions_of(objects(whole)))
        nursery.cancel_scope.cancel()
    last = await etcd.put("k", "last")
    async with open_cli(*arguments) as cli:
        revisions = await revisions_until(cli, last)
        await cli.end()
    return [*printed, revisions], await history(etcd, start, last)


async def test_nothing_is_lost_or_repeated_over_orderly_ends(
    any_etcd: Etcd, tmp_path: Path
) -> None:
    printed, everything = await follow(any_etcd, signal.SIGTERM, tmp_path / "mark")
    assert [each for run in printed for each in run] == everything


async def test_nothing_is_lost_over_crashes(any_etcd: Etcd, tmp_path: Path) -> None:
    """Only what was printed and not yet noted is printed again."""
    printed, everything = await follow(any_etcd, signal.SIGKILL, tmp_path / "mark")
    assert sorted({each for run in printed for each in run}) == everything
    for run, following in itertools.pairwise(printed):
        assert run == sorted(set(run))
        # It continues at or before the end of the last run, and skips nothing.
        begin = everything.index(following[0])
        assert begin <= everything.index(run[-1]) + 1


async def test_nothing_is_lost_or_repeated_over_kills_of_the_server(
    etcd: Etcd, tmp_path: Path
) -> None:
    """The server is killed, too, and the program is restarted every fifth time.

    The server says what had to be printed: etcd 3.5.0 to 3.5.2 may lose acknowledged
    writes when they are killed (etcd#13766), and use their revisions again.
    """
    bookmark = tmp_path / "mark"
    start = last = await etcd.revision() + 1
    arguments = command(etcd, start, bookmark)
    seen: list[int] = []
    for _ in range(4):
        async with open_cli(*arguments) as cli:
            for _ in range(KILLS // 4):
                for number in range(5):
                    await etcd.put(f"k{number}", "1")
                await etcd.kill()
                await etcd.start()
                last = await etcd.put("k", "2")
            seen += await revisions_until(cli, last)
            assert await cli.end() == -signal.SIGTERM
        last = await etcd.put("k", "in between")
    async with open_cli(*arguments) as cli:
        seen += await revisions_until(cli, last)
    assert seen == await history(etcd, start, last)


async def test_it_is_there_from_the_beginning(any_etcd: Etcd, tmp_path: Path) -> None:
    """So nothing is missed that comes before the first event is printed."""
    bookmark = tmp_path / "mark"
    revision = await any_etcd.put("k", "before")
    arguments = [each for each in command(any_etcd, 0, bookmark) if "--rev" not in each]

    async def is_there() -> bool:
        return bookmark.exists()

    async with open_cli(*arguments) as cli:
        await eventually(is_there)
        await cli.end(signal.SIGKILL)
    assert json.loads(bookmark.read_text())["next_revision"] == revision + 1
    assert os.listdir(tmp_path) == ["mark"]
    await any_etcd.put("k", "after")
    async with open_cli(*arguments) as cli:
        (event,) = await cli.objects(1)
    assert event["kv"]["value_utf8"] == "after"


async def test_it_moves_with_progress(etcd_binaries: list[str], tmp_path: Path) -> None:
    """Also when nothing is printed, so that an idle watch survives compaction."""
    bookmark = tmp_path / "mark"
    args = ["--experimental-watch-progress-notify-interval=200ms"]
    async with open_etcd(binary=etcd_binaries[0], args=args) as etcd:
        await etcd.put("k", "1")
        async with open_cli(*command(etcd, 1, bookmark)) as cli:
            await cli.lines(1)
            revision = await etcd.put("elsewhere", "1")

            async def has_moved() -> bool:
                stored = json.loads(bookmark.read_text())
                return bool(stored["next_revision"] == revision + 1)

            await eventually(has_moved)
            await cli.end()
            assert cli.output.count(b"\n") == 1
        await etcd.compact(revision)
        async with open_cli(*command(etcd, 1, bookmark)) as cli:
            await etcd.put("k", "2")
            await cli.lines(1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("5", "is not a bookmark, or is incomplete"),
        ("secret notes", "is not a bookmark, or is incomplete"),
        (
            '{"format": "trio-etcd-watch bookmark 1", "clus',
            "is not a bookmark, or is incomplete",
        ),
    ],
)
async def test_a_foreign_file_is_left_alone(
    tmp_path: Path, content: str, message: str
) -> None:
    bookmark = tmp_path / "mark"
    bookmark.write_text(content)
    done = await run_cli("watch", "k", f"--bookmark={bookmark}")
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"{bookmark} {message}; remove it to start over" in done.stderr.decode()
    assert bookmark.read_text() == content


async def test_one_of_another_range(any_etcd: Etcd, tmp_path: Path) -> None:
    bookmark = tmp_path / "mark"
    await any_etcd.put("k", "1")
    async with open_cli(*command(any_etcd, 1, bookmark)) as cli:
        await cli.lines(1)
        await cli.end()
    done = await run_cli(
        "watch", "k", f"--bookmark={bookmark}", f"--endpoints={any_etcd.endpoint}"
    )
    assert done.returncode == 2
    assert b"is the bookmark of another range: b'k' to b'l'" in done.stderr


async def test_one_that_cannot_be_written(any_etcd: Etcd, tmp_path: Path) -> None:
    """The error is reported before anything is printed."""
    await any_etcd.put("k", "1")
    done = await run_cli(*command(any_etcd, 1, tmp_path / "absent" / "mark"))
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"absent/mark.new: No such file or directory" in done.stderr


async def test_history_that_is_gone(etcd_binaries: list[str], tmp_path: Path) -> None:
    bookmark = tmp_path / "mark"
    async with open_etcd(binary=etcd_binaries[0]) as etcd:
        await etcd.put("k", "1")
        async with open_cli(*command(etcd, 1, bookmark)) as cli:
            await cli.lines(1)
            await cli.end()
        await etcd.put("k", "2")
        await etcd.compact(await etcd.put("k", "3"))
        done = await run_cli(*command(etcd, 1, bookmark))
        assert (done.returncode, done.stdout) == (3, b"")
        assert f"the history that {bookmark} needs is gone".encode() in done.stderr
        assert json.loads(bookmark.read_text())["next_revision"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cluster_id": 77}, "created in cluster 4d, but cluster"),
        ({"next_revision": 10**9}, "the cluster has lost history"),
    ],
)
async def test_another_history(
    any_etcd: Etcd, tmp_path: Path, change: dict[str, int], message: str
) -> None:
    bookmark = tmp_path / "mark"
    await any_etcd.put("k", "1")
    async with open_cli(*command(any_etcd, 1, bookmark)) as cli:
        await cli.lines(1)
        await cli.end()
    stored = json.loads(bookmark.read_text())
    bookmark.write_text(json.dumps(stored | change))
    done = await run_cli(*command(any_etcd, 1, bookmark))
    assert (done.returncode, done.stdout) == (3, b"")
    assert message in done.stderr.decode()
    assert json.loads(bookmark.read_text()) == stored | change
