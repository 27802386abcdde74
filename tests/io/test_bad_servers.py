"""Servers that are not etcd: one clear log line with a hint, and a retry."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import logging
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import pytest
import trio
import trustme

from tests.support.peer import SETTINGS, Peer, serve_tcp, serve_watches
from trio_etcd_watch import Channel, open_watcher

Script: TypeAlias = Callable[[trio.abc.Stream], Awaitable[object]]
"""What a server does with a connection, with or without TLS."""

LIMIT = 20.0
TRIES = 4
"""How many connections the bad server gets before a good one replaces it."""

CA = trustme.CA()
HTTP1 = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
LONG_AGO = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)


def server_context(
    *names: str,
    ca: trustme.CA = CA,
    alpn: bool = True,
    not_after: dt.datetime | None = None,
) -> ssl.SSLContext:
    """Return the context of a server with a certificate for these names."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(*(names or ("127.0.0.1",)), not_after=not_after).configure_cert(
        context
    )
    if alpn:
        context.set_alpn_protocols(["h2"])
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


async def serve_tls(
    context: ssl.SSLContext, script: Script, tcp: trio.abc.Stream
) -> None:
    tls = trio.SSLStream(tcp, context, server_side=True, https_compatible=True)
    # The client does not trust this server.
    with contextlib.suppress(trio.BrokenResourceError):
        await tls.do_handshake()
        await script(tls)


def tls(context: ssl.SSLContext, script: Script) -> Script:
    return functools.partial(serve_tls, context, script)


# Kinds of bad servers


async def answer_http1(stream: trio.abc.Stream) -> None:
    await stream.receive_some()
    await stream.send_all(HTTP1)
    await stream.receive_some()


async def send_alert(stream: trio.abc.Stream) -> None:
    """Answers plaintext like a TLS server, with the alert protocol_version."""
    await stream.receive_some()
    await stream.send_all(b"\x15\x03\x01\0\2\2\x46")


async def send_settings(stream: trio.abc.Stream) -> None:
    """Answers anything like a plaintext HTTP/2 server."""
    await stream.send_all(SETTINGS)
    await stream.receive_some()


async def close(stream: trio.abc.Stream) -> None:
    await stream.receive_some()


async def say_nothing(stream: trio.abc.Stream) -> None:
    while await stream.receive_some():
        pass


async def unimplemented(stream: trio.abc.Stream) -> None:
    """Answers like a gRPC server without this service."""
    peer = Peer(stream)

    async def answer() -> None:
        while True:
            await peer.headers(
                await peer.accept(),
                [
                    (":status", "200"),
                    ("content-type", "application/grpc"),
                    ("grpc-status", "12"),
                    ("grpc-message", "unknown service etcdserverpb.Watch"),
                ],
                end=True,
            )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        await peer.run()
        nursery.cancel_scope.cancel(reason="the client closed")


@dataclass(frozen=True)
class Case:
    """A bad server, and the hint in the log."""

    name: str
    bad: Script
    secure: bool
    reason: str


CASES = [
    Case("HTTP/1", answer_http1, False, "answers in HTTP/1; is this etcd's client"),
    Case("TLS", send_alert, False, r"it expects TLS \(.* for TLS say https://\)"),
    Case("TLS, closes", close, False, r"closed the connection \(.* say https://\)"),
    Case("silent", say_nothing, False, "open, but silent; is this etcd's client port"),
    Case(
        "no etcd", unimplemented, False, "UNIMPLEMENTED: unknown service .*is this etcd"
    ),
    Case("plaintext", send_settings, True, "does not speak TLS: use http://"),
    Case("plaintext HTTP/1", answer_http1, True, "does not speak TLS: use http://"),
    Case(
        "plaintext, closes",
        close,
        True,
        "ended the TLS handshake: without TLS, use http://",
    ),
    Case(
        "no ALPN, HTTP/1",
        tls(server_context(alpn=False), answer_http1),
        True,
        "answers in HTTP/1; is this etcd's client port",
    ),
    Case(
        "no ALPN, silent",
        tls(server_context(alpn=False), say_nothing),
        True,
        "open, but silent; is this etcd's client port",
    ),
    Case(
        "untrusted",
        tls(server_context(ca=trustme.CA()), say_nothing),
        True,
        "certificate verify failed: .*; is its CA loaded into ssl_context",
    ),
    Case(
        "another name",
        tls(server_context("etcd.example.org"), say_nothing),
        True,
        "certificate verify failed: .*not valid for '127.0.0.1'",
    ),
    Case(
        "expired",
        tls(server_context(not_after=LONG_AGO), say_nothing),
        True,
        "certificate verify failed: certificate has expired",
    ),
]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def assert_told_once(caplog: pytest.LogCaptureFixture, reason: str) -> None:
    (line,) = [text for text in caplog.messages if "no watch stream" in text]
    assert re.search(reason, line)


def good(case: Case) -> Script:
    return tls(server_context(), serve_watches) if case.secure else serve_watches


async def watch_once(case: Case, *endpoints: str) -> None:
    """Open watches until one has its first event."""
    channel = Channel(
        *endpoints,
        ssl_context=client_context() if case.secure else None,
        connect_timeout=0.2 if "silent" in case.name else LIMIT,
    )
    with trio.fail_after(LIMIT):
        async with open_watcher(channel) as watcher, watcher.watch("a") as watch:
            async for response in watch:
                assert [event.kv.key for event in response.events] == [b"a"]
                return


async def test_a_bad_server_that_is_mended(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "trio_etcd_watch")
    met = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal met
        met += 1
        await (case.bad if met <= TRIES else good(case))(stream)

    async with serve_tcp(serve) as endpoint:
        await watch_once(case, endpoint)
    assert met == TRIES + 1
    assert_told_once(caplog, case.reason)


async def test_a_bad_server_beside_a_good_one(
    case: Case, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "trio_etcd_watch")
    # Try the endpoints in this order.
    monkeypatch.setattr("random.sample", lambda population, k: list(population))
    async with serve_tcp(case.bad) as bad, serve_tcp(good(case)) as well:
        await watch_once(case, bad, well)
    assert_told_once(caplog, case.reason)
