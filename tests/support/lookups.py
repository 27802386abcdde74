"""Lookups of a name at a real name server on loopback."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.helpers import limit_in_real_time
from tests.support.nameserver import NameServer, open_nameserver
from trio_etcd_watch import Channel
from trio_etcd_watch._discovery import Discovery
from trio_etcd_watch._endpoints import Endpoint
from trio_etcd_watch._grpc.status import StreamLost


class Lookups:
    """A discovery, and the name server that it asks."""

    def __init__(self, server: NameServer, channel: Channel) -> None:
        self.server = server
        self.discovery = Discovery(channel)
        [self._name] = channel._srv_names

    async def hosts(self) -> list[str]:
        return [endpoint.host for endpoint in await self.endpoints()]

    async def endpoints(self) -> list[Endpoint]:
        return await self.discovery.look_up(self._name)

    async def failure(self) -> StreamLost:
        with pytest.raises(StreamLost) as info:
            await self.endpoints()
        assert str(info.value).startswith(f"{self._name}: ")
        return info.value


@asynccontextmanager
async def open_lookups(
    monkeypatch: pytest.MonkeyPatch,
    *endpoints: str,
    name: str = "etcd+srv://example.com",
    **arguments: Any,  # noqa: ANN401  # the arguments of a Channel
) -> AsyncGenerator[Lookups]:
    async with limit_in_real_time(), open_nameserver(monkeypatch) as server:
        yield Lookups(server, Channel(*endpoints, name, **arguments))
