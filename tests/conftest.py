"""The servers that tests run on: that of the wheel, and another one on PATH."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

import trio_etcd_watch
from tests.support.helpers import SERVERS
from trio_etcd_watch import testing
from trio_etcd_watch.testing import Etcd
from trio_etcd_watch.testing import etcd as etcd


def pytest_report_header() -> str:
    """Say which decoder is tested: the one in Python wants a run of its own."""
    return f"speedups: {trio_etcd_watch.__speedups__}"


@pytest.fixture(scope="session", params=list(SERVERS.values()), ids=list(SERVERS))
def etcd_binary(request: pytest.FixtureRequest) -> str:
    """The program of each server in turn."""
    program: str = request.param
    return program


@pytest.fixture(scope="session")
def etcd_server(etcd_binary: str) -> Iterator[Etcd]:
    """As the fixture of the package, for each server in turn."""
    (server,) = trio.run(testing._start_members, 1, etcd_binary, (), {}, None)
    yield server
    trio.run(server.aclose)
