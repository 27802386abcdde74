"""Keep many tasks informed from one mirror."""

import trio

from trio_etcd_watch import Mirror, open_watcher

TENANTS = ("blue", "green", "red")


async def serve_tenant(name: str, config: Mirror) -> None:
    """Print how many settings a tenant has, whenever one of them changes."""
    folder = f"/tenants/{name}/"
    settings = config.prefix(folder)
    async for update in config.changes():
        if any(change.key.startswith(folder.encode()) for change in update.changes):
            print(f"{name} has {len(settings)} settings")


async def main() -> None:
    """Serve all tenants from one mirror."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        async with watcher.mirror("/tenants/", prefix=True) as config:
            async with trio.open_nursery() as nursery:
                for name in TENANTS:
                    nursery.start_soon(serve_tenant, name, config)


if __name__ == "__main__":
    trio.run(main)
