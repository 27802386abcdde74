"""Tests of the limiter, on an etcd in memory."""

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from limiter import open_limiter
from trio_etcd_watch import PermissionDeniedError
from trio_etcd_watch.testing import ScriptedEtcd


async def test_follows_the_key() -> None:
    """The limit is the value of the key."""
    etcd = ScriptedEtcd({"/config/limit": "5"})
    async with etcd.open_watcher() as watcher, open_limiter(watcher) as limiter:
        await wait_all_tasks_blocked()
        assert limiter.total_tokens == 5
        await etcd.delete("/config/limit")
        await wait_all_tasks_blocked()
        assert limiter.total_tokens == 1


async def test_an_outage_changes_nothing(autojump_clock: MockClock) -> None:
    """The limit stays during an outage of etcd, and follows the key afterwards."""
    etcd = ScriptedEtcd({"/config/limit": "5"})
    async with etcd.open_watcher() as watcher, open_limiter(watcher) as limiter:
        await etcd.kill()
        await wait_all_tasks_blocked()
        assert limiter.total_tokens == 5
        await etcd.start()
        await etcd.put("/config/limit", "7")
        await etcd.wait_watched()
        await wait_all_tasks_blocked()
        assert limiter.total_tokens == 7


async def test_a_user_who_may_not_read_it() -> None:
    """Entering the block raises the error."""
    etcd = ScriptedEtcd()
    etcd.deny("/config/")
    async with etcd.open_watcher() as watcher:
        with pytest.raises(PermissionDeniedError):
            async with open_limiter(watcher):
                pytest.fail("the block must not be entered")
