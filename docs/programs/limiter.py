"""A limiter whose limit is a key in etcd."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from trio_etcd_watch import Mirror, Watcher


async def follow(config: Mirror, limiter: trio.CapacityLimiter) -> None:
    """Set the limit at each change of the key; without the key it is 1."""
    async for _ in config.changes():
        kv = config.get("/config/limit")
        limiter.total_tokens = 1 if kv is None else int(kv.value)


@asynccontextmanager
async def open_limiter(watcher: Watcher) -> AsyncGenerator[trio.CapacityLimiter]:
    """Provide a limiter that follows the key while the block runs."""
    limiter = trio.CapacityLimiter(1)
    async with watcher.mirror("/config/limit") as config:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, config, limiter)
            yield limiter
            nursery.cancel_scope.cancel(reason="the limiter was closed")
