"""TLS on a connection to etcd: it asks for h2, and leaves the context as it was.

etcd's server wants h2 to be negotiated (ALPN), but Python sets that on a context alone,
which can be neither copied nor asked what it had: setting it for good would make every
other user of the context speak HTTP/2. A TLS object takes its context's protocols when
it is made. So they are set for just that moment, without a checkpoint, and put back;
what they were is read where it shows: in the ClientHello of an object that is dropped.
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

# Watchers in several threads may share a context. Who else makes a TLS object of it, in
# another thread and in this very moment, may still come to ask for h2.
_lock = threading.Lock()


@functools.cache
def system_context() -> ssl.SSLContext:
    """Loading the system's certificates takes tens of milliseconds: once is enough."""
    return ssl.create_default_context()


async def shake_hands(
    tcp: trio.SocketStream, context: ssl.SSLContext, host: str
) -> trio.SSLStream[trio.SocketStream]:
    """Return the stream with TLS on it, verified as the context has it.

    Whatever goes wrong, and cancellation, closes the stream.

    Args:
        tcp: connected.
        context: a client's.
        host: what the certificate has to name.

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
    """Return a host as SNI and certificates have it.

    That is without the dot that ends a full name (RFC 6066, 3), and without the zone
    of an IPv6 address, which means something on this machine alone.
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
    dropped = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        dropped.do_handshake()
    return _protocols_in(sent.read())


def _protocols_in(hello: bytes) -> list[str]:
    """Return what a ClientHello offers (RFC 8446, 4.1.2; RFC 7301, 3.1)."""
    at = 5 + 4 + 2 + 32  # the record's and the message's head, version, random
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
