"""The commands of other programs on the how-to pages do what the pages say."""

from __future__ import annotations

import re
import shlex
import subprocess
from contextlib import ExitStack

import trio

from tests.support.cli import run_cli
from tests.support.programs import blocks
from trio_etcd_watch.testing import Etcd, open_etcd
from trio_etcd_watch.testing._servers import reserve_port


def commands(page: str, program: str) -> list[list[str]]:
    """Return the calls of a program that a page shows."""
    lines = "".join(blocks(page, "console")).splitlines()
    return [shlex.split(line[2:]) for line in lines if line.startswith(f"$ {program} ")]


async def etcdctl_says(
    etcdctl: str, etcd: Etcd, *arguments: str, stdin: bytes = b""
) -> str:
    done = await trio.run_process(
        [etcdctl, f"--endpoints={etcd.endpoint}", *arguments],
        stdin=stdin,
        capture_stdout=True,
    )
    return done.stdout.decode()


async def test_a_role_for_the_range(etcd_binary: str, etcdctl: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        for _, *arguments in commands("howto/auth.md", "etcdctl"):
            if arguments[:2] == ["user", "add"]:
                # On a terminal it asks for the password.
                arguments.append("--interactive=false")
            await etcdctl_says(etcdctl, etcd, *arguments, stdin=b"secret")
        user = await etcdctl_says(etcdctl, etcd, "user", "get", "reader")
        assert "config-reader" in user
        role = await etcdctl_says(etcdctl, etcd, "role", "get", "config-reader")
        assert "[/config/, /config0)" in role


async def test_an_instance_is_registered(newest_etcd: Etcd, etcdctl: str) -> None:
    page = "howto/service-discovery.md"
    grant, put, keep_alive = commands(page, "etcdctl")
    granted = await etcdctl_says(etcdctl, newest_etcd, *grant[1:])
    assert granted.count("\n") == 1
    pattern = r"lease (\w+) granted with TTL\(10s\)"
    lease = re.fullmatch(pattern, granted.strip())
    (shown,) = re.findall(pattern, blocks(page, "console")[0])
    assert lease
    for _, *arguments in (put, [*keep_alive, "--once"]):
        actual = [argument.replace(shown, lease[1]) for argument in arguments]
        assert actual != arguments
        await etcdctl_says(etcdctl, newest_etcd, *actual)
    remaining = await etcdctl_says(
        etcdctl, newest_etcd, "lease", "timetolive", lease[1], "--keys"
    )
    assert "/services/mail/one" in remaining


async def test_the_grpc_proxy(newest_etcd: Etcd, newest_binary: str) -> None:
    ((_, *arguments),) = commands("howto/proxies.md", "etcd")
    assert [argument.partition("=")[0] for argument in arguments] == [
        "grpc-proxy",
        "start",
        "--endpoints",
        "--listen-addr",
    ]
    await newest_etcd.put("/config/limit", "5")
    with ExitStack() as resources:
        endpoint = reserve_port(resources)
        process = await trio.lowlevel.open_process(
            [
                newest_binary,
                *arguments[:2],
                f"--endpoints={newest_etcd.endpoint}",
                f"--listen-addr={endpoint}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            got = await run_cli("get", "/config/limit", f"--endpoints={endpoint}")
            assert got.stdout == b"/config/limit\n5\n"
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
