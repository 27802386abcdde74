"""A test of the limiter on a real etcd, which the fixture `etcd` runs."""

import trio

from limiter import open_limiter
from trio_etcd_watch import open_watcher
from trio_etcd_watch.testing import Etcd


async def test_survives_a_crash_of_the_server(etcd: Etcd) -> None:
    """What is written right after a crash takes effect."""
    await etcd.put("/config/limit", "1")
    async with open_watcher(etcd.endpoint) as watcher:
        async with open_limiter(watcher) as limiter:
            await etcd.kill()
            await etcd.start()
            await etcd.put("/config/limit", "2")
            with trio.fail_after(30):
                # A second token is available once the new limit is set.
                async with limiter:
                    await limiter.acquire_on_behalf_of("a second borrower")
