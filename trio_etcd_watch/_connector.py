"""Connections to the cluster: dialled one endpoint at a time, with TLS and a token."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import random
import ssl
from typing import final

import trio
from google.protobuf.message import DecodeError

from ._channel import API_VERSION, Channel, Credentials, Endpoint
from ._errors import AuthenticationError, RpcError, error_of_status
from ._grpc.connection import Connection
from ._grpc.metadata import Metadata
from ._grpc.status import Status, StreamLost
from ._pb import watch_pb2 as pb

logger = logging.getLogger("trio_etcd_watch")

_AUTHENTICATE = "/etcdserverpb.Auth/Authenticate"


@final
class Connector:
    """Keeps one connection to the cluster, shared by the streams of a watcher.

    Attributes:
        connections_made: how many have been opened so far.

    Args:
        nursery: serves the connections; closes them when it is cancelled.
    """

    def __init__(self, channel: Channel, nursery: trio.Nursery) -> None:
        self.channel = channel
        self.connections_made = 0
        self._nursery = nursery
        # Shuffled, so that clients spread over the members.
        self._endpoints = itertools.cycle(
            random.sample(channel._endpoints, len(channel._endpoints))
        )
        self._connection: Connection | None = None
        self._token: str | None = None
        # Where and when the token was taken.
        self._token_origin: tuple[Connection | None, float] = (None, -math.inf)
        self._lock = trio.Lock()

    async def connect(self) -> tuple[Connection, Metadata]:
        """Return a living connection, and the metadata for a new stream on it.

        Tries one endpoint, once; the next call tries the next.

        Raises:
            StreamLost: it could not be reached.
            AuthenticationError: the credentials are refused.
        """
        async with self._lock:
            connection = self._connection
            if connection is None or connection.lost:
                connection = await self._dial(next(self._endpoints))
                self._connection = connection
            if self.channel.credentials and self._token is None:
                try:
                    self._token = await self._authenticate(
                        connection, self.channel.credentials
                    )
                    if self._token is not None:
                        self._token_origin = (connection, trio.current_time())
                except StreamLost:
                    # It takes a quorum, which another member may have.
                    self.leave(connection)
                    raise
        token: Metadata = (("token", self._token),) if self._token else ()
        return connection, (*API_VERSION, *self.channel.metadata, *token)

    def leave(self, connection: Connection) -> None:
        """Open the next streams elsewhere: this one takes no more of them.

        Streams that it serves go on; with the last of them the connection ends.
        """
        if connection is self._connection:
            self._connection = None
            connection.retire()

    def token_taken(self, connection: Connection) -> float:
        """Return when the present token was taken on this very connection, or -inf.

        A server that restarts forgets its tokens, and with it goes the connection.
        """
        origin, taken = self._token_origin
        return taken if origin is connection else -math.inf

    def forget_token(self) -> None:
        """Take a new token for the next stream: the server refused this one."""
        self._token = None

    async def _dial(self, endpoint: Endpoint) -> Connection:
        channel = self.channel
        context = channel.ssl_context
        if context is None and endpoint.tls:
            context = _system_context()
        connection: Connection | None = None
        try:
            with trio.fail_after(channel.connect_timeout):
                stream = await _open_stream(endpoint, context)
                connection = Connection(
                    stream,
                    authority=endpoint.authority,
                    scheme="https" if context else "http",
                    max_message_size=channel.max_message_size,
                    keepalive_time=channel.keepalive_time,
                    keepalive_timeout=channel.keepalive_timeout,
                )
                self._nursery.start_soon(self._serve, connection, endpoint)
                await _wait_ready(connection)
        except trio.TooSlowError as exc:
            reason = f"no connection within {channel.connect_timeout:g} s"
            if connection:
                reason += ": it is open, but silent; is this etcd's client port?"
            raise StreamLost(f"{endpoint}: {reason}") from exc
        except StreamLost as exc:
            # A server that expects TLS closes, most often without a word.
            plain = "" if context else " (in plaintext; for TLS say https://)"
            raise StreamLost(f"{endpoint}: {exc}{plain}") from exc
        except (
            OSError,
            UnicodeError,  # of a host name that IDNA cannot encode
            trio.BrokenResourceError,
        ) as exc:
            raise StreamLost(f"{endpoint}: {_reason(exc)}") from exc
        self.connections_made += 1
        logger.info("connected to %s", endpoint)
        return connection

    @trio.lowlevel.enable_ki_protection
    async def _serve(self, connection: Connection, endpoint: Endpoint) -> None:
        await connection.run()
        if connection is self._connection:
            logger.info("lost the connection to %s: %s", endpoint, connection.lost)

    async def _authenticate(
        self, connection: Connection, credentials: Credentials
    ) -> str | None:
        request = pb.AuthenticateRequest(
            name=credentials.user, password=credentials.password
        ).SerializeToString()
        try:
            with trio.fail_after(self.channel.connect_timeout):
                metadata = (*API_VERSION, *self.channel.metadata)
                reply = await connection.unary(_AUTHENTICATE, request, metadata)
        except trio.TooSlowError as exc:
            raise StreamLost("no answer to Authenticate") from exc
        if isinstance(reply, Status):
            if reply.message == _AUTH_NOT_ENABLED:
                # Go's client goes on without a token too. The next stream asks again.
                return None
            error = error_of_status(reply)
            if isinstance(error, RpcError):
                raise AuthenticationError(error.code, error.message)
            raise error
        try:
            return pb.AuthenticateResponse.FromString(reply).token
        except DecodeError as exc:
            raise StreamLost("the answer to Authenticate cannot be parsed") from exc


_AUTH_NOT_ENABLED = "etcdserver: authentication is not enabled"


@functools.cache
def _system_context() -> ssl.SSLContext:
    """Loading the system's certificates takes tens of milliseconds: once is enough."""
    return ssl.create_default_context()


