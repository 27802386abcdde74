"""A worker that continues after its own restart: no job is skipped, none done twice.

    python examples/resumable_worker.py BOOKMARK [ENDPOINT]

Jobs are keys under a prefix. After each response the worker stores
`watch.next_revision` in the file BOOKMARK; when it is started again it goes on there,
also with what was written while it was down. Without an endpoint it runs a private
etcd, and restarts itself once.
"""

import sys
from pathlib import Path

import trio

from trio_etcd_watch import CompactedError, open_watcher
from trio_etcd_watch.testing import Etcd, open_etcd

PREFIX = "/jobs/"


def load(bookmark: Path) -> int:
    """Return where to continue; 1 is the beginning of history."""
    return int(bookmark.read_text()) if bookmark.exists() else 1


def store(bookmark: Path, revision: int) -> None:
    """Store where to continue, so that a crash leaves the old place or the new."""
    draft = bookmark.with_suffix(".new")
    draft.write_text(str(revision))
    draft.replace(bookmark)


async def work(endpoint: str, bookmark: Path, *, jobs: int | None = None) -> None:
    """Do jobs; all there will ever be, or as many as are asked for."""
    start = load(bookmark)
    print("the worker starts at revision", start)
    async with open_watcher(endpoint) as watcher:
        async with watcher.watch(
            PREFIX, prefix=True, no_delete=True, start_revision=start
        ) as watch:
            try:
                async for response in watch:
                    for event in response.events:
                        print("done:", event.kv.value.decode())
                    # Only now: a crash in between repeats this response's jobs, but
                    # skips none.
                    store(bookmark, watch.next_revision)
                    if jobs is not None:
                        jobs -= len(response.events)
                        if jobs <= 0:
                            return
            except CompactedError as error:
                # We were down for so long that jobs may be gone from the history. A
                # real worker would now read the prefix, and watch from there.
                sys.exit(f"history begins at {error.compact_revision} now")


async def show(etcd: Etcd, bookmark: Path) -> None:
    """Play a worker that goes down while jobs come in."""
    for i in range(3):
        await etcd.put(f"{PREFIX}{i}", f"job {i}")
    await work(etcd.endpoint, bookmark, jobs=3)
    print("the worker is down")
    for i in range(3, 6):
        await etcd.put(f"{PREFIX}{i}", f"job {i}")
    await work(etcd.endpoint, bookmark, jobs=3)


async def main(arguments: list[str]) -> None:
    """Run on the endpoint given, or on an etcd of our own."""
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
