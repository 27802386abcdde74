"""A real etcd and a scripted one give the same results to the same programs."""

from __future__ import annotations

import functools
import random

import pytest

from tests.support.helpers import take
from tests.support.twins import PROGRAMS, Program, Stage, run
from trio_etcd_watch import open_watcher
from trio_etcd_watch.testing import Delete, Etcd, Put, ScriptedEtcd


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.__name__)
async def test_told_the_same(etcd: Etcd, program: Program) -> None:
    scripted = ScriptedEtcd()
    by_script = await run(program, scripted, scripted.open_watcher())
    by_server = await run(program, etcd, open_watcher(etcd.endpoint))
    assert by_script == by_server
    assert by_script


async def at_random(stage: Stage, seed: int) -> None:
    """Write at random, then read ranges and histories of all kinds."""
    chance = random.Random(seed)
    names = [bytes(chance.choices(b"ab\xff", k=chance.randint(1, 3))) for _ in range(9)]
    for _ in range(40):
        some = chance.sample(sorted(set(names)), 2)
        value = str(chance.random())
        operations = [
            Delete(key) if chance.random() < 0.3 else Put(key, value) for key in some
        ]
        await stage.etcd.txn(*operations)
    last = await stage.etcd.revision() - stage.base
    stage.note(last)
    for _ in range(30):
        first, end = sorted(chance.choices(names, k=2))
        way = chance.choice(["prefix", "from_key", "range_end", "key"])
        given = {"prefix": True, "from_key": True, "range_end": end + b"a"}.get(way)
        keys = {way: given} if given else {}
        at = stage.base + chance.randint(1, last)
        snapshot = await stage.watcher.snapshot(first, revision=at, **keys)  # type: ignore[call-overload]  # one of them
        stage.keys(snapshot.values())
    start = stage.base + chance.randint(1, last)
    async with stage.watcher.watch(
        "", prefix=True, start_revision=start, prev_kv=True
    ) as watch:
        while stage.ago(watch.next_revision) <= last:
            for event in await take(watch, 1):
                stage.event(event)


@pytest.mark.parametrize("seed", range(5))
async def test_told_the_same_of_anything(any_etcd: Etcd, seed: int) -> None:
    program = functools.partial(at_random, seed=seed)
    scripted = ScriptedEtcd()
    by_script = await run(program, scripted, scripted.open_watcher())
    by_server = await run(program, any_etcd, open_watcher(any_etcd.endpoint))
    assert by_script == by_server
    assert len(by_script) > 30
