"""Names that no DNS knows, for one run of Trio."""

from __future__ import annotations

import socket
from typing import Any

import trio


class Resolver(trio.abc.HostnameResolver):
    """Knows one name alone; what is numeric does not come here.

    Attributes:
        addresses: what the name stands for.
    """

    def __init__(self, *addresses: str, name: str = "etcd") -> None:
        self.addresses = addresses
        self._name = name

    def use(self) -> None:
        """Look up names here from now on."""
        trio.socket.set_custom_hostname_resolver(self)

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any) -> Any:  # noqa: ANN401  # as the socket module has it
        if host != self._name.encode():
            raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not known")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in self.addresses
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:  # noqa: ANN401  # likewise
        raise AssertionError
