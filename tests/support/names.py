"""Hostname resolvers for names that are not in any DNS, for one run of Trio."""

from __future__ import annotations

import socket
from typing import Any

import trio


class Resolver(trio.abc.HostnameResolver):
    """Resolves a single name; Trio does not ask it for numeric addresses.

    Attributes:
        addresses: the addresses of the name.
    """

    def __init__(self, *addresses: str, name: str = "etcd") -> None:
        self.addresses = addresses
        self._name = name

    def use(self) -> None:
        """Resolve names with this resolver from now on."""
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


class Hosts(trio.abc.HostnameResolver):
    """Resolves only the given names, to addresses of either family.

    Attributes:
        addresses: the addresses by name.
    """

    def __init__(self, **addresses: str) -> None:
        self.addresses = {name: [address] for name, address in addresses.items()}

    def use(self) -> None:
        """Resolve names with this resolver from now on."""
        trio.socket.set_custom_hostname_resolver(self)

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any) -> Any:  # noqa: ANN401  # as the socket module has it
        if host.decode() not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not known")
        found = []
        for address in self.addresses[host.decode()]:
            six = ":" in address
            family = socket.AF_INET6 if six else socket.AF_INET
            sockaddr = (address, port, 0, 0) if six else (address, port)
            found.append((family, socket.SOCK_STREAM, 6, "", sockaddr))
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:  # noqa: ANN401  # likewise
        raise AssertionError
