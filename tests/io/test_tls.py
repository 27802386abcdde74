"""TLS leaves the user's context as it was, and sends the right server name."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
import trustme

from tests.support.names import Resolver
from tests.support.peer import Peer, serve_tcp
from trio_etcd_watch import Channel
from trio_etcd_watch._connector import Connector
from trio_etcd_watch._grpc.status import StreamLost
from trio_etcd_watch._tls import _protocols_of, server_name, shake_hands, system_context

LIMIT = 10.0


class Server:
    """A TLS server of a host with a certificate; records the received server names."""

    def __init__(self, *hosts: str, protocols: tuple[str, ...] = ("h2",)) -> None:
        self.ca = trustme.CA()
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(*hosts).configure_cert(self.context)
        self.context.set_alpn_protocols(list(protocols))
        self.context.sni_callback = self._note
        self.names: list[str | None] = []
        self.chosen: list[str | None] = []

    def _note(self, tls: object, name: str | None, context: object) -> None:
        self.names.append(name)

    def client(self) -> ssl.SSLContext:
        """Return the context of a client that trusts it."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context

    async def serve(self, tcp: trio.SocketStream) -> None:
        tls = trio.SSLStream(tcp, self.context, server_side=True, https_compatible=True)
        # The client does not trust this server.
        with contextlib.suppress(trio.BrokenResourceError):
            await tls.do_handshake()
            self.chosen.append(tls.selected_alpn_protocol())
            await Peer(tls).run()


def chosen_by(context: ssl.SSLContext, *offered: str) -> str | None:
    """Return the protocol that a server chooses for a client with this context."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = Server("localhost", protocols=offered)
    server.ca.configure_trust(context)
    pair = [
        context.wrap_bio(back, there, server_hostname="localhost"),
        server.context.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(3):
        for side in pair:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return pair[0].selected_alpn_protocol()


@asynccontextmanager
async def connector(channel: Channel) -> AsyncGenerator[Connector]:
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            yield Connector(channel, nursery)
            nursery.cancel_scope.cancel(reason="the test is over")


async def connect(channel: Channel) -> None:
    async with connector(channel) as made:
        await made.connect()


async def reason(channel: Channel) -> str:
    async with connector(channel) as made:
        with pytest.raises(StreamLost) as info:
            await made.connect()
    return str(info.value)


PROTOCOLS = pytest.mark.parametrize(
    "before", [[], ["http/1.1"], ["h2", "http/1.1"], ["dot", "h2"]]
)


@PROTOCOLS
@pytest.mark.parametrize("trusted", [True, False])
async def test_the_context_stays_as_it_was(before: list[str], trusted: bool) -> None:
    server = Server("127.0.0.1", protocols=("http/1.1", "h2"))
    context = server.client() if trusted else ssl.create_default_context()
    context.set_alpn_protocols(before)
    async with serve_tcp(server.serve) as endpoint:
        channel = Channel(endpoint, ssl_context=context)
        if trusted:
            await connect(channel)
        else:
            assert "certificate verify failed" in await reason(channel)
    # The connection used h2 in any case.
    assert server.chosen == (["h2"] if trusted else [])
    assert _protocols_of(context) == before
    # The same with a server that does not parse ClientHellos.
    for protocol in ("h2", "http/1.1", "dot"):
        expected = protocol if protocol in before else None
        assert chosen_by(context, protocol) == expected


async def test_the_context_stays_as_it_was_where_it_cannot_serve() -> None:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    ours, theirs = (
        trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        for sock in socket.socketpair()
    )
    # A label that IDNA cannot encode.
    with trio.fail_after(LIMIT), pytest.raises(UnicodeError):
        await shake_hands(ours, context, "ä" * 64)
    assert _protocols_of(context) == ["http/1.1"]
    assert await theirs.receive_some() == b""
    await theirs.aclose()


async def test_threads_that_share_a_context() -> None:
    server = Server("127.0.0.1")
    context = server.client()
    context.set_alpn_protocols(["http/1.1"])
    done: list[int] = []

    async with serve_tcp(server.serve) as endpoint:
        channel = Channel(endpoint, ssl_context=context)

        def other_thread() -> None:
            async def main() -> None:
                for _ in range(20):
                    await connect(channel)

            trio.run(main)
            done.append(threading.get_ident())

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(trio.to_thread.run_sync, other_thread)
    assert len(done) == 4
    assert server.chosen == ["h2"] * 80
    assert _protocols_of(context) == ["http/1.1"]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("etcd", "etcd"),
        ("etcd.example.com.", "etcd.example.com"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_names(host: str, name: str) -> None:
    assert server_name(host) == name


async def test_a_full_name_is_verified_without_its_dot() -> None:
    server = Server("etcd")

    Resolver("127.0.0.1", name="etcd.").use()
    async with serve_tcp(server.serve) as endpoint:
        port = endpoint.partition(":")[2]
        channel = Channel(f"HTTPS://etcd.:{port}", ssl_context=server.client())
        await connect(channel)
        assert server.names == ["etcd"]


async def test_each_address_of_a_name_is_verified() -> None:
    server = Server("another")
    Resolver("127.0.0.1").use()
    async with serve_tcp(server.serve) as endpoint:
        port = endpoint.partition(":")[2]
        channel = Channel(f"https://etcd:{port}", ssl_context=server.client())
        text = await reason(channel)
    assert re.fullmatch(rf"etcd:{port}: 127\.0\.0\.1: .*not valid for 'etcd'.*", text)


async def test_a_server_without_alpn() -> None:
    server = Server("127.0.0.1", protocols=("http/1.1",))
    async with serve_tcp(server.serve) as endpoint:
        await connect(Channel(endpoint, ssl_context=server.client()))
    assert server.chosen == [None]


async def test_a_server_that_chooses_another_protocol(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # OpenSSL's server cannot be made to do this.
    monkeypatch.setattr(
        trio.SSLStream, "selected_alpn_protocol", lambda tls: "dot", raising=False
    )
    server = Server("127.0.0.1")
    async with serve_tcp(server.serve) as endpoint:
        text = await reason(Channel(endpoint, ssl_context=server.client()))
    assert text == f"{endpoint}: the server chose ALPN protocol 'dot' over h2"


async def test_a_server_that_closes_after_the_handshake() -> None:
    server = Server("127.0.0.1")

    async def serve(tcp: trio.SocketStream) -> None:
        tls = trio.SSLStream(tcp, server.context, server_side=True)
        await tls.receive_some()

    async with serve_tcp(serve) as endpoint:
        text = await reason(Channel(endpoint, ssl_context=server.client()))
    # The hint about plaintext is missing.
    assert text == f"{endpoint}: the server closed the connection"


def test_the_system_s_context_is_loaded_once() -> None:
    assert system_context() is system_context()
