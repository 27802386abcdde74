"""A cluster whose members can be cut off from each other, and who writes to it.

The peers' traffic runs through one proxy before each member. A connection there is one
member's to another, and etcd names the sender in each request (`X-Server-From`, in its
package rafthttp): so a cut takes just the links of one member, in both directions.
Neither root nor network namespaces are needed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import trio

from tests.support.helpers import LIMIT, split
from tests.support.proxy import Proxy, open_proxy
from trio_etcd_watch.testing import Etcd, open_cluster
from trio_etcd_watch.testing._servers import reserve_port

ELECTION_TIMEOUT = 0.5
"""Seconds, of the members here. One without a leader ends its streams after three."""

_ARGS = ("--heartbeat-interval=50", f"--election-timeout={ELECTION_TIMEOUT * 1000:.0f}")


class Partitions:
    """Made by `open_partitions()`.

    Attributes:
        members: of the cluster.
    """

    def __init__(
        self, members: Sequence[Etcd], proxies: Sequence[Proxy], ids: Sequence[int]
    ) -> None:
        self.members = members
        self._proxies = proxies
        self._ids = ids

    def cut_off(self, member: Etcd) -> None:
        """Let this one, and no other, neither hear its peers nor be heard by them."""
        self.heal()
        lonely = self.members.index(member)
        sent_by_it = b"X-Server-From: %x\r\n" % self._ids[lonely]
        for i, proxy in enumerate(self._proxies):
            if i == lonely:
                proxy.blackhole()
            else:
                proxy.blackhole(lambda head: sent_by_it in head)

    def delay(self, member: Etcd, seconds: float) -> None:
        """Let what its peers send to this one arrive so much later, and the answers."""
        self._proxies[self.members.index(member)].delay(seconds)

    def heal(self) -> None:
        """Let all hear each other again, over new connections."""
        for proxy in self._proxies:
            proxy.heal()
            proxy.reset_stalled()


class Writer:
    """Puts through one member after the other, so that each revision is an event.

    Attributes:
        revisions: of the puts that were confirmed.
    """

    def __init__(self) -> None:
        self.revisions: list[int] = []

    async def put(self, members: list[Etcd]) -> int:
        """Return a confirmed put's revision; others may have been applied before it.

        All members are asked at once, and the first answer counts: one that was cut off
        answers late or never, and on a busy machine so may one that was not.
        """
        confirmed: list[int] = []
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:

                async def ask(member: Etcd) -> None:
                    confirmed.append(await self._put(member))
                    nursery.cancel_scope.cancel(reason="another member has answered")

                for member in members:
                    nursery.start_soon(ask, member)
        self.revisions += confirmed
        return max(confirmed)

    async def _put(self, member: Etcd) -> int:
        while True:
            try:
                return await member.put("a", str(len(self.revisions)))
            except (RuntimeError, OSError):
                await trio.sleep(0.05)  # no leader

    async def run(self, members: list[Etcd]) -> None:
        while True:
            await self.put(members)
            await trio.sleep(0.01)


@asynccontextmanager
async def open_partitions(
    binary: str | None, *, args: Sequence[str] = ()
) -> AsyncGenerator[Partitions]:
    """Run three members of one cluster; see `Partitions`."""
    async with AsyncExitStack() as stack:
        ports = stack.enter_context(ExitStack())
        cluster = await stack.enter_async_context(
            open_cluster(3, binary=binary, args=(*_ARGS, *args))
        )
        proxies: list[Proxy] = []
        for member in cluster.members:
            # It has its URL in its data by now. Only where it listens moves, and the
            # proxy takes the place.
            await member.kill()
            url = argument(member, "--initial-advertise-peer-urls")
            own = reserve_port(ports)
            member._command.append(f"--listen-peer-urls=http://{own}")
            port = int(url.rpartition(":")[2])
            proxies.append(
                await stack.enter_async_context(open_proxy(*split(own), own_port=port))
            )
        for member in cluster.members:
            await member.start(wait=False)
        for member in cluster.members:
            await member.wait_serving()
        yield Partitions(
            cluster.members, proxies, [await _id_of(each) for each in cluster.members]
        )


def argument(member: Etcd, flag: str) -> str:
    """What a member's command line says last for a flag."""
    values = [each for each in member._command if each.startswith(f"{flag}=")]
    return values[-1].partition("=")[2]


async def _id_of(member: Etcd) -> int:
    reply = await member.request("/v3/maintenance/status")
    return int(reply["header"]["member_id"])
