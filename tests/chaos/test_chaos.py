"""Runs `chaos` for twenty seconds; `make chaos SECONDS=600 SEED=7` runs it longer."""

from __future__ import annotations

import pytest

from tests.chaos.report import Options
from tests.chaos.run import run


async def survives(options: Options) -> None:
    report = await run(options)
    assert report.violations == [], str(report)
    assert report.written
    assert report.delivered
    assert report.faults
    assert report.mirrors.by_history
    assert report.mirrors.by_range
    assert report.mirrors.syncs


@pytest.mark.parametrize("compact", [False, True])
async def test_one_server(etcd_binary: str, compact: bool) -> None:
    options = Options(seed=6, seconds=6.0, binary=etcd_binary, compact=compact)
    await survives(options)


async def test_cluster(etcd_binary: str) -> None:
    options = Options(seed=8, seconds=5.0, binary=etcd_binary, cluster=True)
    await survives(options)


async def test_storm(etcd_binary: str) -> None:
    options = Options(seed=10, seconds=4.0, binary=etcd_binary, storm=100, parks=2)
    await survives(options)
