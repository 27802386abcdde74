"""The same events and keys from etcdctl, if it is installed."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import trio

from tests.support.cli import environment, open_cli, run_cli
from tests.support.helpers import LIMIT
from trio_etcd_watch.testing import Etcd, Put


async def write(etcd: Etcd) -> int:
    """Write so that there is every kind of event; return the revision before."""
    before = await etcd.revision()
    await etcd.txn(Put("k", "1"), Put("k\xe4", "v\xe4"), Put(b"k\xff", b"\xfe\n"))
    await etcd.put("k", "2")
    lease = await etcd.request("/v3/lease/grant", {"TTL": 600})
    await etcd.request("/v3/kv/put", {"key": "a2w=", "lease": lease["ID"]})
    await etcd.delete("k", prefix=True)
    await etcd.put("k", "back")
    return before


async def watched(etcdctl: str, etcd: Etcd, *arguments: str, until: bytes) -> bytes:
    """Return the output of etcdctl's watch, up to these bytes."""
    process = await trio.lowlevel.open_process(
        [etcdctl, f"--endpoints={etcd.endpoint}", "watch", *arguments],
        env=environment(ETCDCTL_API="3"),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    seen = b""
    with trio.fail_after(LIMIT):
        while until not in seen:
            some = await process.stdout.receive_some()
            assert some, f"it has ended: {seen!r}"
            seen += some
    process.kill()
    await process.wait()
    await process.stdout.aclose()
    return seen


def flat(responses: bytes) -> list[dict[str, Any]]:
    """Return the events of etcdctl's JSON, which omits values that are 0 or empty."""
    events = []
    for line in responses.splitlines():
        for event in json.loads(line)["Events"]:
            kind = "DELETE" if event.get("type") else "PUT"
            events.append({**event, "type": kind})
    return events


def lean(event: dict[str, Any]) -> dict[str, Any]:
    """Return one of our lines, without what etcdctl lacks or omits."""
    return {
        name: {k: v for k, v in part.items() if v and not k.endswith("_utf8")}
        if isinstance(part, dict)
        else part
        for name, part in event.items()
    }


@pytest.mark.parametrize("prev_kv", [False, True])
async def test_a_watch_in_json(any_etcd: Etcd, etcdctl: str, prev_kv: bool) -> None:
    before = await write(any_etcd)
    arguments = ["k", "--prefix", f"--rev={before + 1}"]
    arguments += ["--prev-kv"] * prev_kv
    async with open_cli(
        "watch", *arguments, "--json", f"--endpoints={any_etcd.endpoint}"
    ) as cli:
        ours = await cli.objects(9)
    theirs = await watched(etcdctl, any_etcd, *arguments, "-wjson", until=b"YmFjaw==")
    assert [lean(event) for event in ours] == flat(theirs)
    assert any("prev_kv" in event for event in ours) == prev_kv


async def test_a_watch_for_people(any_etcd: Etcd, etcdctl: str) -> None:
    before = await write(any_etcd)
    arguments = ["k", "--prefix", f"--rev={before + 1}", "--prev-kv"]
    theirs = await watched(etcdctl, any_etcd, *arguments, until=b"back\n")
    async with open_cli("watch", *arguments, f"--endpoints={any_etcd.endpoint}") as cli:
        await cli.lines(theirs.count(b"\n"))
    assert cli.output == theirs


@pytest.mark.parametrize(
    "arguments",
    [["k"], ["k", "--prefix"], ["", "--prefix"], ["k\xe4", "--from-key"], ["absent"]],
)
async def test_a_get(any_etcd: Etcd, etcdctl: str, arguments: list[str]) -> None:
    rev = [f"--rev={await write(any_etcd) + 2}"]
    where = f"--endpoints={any_etcd.endpoint}"
    theirs = await trio.run_process(
        [etcdctl, where, "get", *arguments, *rev],
        env=environment(ETCDCTL_API="3"),
        capture_stdout=True,
    )
    ours = await run_cli("get", *arguments, *rev, where)
    assert (ours.returncode, ours.stdout) == (0, theirs.stdout)
