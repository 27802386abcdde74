"""A cluster whose members can be cut off from each other, and a writer for it.

The traffic between members runs through one proxy in front of each member. Each of its
connections comes from one other member, and etcd names the sender in each request
(`X-Server-From`, in its package rafthttp). So a cut can affect the links of one member
only, in both directions. It needs neither root nor network namespaces.
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
"""Election timeout of the members, in s; a stream without a leader ends after 3 s."""

_ARGS = ("--heartbeat-interval=50", f"--election-timeout={ELECTION_TIMEOUT * 1000:.0f}")


class Partitions:
    """Three members behind proxies. Made by `open_partitions()`.

    Attributes:
        members: the members of the cluster.
    """

    def __init__(
        self, members: Sequence[Etcd], proxies: Sequence[Proxy], ids: Sequence[int]
    ) -> None:
        self.members = members
        self._proxies = proxies
        self._ids = ids

    def cut_off(self, member: Etcd) -> None:
        """Cut the links between this member and the others, in both directions."""
        self.heal()
        lonely = self.members.index(member)
        sent_by_it = b"X-Server-From: %x\r\n" % self._ids[lonely]
        for i, proxy in enumerate(self._proxies):
            if i == lonely:
                proxy.blackhole()
            else:
                proxy.blackhole(lambda head: sent_by_it in head)

    def delay(self, member: Etcd, seconds: float) -> None:
        """Delay what this member gets from the others, including their answers."""
        self._proxies[self.members.index(member)].delay(seconds)

    def heal(self) -> None:
        """Connect all members again, over new connections."""
        for proxy in self._proxies:
            proxy.heal()
            proxy.reset_stalled()


class Writer:
    """Puts through one member after the other, so that each revision is an event.

    Attributes:
        revisions: the revisions of the confirmed puts.
    """

    def __init__(self) -> None:
        self.revisions: list[int] = []

    async def put(self, members: list[Etcd]) -> int:
        """Put, and return the confirmed revision; other puts may come before it.

        All members are asked at once, and the first answer counts: a member that is cut
        off answers late or never, and on a busy machine another one may, too.
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
    """Run a cluster of three members; see `Partitions`."""
    async with AsyncExitStack() as stack:
        ports = stack.enter_context(ExitStack())
        cluster = await stack.enter_async_context(
            open_cluster(3, binary=binary, args=(*_ARGS, *args))
        )
        proxies: list[Proxy] = []
        for member in cluster.members:
            # Its URL is stored in its data by now. Only its listener moves, and the
            # proxy listens at the old place.
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
    """Return the last value of a flag in a member's command line."""
    values = [each for each in member._command if each.startswith(f"{flag}=")]
    return values[-1].partition("=")[2]


async def _id_of(member: Etcd) -> int:
    reply = await member.request("/v3/maintenance/status")
    return int(reply["header"]["member_id"])
