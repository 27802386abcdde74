"""Becomes the program, for which names are looked up elsewhere than the system says.

    python -m tests.support.asks_here PORT HOST,... ARGUMENT ...

It is a program of its own, as the name server of a system is a file of the system's. DNS
is asked at this port of loopback, and these hosts are on loopback.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from tests.support.nameserver import NameServer
from trio_etcd_watch import __main__ as program
from trio_etcd_watch import _resolver


def main(port: int, hosts: list[str], arguments: list[str]) -> None:
    """Run it with these arguments."""
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