async def _wait_ready(connection: Connection) -> None:
    try:
        await connection.wait_ready()
    except trio.Cancelled:
        connection.close("not ready in time")
        raise


async def _open_stream(
    endpoint: Endpoint, context: ssl.SSLContext | None
) -> trio.abc.Stream:
    """Connect, and shake hands; cancellation closes what was opened."""
    tcp: trio.SocketStream
    if endpoint.path:
        tcp = await trio.open_unix_socket(endpoint.path)
    else:
        tcp = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    if context is None:
        return tcp
    context.set_alpn_protocols(["h2"])
    tls = trio.SSLStream(
        tcp,
        context,
        server_hostname=endpoint.host or "localhost",
        https_compatible=True,
    )
    try:
        await tls.do_handshake()
        protocol = tls.selected_alpn_protocol()
    except BaseException:
        await trio.aclose_forcefully(tls)
        raise
    if protocol not in (None, "h2"):
        await trio.aclose_forcefully(tls)
        raise StreamLost(f"the server chose ALPN protocol {protocol!r} over h2")
    return tls


def _reason(exc: BaseException) -> str:
    """Say why a connection failed: the causes tell more than Trio's wrapping."""
    cause = exc.__cause__ or exc
    causes = cause.exceptions if isinstance(cause, BaseExceptionGroup) else [cause]
    # Several where a host name has several addresses.
    return "; ".join(
        dict.fromkeys((str(c) or type(c).__name__) + _hint(c) for c in causes)
    )


_UNTRUSTED = frozenset({18, 19, 20, 21})
"""Verification errors of OpenSSL (X509_V_ERR_...) for want of the issuer."""

_NO_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
)
"""What OpenSSL makes of bytes that are no TLS; it depends on its version."""


def _hint(exc: BaseException) -> str:
    """Say what is likely wrong where OpenSSL's words do not."""
    match exc:
        case ssl.SSLCertVerificationError() if exc.verify_code in _UNTRUSTED:
            return "; is its CA loaded into ssl_context?"
        case ssl.SSLEOFError():
            return "; the server ended the TLS handshake: without TLS, use http://"
        case ssl.SSLError() if exc.reason in _NO_TLS:
            return "; the server does not speak TLS: use http://"
    return ""
