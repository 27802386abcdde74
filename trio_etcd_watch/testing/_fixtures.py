"""Fixtures of pytest: a real etcd that runs and holds no keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from ._etcd import Etcd
from ._servers import start_members


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[Etcd]:
    """One etcd for the whole session."""
    # Not open_etcd(): the end of trio.run() would close its generator.
    (server,) = trio.run(start_members, 1, None, (), None, None)
    yield server
    trio.run(server.aclose)


@pytest.fixture
def etcd(etcd_server: Etcd) -> Etcd:
    """The `etcd_server`, running and without keys."""
    trio.run(etcd_server.reset)
    return etcd_server
