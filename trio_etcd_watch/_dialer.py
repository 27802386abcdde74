"""Dials one endpoint: looks its name up, and tries its addresses until one works.

Trio's own happy eyeballs is decided once TCP is connected, although the server at that
address may be silent, or of another kind. Here an address works once HTTP/2 has begun.
"""

from __future__ import annotations

import itertools
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import trio

from ._channel import Channel
from ._endpoints import Endpoint
from ._grpc.connection import Connection
from ._grpc.status import StreamLost
from ._log import printable
from ._tls import shake_hands, system_context

STAGGER = 0.25
"""Seconds after which the next address of a name is tried in parallel; as
`trio.open_tcp_stream` and RFC 8305 (5) have it."""

Serve: TypeAlias = Callable[[Connection, Endpoint], None]
"""Starts the task that runs a connection."""


@dataclass(frozen=True, slots=True)
class _Address:
    """One of the addresses that an endpoint's name resolves to."""

    family: int
    sockaddr: Any
    """In the format of the family (see `socket`)."""

    def __str__(self) -> str:
        path = isinstance(self.sockaddr, str)
        return str(self.sockaddr if path else self.sockaddr[0])


@final
class Dialer:
    """Opens connections, and tries the least recently tried addresses first.

    Args:
        channel: gives the TLS context, and how long an attempt may take.
        serve: called with each connection before it has begun to work.

    Attributes:
        keepalive_time: for new connections: the channel's, until a server reports
            that this is too often.
    """

    def __init__(self, channel: Channel, serve: Serve) -> None:
        self.keepalive_time = channel.keepalive_time
        self._channel = channel
        self._serve = serve
        # When each address of an endpoint was tried last, as a count of all tries.
        self._tried: dict[Endpoint, dict[_Address, int]] = {}
        self._tries = itertools.count(1)

    async def dial(self, endpoint: Endpoint) -> Connection:
        """Return a connection to the first address that works.

        Cancellation closes what was opened.

        Raises:
            StreamLost: no address works.
        """
        try:
            return await self._race(endpoint, await self._look_up(endpoint))
        except StreamLost as exc:
            raise StreamLost(printable(f"{endpoint}: {exc}")) from exc

    def keep(self, endpoints: Iterable[Endpoint]) -> None:
        """Forget what is known of all other endpoints."""
        kept = set(endpoints)
        self._tried = {e: tried for e, tried in self._tried.items() if e in kept}

    async def _look_up(self, endpoint: Endpoint) -> list[_Address]:
        """Return the addresses of an endpoint, the least recently tried first."""
        timeout = self._channel.connect_timeout
        try:
            with trio.fail_after(timeout):
                addresses = await _addresses_of(endpoint)
        except trio.TooSlowError as exc:
            raise StreamLost(f"its name is not resolved within {timeout:g} s") from exc
        except (OSError, UnicodeError) as exc:  # UnicodeError: IDNA
            raise StreamLost(_reason(exc)) from exc
        if not addresses:
            raise StreamLost("its name has no address")
        tried = self._tried.get(endpoint, {})
        tried = {address: tried.get(address, 0) for address in addresses}
        self._tried[endpoint] = tried
        return sorted(addresses, key=tried.__getitem__)

    async def _race(self, endpoint: Endpoint, addresses: list[_Address]) -> Connection:
        """Try addresses until one works: the next when one has failed or is slow."""
        winner: Connection | None = None
        failures: dict[str, str] = {}
        # Referenced here, since `keep()` may forget the endpoint meanwhile.
        tried = self._tried.get(endpoint, {})

        @trio.lowlevel.enable_ki_protection
        async def attempt(address: _Address, failed: trio.Event) -> None:
            nonlocal winner
            try:
                connection = await self._attempt(endpoint, address)
            except StreamLost as exc:
                failures[str(address)] = str(exc)
                failed.set()
                return
            if winner is None:
                winner = connection
                nursery.cancel_scope.cancel(reason=f"connected to {address}")
            else:
                connection.close("another address was as fast")

        try:
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    tried[address] = next(self._tries)
                    failed = trio.Event()
                    nursery.start_soon(attempt, address, failed)
                    with trio.move_on_after(STAGGER):
                        await failed.wait()
        except BaseException:
            if winner is not None:
                winner.close("cancelled")
            raise
        if winner is None:
            raise StreamLost(_reasons(endpoint, failures))
        return winner

    async def _attempt(self, endpoint: Endpoint, address: _Address) -> Connection:
        channel = self._channel
        context = channel.ssl_context
        if context is None and endpoint.tls:
            context = system_context()
        connection: Connection | None = None
        try:
            with trio.fail_after(channel.connect_timeout):
                stream = await _open_stream(endpoint, address, context)
                connection = Connection(
                    stream,
                    authority=endpoint.authority,
                    scheme="https" if context else "http",
                    max_message_size=channel.max_message_size,
                    keepalive_time=self.keepalive_time,
                    keepalive_timeout=channel.keepalive_timeout,
                )
                try:
                    self._serve(connection, endpoint)
                except StreamLost:
                    await trio.aclose_forcefully(stream)
                    raise
                await _wait_ready(connection)
        except trio.TooSlowError as exc:
            reason = f"no connection within {channel.connect_timeout:g} s"
            if connection:
                reason += ": it is open, but silent; is this etcd's client port?"
            raise StreamLost(reason) from exc
        except StreamLost as exc:
            if context or endpoint.path:
                raise
            raise StreamLost(f"{exc} (in plaintext; for TLS say https://)") from exc
        except (OSError, UnicodeError, trio.BrokenResourceError) as exc:
            raise StreamLost(_reason(exc)) from exc
        return connection


