"""Fixtures, and what runs each test of a server on every etcd that is installed."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import trio
from hypothesis import HealthCheck, settings

import trio_etcd_watch
from tests.support.servers import describe, servers
from trio_etcd_watch.testing import Etcd
from trio_etcd_watch.testing import etcd as etcd
from trio_etcd_watch.testing._servers import start_members

# A test does not fail because the machine is busy.
settings.register_profile(
    "no hurry", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("no hurry")

# A shell starts its background jobs with SIGINT ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    # The Python decoder is tested in a separate run.
    return [*describe(), f"speedups: {trio_etcd_watch.__speedups__}"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Here, and not at import: asking for versions runs each server, and not all runs
    # need that.
    if "etcd_binary" in metafunc.fixturenames:
        here = servers()
        metafunc.parametrize(
            "etcd_binary", list(here.values()), ids=list(here), scope="session"
        )


@pytest.fixture(scope="session")
def etcd_binaries() -> list[str]:
    """The programs of all servers."""
    here = list(servers().values())
    if not here:
        pytest.skip("no etcd is here")
    return here


@pytest.fixture(scope="session")
def etcd_server(etcd_binary: str) -> Iterator[Etcd]:
    """As the fixture of the package, for each server in turn."""
    (server,) = trio.run(start_members, 1, etcd_binary, (), {}, None)
    yield server
    trio.run(server.aclose)
