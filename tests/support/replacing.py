"""A cluster whose members are replaced one after the other, during writes."""

from __future__ import annotations

import functools
import itertools
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from tests.support.auth import ROOT, Guarded, b64
from tests.support.helpers import eventually
from tests.support.partition import argument
from trio_etcd_watch._face import LIBRARY, construct
from trio_etcd_watch.testing import Etcd, EtcdRequestError, open_cluster
from trio_etcd_watch.testing._servers import reserve_port

_LIST = "/v3/cluster/member/list"

_PATIENCE = 3.0
"""Seconds to wait for one answer."""


class Replacing:
    """A cluster whose members can be replaced. Made by `open_replacing()`.

    Attributes:
        members: the present members.
    """

    def __init__(
        self,
        members: Sequence[Etcd],
        folder: Path,
        context: ssl.SSLContext | None,
        stack: AsyncExitStack,
        *,
        auth: bool,
    ) -> None:
        self.members = list(members)
        self._folder = folder
        self._context = context
        self._stack = stack
        self._auth = auth
        self._names = (f"new{i}" for i in itertools.count())
        self._pattern = members[0]
        self._cluster = argument(members[0], "--initial-cluster").split(",")

    async def request(self, path: str, body: dict[str, object]) -> dict[str, object]:
        """Make a request, which may have to wait for a leader or for peers."""
        return await self._ask_until(path, body, lambda answer: True)

    async def _ask_until(
        self,
        path: str,
        body: dict[str, object],
        suits: Callable[[dict[str, Any]], bool],
        *,
        change: tuple[str, dict[str, object]] | None = None,
    ) -> dict[str, Any]:
        """Ask the members in turn until an answer suits; try `change` before each time.

        A change that is refused may have been made by an earlier attempt whose answer
        was lost.
        """
        answer: dict[str, Any] | None = None

        async def is_done() -> bool:
            nonlocal answer
            for member in list(self.members):
                if change:
                    await self._try(member, *change)
                answer = await self._try(member, path, body)
                if answer is not None and suits(answer):
                    return True
            return False

        await eventually(is_done)
        assert answer is not None
        return answer

    async def _try(
        self, member: Etcd, path: str, body: dict[str, object]
    ) -> dict[str, object] | None:
        # A change that is lost with its leader is never answered.
        with trio.move_on_after(_PATIENCE), suppress(EtcdRequestError, OSError):
            if self._auth and member.token is None:
                member.token = await Guarded(member).token(ROOT)
            return await member.request(path, body)
        member.token = None  # the token may be the reason
        return None

    async def _lists(self, member: Etcd, peer_url: str) -> bool:
        """Whether a member knows where another serves clients."""
        answer = await self._try(member, _LIST, {})
        every: Any = answer["members"] if answer else []
        return any(peer_url in m["peerURLs"] and m.get("clientURLs") for m in every)

    async def add(self) -> Etcd:
        """Add a member."""
        name = next(self._names)
        ports = self._stack.enter_context(ExitStack())
        client, peer = reserve_port(ports), reserve_port(ports)
        peer_url = f"http://{peer}"
        await self._ask_until(
            _LIST,
            {},
            lambda answer: peer_url in str(answer),
            change=("/v3/cluster/member/add", {"peerURLs": [peer_url]}),
        )
        self._cluster.append(f"{name}=http://{peer}")
        scheme = "https" if self._context else "http"
        directory = self._folder / name
        directory.mkdir()
        flags = {
            "name": name,
            "data-dir": directory / "data",
            "listen-client-urls": f"{scheme}://{client}",
            "advertise-client-urls": f"{scheme}://{client}",
            "listen-peer-urls": f"http://{peer}",
            "initial-advertise-peer-urls": f"http://{peer}",
            "initial-cluster": ",".join(self._cluster),
            "initial-cluster-state": "existing",
        }
        # The last value of a flag counts.
        own = [f"--{flag}={value}" for flag, value in flags.items()]
        member = construct(
            Etcd,
            LIBRARY,
            [*self._pattern._command, *own],
            endpoint=client,
            version=self._pattern.version,
            directory=directory,
            env=self._pattern._env,
            ssl_context=self._context,
            resources=ports.pop_all(),
        )
        await self._stack.enter_async_context(member)
        await member.start()
        self.members.append(member)
        for each in self.members:
            await eventually(functools.partial(self._lists, each, peer_url))
        return member

    async def remove(self, member: Etcd) -> None:
        """Remove a member for good."""
        self.members.remove(member)
        peer_url = argument(member, "--listen-peer-urls")
        listed = await self.request(_LIST, {})
        every: Any = listed["members"]
        [identity] = [each["ID"] for each in every if peer_url in each["peerURLs"]]
        await self._ask_until(
            _LIST,
            {},
            lambda answer: peer_url not in str(answer),
            change=("/v3/cluster/member/remove", {"ID": identity}),
        )
        self._cluster = [m for m in self._cluster if not m.endswith(f"={peer_url}")]
        await member.kill()


@asynccontextmanager
async def open_replacing(
    binary: str,
    folder: Path,
    *,
    args: Sequence[str] = (),
    context: ssl.SSLContext | None = None,
    auth: bool = False,
) -> AsyncGenerator[Replacing]:
    """Run three members.

    Args:
        binary: the program.
        folder: for the data of members that are added.
        args: further arguments of each member.
        context: the TLS context of clients, if the members use TLS.
        auth: whether to enable auth.
    """
    # Without this check, members may be added soon after one another.
    args = [*args, "--strict-reconfig-check=false", "--bcrypt-cost=4"]
    async with (
        open_cluster(3, binary=binary, args=args, ssl_context=context) as cluster,
        AsyncExitStack() as stack,
    ):
        if auth:
            await Guarded(cluster.members[0]).set_up()
        yield Replacing(cluster.members, folder, context, stack, auth=auth)


async def write_until(cluster: Replacing, stop: trio.Event) -> None:
    """Put under `w/` repeatedly until `stop` is set, then put `w/end`."""
    while not stop.is_set():
        await cluster.request("/v3/kv/put", {"key": b64("w/a"), "value": b64("1")})
        await trio.sleep(0.01)
    await cluster.request("/v3/kv/put", {"key": b64("w/end"), "value": b64("1")})
