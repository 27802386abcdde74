"""Clusters that are found by DNS: a real name server, real etcds."""

from __future__ import annotations

import pytest
import trio

from tests.support.helpers import LIMIT, take
from tests.support.names import Hosts
from tests.support.nameserver import PLAIN, open_nameserver
from trio_etcd_watch import open_watcher
from trio_etcd_watch.testing import Etcd


async def test_found_by_plain_records(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = etcd.endpoint.partition(":")[2]
    Hosts(**{"m0.example.com": "127.0.0.1"}).use()
    async with open_nameserver(monkeypatch) as server:
        server.records[PLAIN] = [f"0 0 {port} m0.example.com."]
        with trio.fail_after(LIMIT):
            async with open_watcher("etcd+srv://example.com") as watcher:
                async with watcher.watch("a") as watch:
                    await etcd.put("a", "1")
                    assert len(await take(watch, 1)) == 1
                [endpoint] = watcher.statistics().endpoints
    assert endpoint.endpoint == f"m0.example.com:{port}"
    assert (endpoint.source, endpoint.in_use) == ("srv", True)
