"""Continue from a bookmark, if it belongs to this cluster and to its history."""

import json
import sys
from pathlib import Path

import trio

from trio_etcd_watch import Watch, Watcher, open_watcher

FILE = Path("jobs.bookmark")


def load() -> tuple[int, int]:
    """Return the id of the cluster, and the revision to start at."""
    cluster_id, revision = json.loads(FILE.read_text()) if FILE.exists() else (0, 0)
    return cluster_id, revision


def store(watch: Watch) -> None:
    """Replace the bookmark as a whole."""
    draft = FILE.with_suffix(".new")
    draft.write_text(json.dumps([watch.created.header.cluster_id, watch.next_revision]))
    draft.replace(FILE)


async def check(watcher: Watcher, watch: Watch, cluster_id: int, revision: int) -> None:
    """End the program if the bookmark is not valid in this cluster."""
    header = watch.created.header
    if header.cluster_id != cluster_id:
        sys.exit("the bookmark is of another cluster")
    if header.revision < revision - 1:
        # This member may lag; a snapshot has the cluster's revision.
        snapshot = await watcher.snapshot("/jobs/")
        if snapshot.header.revision < revision - 1:
            sys.exit("the cluster has lost history since the bookmark")


async def main() -> None:
    """Print each event once, across all restarts."""
    cluster_id, revision = load()
    async with open_watcher("127.0.0.1:2379") as watcher:
        async with watcher.watch(
            "/jobs/", prefix=True, start_revision=revision, progress_notify=True
        ) as watch:
            if revision:
                await check(watcher, watch, cluster_id, revision)
            store(watch)
            async for response in watch:
                for event in response.events:
                    print(event.type.name, event.kv.key, event.kv.value)
                store(watch)


if __name__ == "__main__":
    trio.run(main)
