"""Runs the command-line program with name lookups redirected to a local name server.

    python -m tests.support.asks_here PORT HOST,... ARGUMENT ...

DNS queries go to this port of loopback, and the given hosts resolve to loopback. This
is a program of its own because the name server of a system is configured in a system
file.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from tests.support.nameserver import NameServer
from trio_etcd_watch import __main__ as program
from trio_etcd_watch import _resolver


def main(port: int, hosts: list[str], arguments: list[str]) -> None:
    """Run the program with these arguments."""
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:  # noqa: ANN401  # as the socket module has it
        name = host.decode() if isinstance(host, bytes) else host
        return look_up("127.0.0.1" if name in hosts else host, *rest, **named)

    socket.getaddrinfo = getaddrinfo
    _resolver.make_resolver = NameServer(port).resolver
    sys.argv[1:] = arguments
    program.main()


if __name__ == "__main__":
    _, where, names, *rest = sys.argv
    main(int(where), names.split(","), rest)