async def _wait_ready(connection: Connection) -> None:
    try:
        await connection.wait_ready()
    except trio.Cancelled:
        connection.close("not ready in time")
        raise


async def _addresses_of(endpoint: Endpoint) -> list[_Address]:
    if endpoint.path:
        return [_Address(socket.AF_UNIX, endpoint.path)]
    answers = await trio.socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM
    )
    addresses = [_Address(family, sockaddr) for family, _, _, _, sockaddr in answers]
    return list(dict.fromkeys(addresses))


async def _open_stream(
    endpoint: Endpoint, address: _Address, context: ssl.SSLContext | None
) -> trio.abc.Stream:
    """Connect, with TLS if there is a context; cancellation closes the socket."""
    sock = trio.socket.socket(address.family, socket.SOCK_STREAM)
    try:
        await sock.connect(address.sockaddr)
    except BaseException:
        sock.close()
        raise
    tcp = trio.SocketStream(sock)
    if context is None:
        return tcp
    return await shake_hands(
        tcp, context, endpoint.server_name or endpoint.host or "localhost"
    )


def _reason(exc: BaseException) -> str:
    """Say why a connection failed; the cause says more than Trio's exception."""
    cause = exc.__cause__ or exc
    return (str(cause) or type(cause).__name__) + _hint(cause)


_UNTRUSTED = frozenset({18, 19, 20, 21})
"""OpenSSL's verification errors (X509_V_ERR_...) for an unknown issuer."""

_NO_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
)
"""OpenSSL's reasons for bytes that are not TLS; they depend on its version."""


def _hint(exc: BaseException) -> str:
    """Say what is probably wrong where OpenSSL's text does not."""
    match exc:
        case ssl.SSLCertVerificationError() if exc.verify_code in _UNTRUSTED:
            return "; is its CA loaded into ssl_context?"
        case ssl.SSLEOFError():
            return "; the server ended the TLS handshake: without TLS, use http://"
        case ssl.SSLError() if exc.reason in _NO_TLS:
            return "; the server does not speak TLS: use http://"
    return ""


def _reasons(endpoint: Endpoint, failures: Mapping[str, str]) -> str:
    """Say why all addresses failed, in sorted order, with addresses where needed."""
    return "; ".join(
        reason if address in (endpoint.host, endpoint.path) else f"{address}: {reason}"
        for address, reason in sorted(failures.items())
    )
