"""A real name server on loopback: UDP and TCP on a port chosen by the system."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import dns.asyncresolver
import dns.flags
import dns.message
import dns.nameserver
import dns.rcode
import dns.rrset
import pytest
import trio

from trio_etcd_watch import _resolver

TLS = "_etcd-client-ssl._tcp.example.com."
PLAIN = "_etcd-client._tcp.example.com."


@dataclass
class NameServer:
    """Answers according to its current attributes. Made by `open_nameserver()`."""

    port: int = 0
    records: dict[str, list[str]] = field(default_factory=dict)
    """By name, SRV records as text: priority, weight, port, target. Other names do not
    exist (NXDOMAIN)."""
    ttl: int = 60
    soa: tuple[int, int] | None = None
    """TTL and MINIMUM of the SOA record in answers without records."""
    rcodes: dict[str, dns.rcode.Rcode] = field(default_factory=dict)
    """By name, the response code to answer with instead."""
    cnames: dict[str, str] = field(default_factory=dict)
    truncated: bool = False
    """Whether answers by UDP are truncated."""
    truncated_too: bool = False
    """Whether answers by TCP are truncated too."""
    silent: bool = False
    asked: list[str] = field(default_factory=list)
    """The names that were asked for, in order."""
    by_tcp: int = 0

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.asked)

    def resolver(self) -> dns.asyncresolver.Resolver:
        """Return a resolver that asks only this server."""
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [dns.nameserver.Do53Nameserver("127.0.0.1", self.port)]
        return resolver

    def _answer(self, wire: bytes, *, tcp: bool) -> bytes:
        query = dns.message.from_wire(wire)
        name = query.question[0].name.to_text()
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if not tcp:
            self.asked.append(name)
        cut = self.truncated_too if tcp else self.truncated
        if cut:
            response.flags |= dns.flags.TC
        if name in self.rcodes:
            response.set_rcode(self.rcodes[name])
        elif not cut:
            if name in self.cnames:
                target = self.cnames[name]
                cname = dns.rrset.from_text(name, self.ttl, "IN", "CNAME", target)
                response.answer.append(cname)
                name = target
            if texts := self.records.get(name):
                rrset = dns.rrset.from_text(name, self.ttl, "IN", "SRV", *texts)
                response.answer.append(rrset)
            elif name not in self.records:
                response.set_rcode(dns.rcode.NXDOMAIN)
            if self.soa and not self.records.get(name):
                ttl, minimum = self.soa
                text = f"ns.example.com. root.example.com. 1 2 3 4 {minimum}"
                soa = dns.rrset.from_text("example.com.", ttl, "IN", "SOA", text)
                response.authority.append(soa)
        return response.to_wire()

    async def _serve_udp(self, sock: trio.socket.SocketType) -> None:
        while True:
            wire, address = await sock.recvfrom(65_535)
            answer = self._answer(wire, tcp=False)
            if not self.silent:
                await sock.sendto(answer, address)

    async def _serve_tcp(self, stream: trio.SocketStream) -> None:
        self.by_tcp += 1
        wire = b""
        while len(wire) < 2 or len(wire) < 2 + int.from_bytes(wire[:2]):
            data = await stream.receive_some()
            if not data:
                return
            wire += data
        answer = self._answer(wire[2:], tcp=True)
        await stream.send_all(len(answer).to_bytes(2) + answer)
        await stream.receive_some()


async def _bind() -> tuple[trio.socket.SocketType, trio.SocketListener]:
    while True:
        udp = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        await udp.bind(("127.0.0.1", 0))
        try:
            port = udp.getsockname()[1]
            [tcp] = await trio.open_tcp_listeners(port, host="127.0.0.1")
        except OSError:  # another program uses this TCP port
            udp.close()
        else:
            return udp, tcp


@asynccontextmanager
async def open_nameserver(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[NameServer]:
    """Run a name server, and make every resolver of the package ask it."""
    udp, tcp = await _bind()
    server = NameServer(udp.getsockname()[1])
    monkeypatch.setattr(_resolver, "make_resolver", server.resolver)
    with udp:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server._serve_udp, udp)
            nursery.start_soon(trio.serve_listeners, server._serve_tcp, [tcp])
            yield server
            nursery.cancel_scope.cancel(reason="the test is over")
