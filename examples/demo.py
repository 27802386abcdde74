"""What the library is for, in half a minute: `make demo`.

Watches a prefix of a private etcd while a writer changes it. In the middle the server
is killed and started again. Then the events are compared with what was written: the
program exits with 1 if any was lost or repeated.
"""

import logging
import sys

import trio

from trio_etcd_watch import open_watcher
from trio_etcd_watch.testing import Delete, Etcd, Put, open_etcd

WRITES = 20


async def write(etcd: Etcd, written: list[tuple[int, bytes]]) -> None:
    """Put and delete, now one key and now three at once, through a killed server."""
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


async def main() -> int:
    """Watch, write, compare."""
    written: list[tuple[int, bytes]] = []
    seen: list[tuple[int, bytes]] = []
    async with open_etcd() as etcd, open_watcher(etcd.endpoint) as watcher:
        print(f"--- etcd {'.'.join(map(str, etcd.version))} on {etcd.endpoint}")
        async with (
            watcher.watch("/demo/", prefix=True) as watch,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(write, etcd, written)
            async for event in watch.events():
                kv = event.kv
                print(
                    f"{kv.mod_revision:4} {event.type.name:6} {kv.key!r} {kv.value!r}"
                )
                seen.append((kv.mod_revision, kv.key))
                if kv.key == b"/demo/end":
                    break
        reconnects = watcher.statistics().reconnects
    lost = len(set(written) - set(seen))
    repeated = len(seen) - len(set(seen))
    print(
        f"--- {len(written)} events written, {len(seen)} seen, {lost} lost, "
        f"{repeated} repeated, over {reconnects} reconnect(s)"
    )
    return 1 if lost or repeated or seen != written else 0


if __name__ == "__main__":
    logging.basicConfig(format="    %(name)s: %(message)s", stream=sys.stdout)
    logging.getLogger("trio_etcd_watch").setLevel(logging.INFO)
    sys.exit(trio.run(main))
