"""A worker that continues after its own restart: no job is skipped or done twice.

Only a crash in the middle of jobs repeats those since the last bookmark.

    python examples/resumable_worker.py BOOKMARK [ENDPOINT]

Jobs are keys under a prefix. At its first start the worker reads a snapshot, and does
the jobs in it. After that it does each job when its event arrives, and stores
`watch.next_revision` in the file BOOKMARK after each response. When it is started
again, it continues there, including what was written while it was down. Without an
endpoint it runs a private etcd, and restarts itself, the second time after a
compaction.
"""

import math
import sys
from pathlib import Path

import trio

from trio_etcd_watch import CompactedError, KeyValue, Watcher, open_watcher
from trio_etcd_watch.testing import Etcd, open_etcd

PREFIX = "/jobs/"


def load(bookmark: Path) -> int:
    """Return where to continue; 0 if nothing was done yet."""
    return int(bookmark.read_text()) if bookmark.exists() else 0


def store(bookmark: Path, revision: int) -> None:
    """Store where to continue; a crash leaves either the old or the new bookmark."""
    draft = bookmark.with_suffix(".new")
    draft.write_text(str(revision))
    draft.replace(bookmark)


def do(job: KeyValue) -> None:
    """Do one job, which is only printed here."""
    print("done:", job.value.decode())


async def catch_up(watcher: Watcher, bookmark: Path) -> None:
    """Do the present jobs that were written since the bookmark."""
    start = load(bookmark)
    jobs = await watcher.snapshot(PREFIX, prefix=True)
    for job in sorted(jobs.values(), key=lambda job: job.mod_revision):
        if job.mod_revision >= start:
            do(job)
    store(bookmark, jobs.revision + 1)


async def follow(watcher: Watcher, bookmark: Path, last: float) -> None:
    """Do jobs as they are written, from the bookmark on and up to revision `last`."""
    async with watcher.watch(
        PREFIX, prefix=True, no_delete=True, start_revision=load(bookmark)
    ) as watch:
        async for response in watch:
            for event in response.events:
                do(event.kv)
            # A crash before this line repeats jobs of this response, but skips none.
            store(bookmark, watch.next_revision)
            if watch.next_revision > last:
                return


async def work(endpoint: str, bookmark: Path, *, last: float = math.inf) -> None:
    """Do all jobs without end, or those up to revision `last`."""
    print("the worker starts at revision", load(bookmark))
    async with open_watcher(endpoint) as watcher:
        if load(bookmark) == 0:
            await catch_up(watcher, bookmark)
        while load(bookmark) <= last:
            try:
                await follow(watcher, bookmark, last)
            except CompactedError as error:
                # The worker was down for so long that the events it needs have been
                # compacted. The snapshot shows a job that was written twice only once,
                # and does not show one that was deleted meanwhile.
                print("history begins at", error.compact_revision, "now: reading again")
                await catch_up(watcher, bookmark)


async def write(etcd: Etcd, numbers: range) -> int:
    """Write jobs; return the revision of the last one."""
    return [await etcd.put(f"{PREFIX}{i}", f"job {i}") for i in numbers][-1]


async def show(etcd: Etcd, bookmark: Path) -> None:
    """Run a worker that is stopped and restarted while jobs are written."""
    await etcd.compact(await write(etcd, range(2)))
    await work(etcd.endpoint, bookmark, last=await write(etcd, range(2, 3)))
    print("the worker is down")
    await work(etcd.endpoint, bookmark, last=await write(etcd, range(3, 6)))
    print("the worker is down")
    last = await write(etcd, range(6, 9))
    await etcd.compact(last)
    await work(etcd.endpoint, bookmark, last=last)


async def main(arguments: list[str]) -> None:
    """Run with the given endpoint, or with a private etcd."""
    if not arguments:
        sys.exit("usage: resumable_worker.py BOOKMARK [ENDPOINT]")
    bookmark = Path(arguments[0])
    if len(arguments) > 1:
        await work(arguments[1], bookmark)
    else:
        async with open_etcd() as etcd:
            await show(etcd, bookmark)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
