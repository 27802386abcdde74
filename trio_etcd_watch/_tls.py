"""Does the TLS handshake with etcd: offers h2, and leaves the context unchanged.

etcd's server requires that h2 is negotiated (ALPN). Python sets ALPN protocols only on
a context, which can be neither copied nor asked for them, and to set them for good
would make every other user of the context speak HTTP/2. A TLS object gets the protocols
that its context has when the object is made. So they are set for just that moment,
without a checkpoint, and then restored. What they were is read from the ClientHello of
another TLS object, which is not used any further.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
import struct
import threading

import trio

from ._grpc.status import StreamLost

_H2 = "h2"

# Watchers in several threads may share a context. Other code that makes a TLS object of
# it in another thread, at the same moment, may still offer h2.
_lock = threading.Lock()


@functools.cache
def system_context() -> ssl.SSLContext:
    """Return one context with the system's certificates: loading takes tens of ms."""
    return ssl.create_default_context()


async def shake_hands(
    tcp: trio.SocketStream, context: ssl.SSLContext, host: str
) -> trio.SSLStream[trio.SocketStream]:
    """Return the stream with TLS on it, verified as the context requires.

    Any error, and cancellation, closes the stream.

    Args:
        tcp: a connected stream.
        context: a context for clients.
        host: the name that the certificate must have.

    Raises:
        OSError, UnicodeError, trio.BrokenResourceError: the handshake failed.
        StreamLost: the server speaks another protocol.
    """
    try:
        tls = _wrap(tcp, context, host)
        await tls.do_handshake()
        protocol = tls.selected_alpn_protocol()
        if protocol not in (None, _H2):
            raise StreamLost(f"the server chose ALPN protocol {protocol!r} over h2")
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise
    return tls


def server_name(host: str) -> str:
    """Return a host as SNI and certificates write it.

    That is without the dot that ends a full name (RFC 6066, 3), and without the zone
    of an IPv6 address, which has a meaning on this machine only.
    """
    return host.partition("%")[0].removesuffix(".")


def _wrap(
    tcp: trio.SocketStream, context: ssl.SSLContext, host: str
) -> trio.SSLStream[trio.SocketStream]:
    with _lock:
        before = _protocols_of(context)
        context.set_alpn_protocols([_H2])
        try:
            return trio.SSLStream(
                tcp, context, server_hostname=server_name(host), https_compatible=True
            )
        finally:
            context.set_alpn_protocols(before)


def _protocols_of(context: ssl.SSLContext) -> list[str]:
    """Return the ALPN protocols that a context has set."""
    sent = ssl.MemoryBIO()
    probe = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        probe.do_handshake()
    return _protocols_in(sent.read())


def _protocols_in(hello: bytes) -> list[str]:
    """Return what a ClientHello offers (RFC 8446, 4.1.2; RFC 7301, 3.1)."""
    at = 5 + 4 + 2 + 32  # headers of record and message, version, random
    at += 1 + hello[at]  # session id
    at += 2 + int.from_bytes(hello[at : at + 2])  # cipher suites
    at += 1 + hello[at]  # compression methods
    at += 2  # the length of what follows
    while at < len(hello):
        kind, size = struct.unpack_from(">HH", hello, at)
        at += 4
        if kind == 16:
            names = hello[at + 2 : at + size]
            found = []
            while names:
                length = 1 + names[0]
                found.append(names[1:length].decode("ascii"))
                names = names[length:]
            return found
        at += size
    return []
