"""A learner among the endpoints serves no watch, and costs none."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.support.auth import ROOT, Guarded
from tests.support.helpers import LIMIT, eventually, split, take
from tests.support.partition import argument
from tests.support.proxy import open_proxy
from trio_etcd_watch import Channel, Watcher, open_watcher
from trio_etcd_watch._face import LIBRARY, construct
from trio_etcd_watch.testing import Etcd, EtcdRequestError, open_etcd
from trio_etcd_watch.testing._servers import reserve_port

LOSSES = 3


@asynccontextmanager
async def open_learner(voter: Etcd, directory: Path) -> AsyncGenerator[Etcd]:
    """Add a member without a vote to a cluster of one."""
    with ExitStack() as ports:
        client, peer = reserve_port(ports), reserve_port(ports)
        body = {"peerURLs": [f"http://{peer}"], "isLearner": True}
        await voter.request("/v3/cluster/member/add", body)
        cluster = f"{argument(voter, '--initial-cluster')},learner=http://{peer}"
        flags = {
            "name": "learner",
            "data-dir": directory / "data",
            "listen-client-urls": f"http://{client}",
            "advertise-client-urls": f"http://{client}",
            "listen-peer-urls": f"http://{peer}",
            "initial-advertise-peer-urls": f"http://{peer}",
            "initial-cluster": cluster,
            "initial-cluster-state": "existing",
        }
        # The last value of a flag counts.
        own = [f"--{flag}={value}" for flag, value in flags.items()]
        learner = construct(
            Etcd,
            LIBRARY,
            [*voter._command, *own],
            endpoint=client,
            version=voter.version,
            directory=directory,
            env=voter._env,
            ssl_context=None,
            resources=ports.pop_all(),
        )
        async with learner:
            await learner.start(wait=False)
            await learner.metrics()  # by now it serves what a learner may
            yield learner


@pytest.mark.parametrize("auth", [False, True], ids=["open", "auth"])
async def test_a_learner_among_the_endpoints(
    etcd_binary: str, auth: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "sample", lambda members, count: members)
    async with (
        open_etcd(binary=etcd_binary) as voter,
        open_learner(voter, tmp_path) as learner,
        open_proxy(*split(voter.endpoint)) as proxy,
    ):
        if auth:
            guarded = Guarded(voter)
            await guarded.set_up()
            voter.token = await guarded.token(ROOT)
        credentials = ROOT if auth else None
        channel = Channel(learner.endpoint, proxy.endpoint, credentials=credentials)
        with trio.fail_after(2 * LIMIT):
            # Opening tries the learner first, and so does each reconnect.
            async with open_watcher(channel) as watcher, watcher.watch("a") as watch:
                assert "learner" in str(watcher.statistics().last_loss)
                assert watcher.statistics().connections_made == 2
                for _ in range(LOSSES):
                    proxy.reset_all()
                    revision = await voter.put("a", "1")
                    assert (await take(watch, 1))[0].kv.mod_revision == revision
                    assert "learner" in str(watcher.statistics().last_loss)
                    # One more stream, on the present connection.
                    async with watcher.watch("a", metadata={"x": "y"}) as other:
                        assert other.created.header.revision == revision
                assert watcher.statistics().reconnects == LOSSES


async def test_a_learner_alone_is_waited_for(etcd_binary: str, tmp_path: Path) -> None:
    async with (
        open_etcd(binary=etcd_binary) as voter,
        open_learner(voter, tmp_path) as learner,
        open_watcher(learner.endpoint) as watcher,
        trio.open_nursery() as nursery,
    ):

        async def promote() -> None:
            members = (await voter.request("/v3/cluster/member/list"))["members"]
            [identity] = [each["ID"] for each in members if each.get("isLearner")]
            await eventually(lambda: is_refused(watcher))
            await eventually(lambda: is_promoted(voter, identity))
            await voter.put("a", "1")

        nursery.start_soon(promote)
        with trio.fail_after(LIMIT):
            async with watcher.watch("a", start_revision=1) as watch:
                assert len(await take(watch, 1)) == 1


async def is_refused(watcher: Watcher) -> bool:
    return "learner" in str(watcher.statistics().last_loss)


async def is_promoted(voter: Etcd, identity: str) -> bool:
    try:
        await voter.request("/v3/cluster/member/promote", {"ID": identity})
    except EtcdRequestError:
        return False  # it has not caught up yet
    return True
