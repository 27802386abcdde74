"""Print who leads an election, whenever that changes."""

import trio

from trio_etcd_watch import KeyValue, Mirror, open_watcher


def leader_of(election: Mirror) -> KeyValue | None:
    """Return the key of the leader, which is the oldest, or None without one."""
    return min(election.values(), key=lambda kv: kv.create_revision, default=None)


async def main() -> None:
    """Print each change of the leader."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        async with watcher.mirror("/election/mail/", prefix=True) as election:
            last = None
            async for _ in election.changes():
                leader = leader_of(election)
                name = "nobody" if leader is None else leader.value.decode()
                if name != last:
                    print(name, "leads")
                last = name


if __name__ == "__main__":
    trio.run(main)
