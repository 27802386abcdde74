"""Show in half a minute what the library does: `make demo`.

The program watches a prefix of a private etcd while a writer changes it. In the middle
the server is killed and started again. Then the events are compared with what was
written. A mirror of the prefix is open meanwhile, and also during another kill and a
compaction of what is written after it. At the end it is compared with a read. The
program exits with 1 if an event was lost or repeated, or if the mirror differs.
"""

import logging
import sys

import trio

from trio_etcd_watch import Watcher, open_watcher
from trio_etcd_watch.testing import Delete, Etcd, Put, open_etcd

WRITES = 20


async def write(etcd: Etcd, written: list[tuple[int, bytes]]) -> None:
    """Put and delete one to three keys at a time, and kill the server in between."""
    for i in range(WRITES):
        if i == WRITES // 2:
            print("--- kill -9: the server is gone")
            await etcd.kill()
            await trio.sleep(1)
            print("--- and started again on the same data")
            await etcd.start()
        keys = [f"/demo/{i}/{name}" for name in "abc"[: 1 + i % 3]]
        operations = [Put(key, f"value {i}") for key in keys]
        revision = await etcd.txn(*operations)
        written += [(revision, key.encode()) for key in keys]
        if i % 5 == 4:
            revision = await etcd.txn(*(Delete(key) for key in keys))
            written += [(revision, key.encode()) for key in keys]
        await trio.sleep(0.1)
    written.append((await etcd.put("/demo/end", ""), b"/demo/end"))


async def compact_unseen(etcd: Etcd) -> None:
    """Kill the server again, and compact what is written after its start."""
    print("--- kill -9 again; what is written then is compacted at once")
    await etcd.kill()
    await etcd.start()
    await etcd.delete("/demo/end")
    await etcd.put("/demo/late", "1")
    await etcd.compact(await etcd.put("/demo/late", "2"))


async def watch_all(watcher: Watcher, etcd: Etcd) -> bool:
    """Watch during the writes; return whether each event was seen exactly once."""
    written: list[tuple[int, bytes]] = []
    seen: list[tuple[int, bytes]] = []
    async with (
        watcher.watch("/demo/", prefix=True) as watch,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(write, etcd, written)
        async for event in watch.events():
            kv = event.kv
            print(f"{kv.mod_revision:4} {event.type.name:6} {kv.key!r} {kv.value!r}")
            seen.append((kv.mod_revision, kv.key))
            if kv.key == b"/demo/end":
                break
    lost = len(set(written) - set(seen))
    repeated = len(seen) - len(set(seen))
    print(
        f"--- {len(written)} events written, {len(seen)} seen, {lost} lost, "
        f"{repeated} repeated, over {watcher.statistics().reconnects} reconnect(s)"
    )
    return seen == written


async def main() -> int:
    """Watch and mirror a prefix, write, and compare."""
    async with open_etcd() as etcd, open_watcher(etcd.endpoint) as watcher:
        print(f"--- etcd {'.'.join(map(str, etcd.version))} on {etcd.endpoint}")
        async with watcher.mirror("/demo/", prefix=True) as mirror:
            all_seen = await watch_all(watcher, etcd)
            await compact_unseen(etcd)
            # After this the mirror has everything that was written, by any client.
            await mirror.sync()
            read = await watcher.snapshot("/demo/", prefix=True)
            equal = dict(mirror) == dict(read)
            print(
                f"--- a mirror of {len(mirror)} keys at revision {mirror.revision} is "
                f"{'equal to' if equal else 'not'} what a read gives: {len(read)} keys "
                f"at revision {read.revision}"
            )
    return 0 if all_seen and equal else 1


if __name__ == "__main__":
    logging.basicConfig(format="    %(name)s: %(message)s", stream=sys.stdout)
    logging.getLogger("trio_etcd_watch").setLevel(logging.INFO)
    sys.exit(trio.run(main))
