"""A connector that follows scripted members."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio
import trio.testing

from tests.support.helpers import limit_in_real_time
from tests.support.members import RANGE, Member
from tests.support.names import Hosts
from tests.support.peer import serve_tcp
from trio_etcd_watch import Channel
from trio_etcd_watch._connector import Connector
from trio_etcd_watch._grpc.connection import Connection
from trio_etcd_watch._grpc.status import StreamLost


class Cluster:
    """A connector that follows the first of some scripted members."""

    def __init__(
        self, members: list[Member], endpoints: list[str], connector: Connector
    ) -> None:
        self.members = members
        self.endpoints = endpoints
        self.connector = connector

    async def connect(self) -> Connection:
        """Connect as streams do: try the next endpoint until one accepts."""
        while True:
            with contextlib.suppress(StreamLost):
                return (await self.connector.connect())[0]

    async def settle(self, lists: int, member: int = 0) -> None:
        """Wait until a member was asked this often and its answers are processed."""
        await self.members[member].wait_lists(lists)
        connection = await self.connect()
        # Answers arrive and are processed in order.
        await connection.unary(RANGE, b"", ())
        await trio.testing.wait_all_tasks_blocked()

    def known(self, source: str) -> list[str]:
        return sorted(
            each.endpoint
            for each in self.connector.endpoints()
            if each.source == source
        )

    def in_use(self) -> list[str]:
        return [each.endpoint for each in self.connector.endpoints() if each.in_use]


@asynccontextmanager
async def cluster(*members: Member, **arguments: Any) -> AsyncGenerator[Cluster]:  # noqa: ANN401  # a channel's
    """Configure only the first member; host names of members do not resolve."""
    Hosts().use()
    async with limit_in_real_time(), AsyncExitStack() as stack:
        endpoints = [
            await stack.enter_async_context(serve_tcp(member.serve))
            for member in members
        ]
        channel = Channel(endpoints[0], **{"follow_members": True, **arguments})
        nursery = await stack.enter_async_context(trio.open_nursery())
        yield Cluster(list(members), endpoints, Connector(channel, nursery))
        nursery.cancel_scope.cancel(reason="the test is over")
