"""Members are replaced until none of the given endpoints exists any more."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.support.auth import READER, ROOT, open_guarded
from tests.support.helpers import LIMIT, brief, eventually, split, take
from tests.support.proxy import open_proxy
from tests.support.replacing import Replacing, open_replacing, write_until
from trio_etcd_watch import (
    Channel,
    Event,
    Watch,
    Watcher,
    WatchError,
    _following,
    open_watcher,
)
from trio_etcd_watch.testing import Etcd


@asynccontextmanager
async def replaceable(
    kind: str, binary: str, folder: Path
) -> AsyncGenerator[tuple[Replacing, dict[str, Any]]]:
    """A cluster, and the arguments of a channel for it."""
    if kind == "open":
        async with open_replacing(binary, folder) as cluster:
            yield cluster, {}
        return
    ca = trustme.CA()
    server = ca.issue_cert("127.0.0.1")
    server.private_key_pem.write_to_path(folder / "key.pem")
    server.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    args = [f"--cert-file={folder / 'cert.pem'}", f"--key-file={folder / 'key.pem'}"]
    context = ssl.create_default_context()
    ca.configure_trust(context)
    async with open_replacing(
        binary, folder, args=args, context=context, auth=True
    ) as cluster:
        yield cluster, {"ssl_context": context, "credentials": ROOT}


async def read_to_the_end(watch: Watch, events: list[Event]) -> None:
    async for event in watch.events():
        events.append(event)
        if event.kv.key == b"w/end":
            return


async def is_known(watcher: Watcher, member: Etcd) -> bool:
    known = {each.endpoint for each in watcher.statistics().endpoints}
    return member.endpoint in known


async def all_resume(watcher: Watcher) -> bool:
    statistics = watcher.statistics()
    return statistics.live == 0 and statistics.resuming > 0


async def replace_as_they_are_listed(cluster: Replacing, watcher: Watcher) -> None:
    """Each member is removed once its successor is known, wherever the client is."""
    for old in list(cluster.members):
        new = await cluster.add()
        await eventually(lambda new=new: is_known(watcher, new))  # type: ignore[misc]  # lambda's default
        await cluster.remove(old)


async def replace_where_the_client_is(cluster: Replacing, watcher: Watcher) -> None:
    """The client's own member is removed each time; the next one lists the others."""
    remaining = list(cluster.members)
    while remaining:
        used = {each.endpoint for each in watcher.statistics().endpoints if each.in_use}
        old = next((each for each in remaining if each.endpoint in used), remaining[0])
        remaining.remove(old)
        new = await cluster.add()
        await cluster.remove(old)
        if old.endpoint in used:
            await eventually(lambda new=new: is_known(watcher, new))  # type: ignore[misc]  # lambda's default


@pytest.mark.parametrize(
    ("kind", "often"),
    [("tls and auth", True), ("open", False)],
    ids=["listed, tls and auth", "at once"],
)
async def test_all_members_are_replaced(
    etcd_binary: str,
    kind: str,
    often: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if often:
        # The default of five minutes for each member is too long for a test.
        monkeypatch.setattr(_following, "INTERVAL", 0.2)
    async with replaceable(kind, etcd_binary, tmp_path) as (cluster, arguments):
        given = [member.endpoint for member in cluster.members]
        follows = Channel(*given, follow_members=True, **arguments)
        follows_not = Channel(*given, **arguments)
        events: list[Event] = []
        stop = trio.Event()
        with trio.fail_after(6 * LIMIT):
            async with (
                open_watcher(follows) as watcher,
                open_watcher(follows_not) as other,
                watcher.watch("w/", prefix=True) as watch,
                other.watch("w/", prefix=True),
                watcher.mirror("w/", prefix=True) as mirror,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(read_to_the_end, watch, events)
                nursery.start_soon(write_until, cluster, stop)
                if often:
                    await replace_as_they_are_listed(cluster, watcher)
                else:
                    await replace_where_the_client_is(cluster, watcher)
                # Without the option there is no member to reconnect to.
                await eventually(lambda: all_resume(other))
                stop.set()
                await mirror.wait_for(lambda state: b"w/end" in state)
                await mirror.sync()
                copy = mirror.copy()
                assert watcher.statistics().live == 2
                start = watch.created.header.revision + 1
            # The writes until now, as the new members have them.
            history: list[Event] = []
            now = Channel(*(each.endpoint for each in cluster.members), **arguments)
            async with open_watcher(now) as reader:
                async with reader.watch(
                    "w/", prefix=True, start_revision=start
                ) as reading:
                    await read_to_the_end(reading, history)
                assert dict(await reader.snapshot("w/", prefix=True)) == dict(copy)
            assert len(history) > 10
            assert brief(events) == brief(history)


async def test_any_user_may_ask(etcd_binary: str) -> None:
    async with (
        open_guarded(etcd_binary, "--bcrypt-cost=4") as guarded,
        open_proxy(*split(guarded.etcd.endpoint)) as proxy,
    ):
        channel = Channel(proxy.endpoint, credentials=READER, follow_members=True)
        with trio.fail_after(LIMIT):
            async with open_watcher(channel) as watcher, watcher.watch("r") as watch:
                await eventually(lambda: is_known(watcher, guarded.etcd))
                await guarded.put("r", "1")
                assert len(await take(watch, 1)) == 1
                endpoints = {e.endpoint: e for e in watcher.statistics().endpoints}
        assert endpoints[proxy.endpoint].source == "given"
        assert endpoints[proxy.endpoint].in_use
        assert endpoints[guarded.etcd.endpoint].source == "member"
        assert not endpoints[guarded.etcd.endpoint].in_use


async def test_the_members_of_a_user_without_a_name_are_not_told(
    etcd_binary: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_etcd_watch")
    async with (
        open_guarded(etcd_binary, "--bcrypt-cost=4") as guarded,
        open_proxy(*split(guarded.etcd.endpoint)) as proxy,
        open_watcher(Channel(proxy.endpoint, follow_members=True)) as watcher,
    ):
        with trio.fail_after(LIMIT), pytest.raises(WatchError):
            async with watcher.watch("r"):
                pytest.fail("entered")

        async def is_logged() -> bool:
            lines = [record.getMessage() for record in caplog.records]
            return any("members" in line for line in lines)

        # Some servers list members to everybody; none ends a stream for being asked.
        await eventually(is_logged)
        assert watcher.statistics().connections_made == 1
