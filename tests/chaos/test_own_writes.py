"""Some rounds of `own_writes`; `python -m tests.chaos.own_writes` runs thousands."""

from __future__ import annotations

from unittest.mock import patch

import trio

from tests.chaos.own_writes import run_cluster, run_single
from tests.support.helpers import LIMIT
from trio_etcd_watch._follower import Follower

ROUNDS = 200


async def test_on_one_server(etcd_binary: str) -> None:
    with trio.fail_after(4 * LIMIT):
        outcome = await run_single(ROUNDS, etcd_binary)
    assert outcome.failures == []
    assert outcome.rounds == ROUNDS
    assert outcome.syncs
    assert outcome.quiet_syncs
    assert outcome.ranges


async def test_with_a_member_that_lags(etcd_binary: str) -> None:
    with trio.fail_after(4 * LIMIT):
        outcome = await run_cluster(ROUNDS, etcd_binary)
    assert outcome.failures == []
    assert outcome.rounds == ROUNDS


async def test_a_sync_that_does_not_wait_is_caught(etcd_binary: str) -> None:
    async def sync(follower: Follower) -> None:
        await trio.lowlevel.checkpoint()

    with trio.fail_after(4 * LIMIT), patch.object(Follower, "sync", sync):
        outcome = await run_cluster(ROUNDS // 4, etcd_binary)
    assert outcome.failures
