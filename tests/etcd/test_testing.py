"""The etcd that other tests rely on: started, hurt, repaired and removed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from tests.support.servers import assert_nothing_left, is_alive, keys_of
from trio_etcd_watch.testing import (
    Etcd,
    EtcdRequestError,
    Put,
    _servers,
    open_cluster,
    open_etcd,
)

LIMIT = 60.0
ROOT = Path(__file__).parents[2]


async def test_serves_and_leaves_nothing(etcd_binary: str) -> None:
    with trio.fail_after(LIMIT):
        async with open_etcd(binary=etcd_binary) as etcd:
            assert etcd.version >= (3, 4, 0)
            assert is_alive(etcd.pid)
            assert etcd.data_dir.is_dir()
            before = await etcd.revision()
            assert await etcd.put("a", "1") == before + 1
            assert await etcd.revision() == before + 1
            assert await keys_of(etcd) == [b"a"]
    assert_nothing_left(etcd)


async def test_an_error_of_the_body_leaves_nothing(etcd_binary: str) -> None:
    seen: list[Etcd] = []

    async def fail() -> None:
        async with open_etcd(binary=etcd_binary) as etcd:
            seen.append(etcd)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()
    assert_nothing_left(seen[0])


async def test_cancellation_leaves_nothing(etcd_binary: str) -> None:
    seen: list[Etcd] = []
    with trio.CancelScope() as scope:
        async with open_etcd(binary=etcd_binary) as etcd:
            seen.append(etcd)
            await etcd.pause()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert_nothing_left(seen[0])


async def test_cancellation_of_the_start_leaves_nothing(
    etcd_binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with trio.move_on_after(0.05) as scope:
        async with open_cluster(3, binary=etcd_binary):
            raise AssertionError
    assert scope.cancelled_caught
    assert os.listdir(tmp_path) == []


async def test_only_the_given_variables_of_etcd_reach_it(
    etcd_binary: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ETCD_NAME", "refused beside --name")
    async with open_etcd(binary=etcd_binary, env={"ETCD_MAX_TXN_OPS": "1"}) as etcd:
        await etcd.txn(Put("a", "1"))
        with pytest.raises(EtcdRequestError, match="too many operations"):
            await etcd.txn(Put("a", "1"), Put("b", "1"))


async def test_a_port_that_is_taken(
    etcd_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        host, port = occupied.getsockname()
        endpoints = [f"{host}:{port}"]
        reserve = _servers.reserve_port

        def reserve_port(resources: ExitStack) -> str:
            return endpoints.pop() if endpoints else reserve(resources)

        monkeypatch.setattr(_servers, "reserve_port", reserve_port)
        async with open_etcd(binary=etcd_binary) as etcd:
            assert etcd.endpoint != f"{host}:{port}"
            await etcd.put("a", "1")


async def test_cluster(etcd_binary: str) -> None:
    with trio.fail_after(LIMIT):
        async with open_cluster(3, binary=etcd_binary) as cluster:
            first, second, third = cluster.members
            assert cluster.endpoints == [each.endpoint for each in cluster.members]
            before = await first.put("a", "1")
            await first.kill()
            await second.wait_serving()
            assert await third.put("a", "2") == before + 1
            await first.start()
            assert await first.put("a", "3") == before + 2

            for member in cluster.members:
                await member.kill()
            await first.start(wait=False)  # it cannot serve alone
            with trio.move_on_after(0.5) as no_quorum:
                await first.wait_serving()
            assert no_quorum.cancelled_caught
            await second.start()
            assert await second.put("a", "4") == before + 3
            await first.pause()
    for member in cluster.members:
        assert_nothing_left(member)


def test_fixtures(etcd_binary: str, tmp_path: Path) -> None:
    tmp_path.joinpath("conftest.py").write_text(
        'pytest_plugins = ["trio_etcd_watch.testing"]\n'
    )
    tmp_path.joinpath("test_it.py").write_text("""
from functools import partial
import pytest
import trio

@pytest.mark.parametrize("hurt", ["kill", "pause", "stop"])
def test_is_mended_and_empty(etcd, hurt):
    revision = trio.run(etcd.revision)
    assert trio.run(partial(etcd.delete, "", prefix=True)) == revision
    trio.run(etcd.put, "a", "1")
    trio.run(getattr(etcd, hurt))

async def test_with_pytest_trio(etcd):
    await etcd.put("a", "1")

def test_is_one_server(etcd, etcd_server):
    assert etcd is etcd_server
""")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-Werror", "-o", "trio_mode=true", tmp_path],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(tmp_path),
            "TRIO_ETCD_WATCH_ETCD": etcd_binary,
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "5 passed" in result.stdout, result.stdout
    assert not list(tmp_path.glob("trio-etcd-watch-*"))


def test_imports_without_pytest() -> None:
    program = """
import sys
sys.modules["pytest"] = None
from trio_etcd_watch import testing
from trio_etcd_watch.testing._gateway import Gateway
assert not hasattr(testing, "etcd_server")
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=env, check=True)
