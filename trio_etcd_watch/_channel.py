"""Where the cluster is: endpoints, TLS and credentials; and connections to it."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import random
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, final
from urllib.parse import urlsplit

import trio
from google.protobuf.message import DecodeError

from ._errors import AuthenticationError, RpcError, StreamLost
from ._grpc import Connection
from ._http2 import Metadata, address_of, check_metadata
from ._pb import watch_pb2 as pb
from ._requests import check_int

logger = logging.getLogger("trio_etcd_watch")

MetadataLike: TypeAlias = (
    Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]] | None
)

DEFAULT_MAX_MESSAGE_SIZE = 128 * 2**20
"""In bytes. etcd splits a response at 2 MiB unless one event is larger, but sends
unsplit what had to wait for the creation of its watch."""

_AUTHENTICATE = "/etcdserverpb.Auth/Authenticate"


@final
@dataclass(frozen=True, slots=True)
class Credentials:
    """A user of etcd's auth, and the password; the latter is in no repr."""

    user: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        for name, value in (("user", self.user), ("password", self.password)):
            if not isinstance(value, str):
                raise TypeError(f"{name} must be str, got {type(value).__name__}")
            try:
                value.encode()
            except UnicodeEncodeError:
                # From None: the cause holds the value.
                raise ValueError(f"{name} cannot be encoded as UTF-8") from None
        if not self.user:
            raise ValueError("user must not be empty, got ''")


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """One address of the cluster; `path` is set for a unix socket, else host, port."""

    host: str
    port: int
    path: str
    tls: bool | None
    """None where the endpoint does not say: a context decides."""

    @property
    def authority(self) -> str:
        if self.path:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.path else self.authority


def _parse_endpoint(endpoint: object) -> _Endpoint:
    if not isinstance(endpoint, str):
        raise TypeError(f"endpoint must be str, got {endpoint!r}")
    scheme, found, rest = endpoint.partition("://")
    if not found:
        scheme, rest = "", endpoint
    if scheme == "unix":
        if not rest:
            raise ValueError(f"endpoint has no path after unix://, got {endpoint!r}")
        return _Endpoint(host="", port=0, path=rest, tls=None)
    if scheme not in ("", "http", "https"):
        raise ValueError(
            f"endpoint must begin with http://, https://, unix:// or a host, "
            f"got {endpoint!r}"
        )
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError(f"endpoint must be host:port, got {endpoint!r}") from exc
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if not host or not port or extra or any(c.isspace() for c in rest):
        raise ValueError(f"endpoint must be host:port, got {endpoint!r}")
    tls = {"": None, "http": False, "https": True}[scheme]
    return _Endpoint(host=host, port=port, path="", tls=tls)


def metadata_pairs(metadata: MetadataLike) -> Metadata:
    """Return metadata checked, in one order, so that equal metadata compare equal."""
    if metadata is None:
        return ()
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata
    try:
        checked = tuple((name, value) for name, value in pairs)
    except (TypeError, ValueError) as exc:
        raise TypeError("metadata must be a mapping or pairs of name, value") from exc
    check_metadata(checked)
    return tuple(sorted(checked, key=lambda pair: pair[0]))


def _check_type(name: str, value: object, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        # The type alone: the value may hold a password.
        raise TypeError(f"{name} must be {kind.__name__}, got {type(value).__name__}")


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    if not value > 0 or math.isnan(value):
        raise ValueError(f"{name} must be above 0 seconds, got {value!r}")


@final
class Channel:
    """How to reach a cluster; an immutable description that opens nothing.

    Args:
        endpoints: `host:port`, `http://host:port`, `https://host:port`,
            `[::1]:2379` or `unix:///path`. One is picked at random to begin with;
            after each failure the next has its turn.
        ssl_context: for TLS, with whatever certificates it has loaded; `h2` is set
            as its ALPN protocol. Without one, `https://` verifies against the
            system's certificates.
        credentials: a user of etcd's auth.
        metadata: sent with every stream: a mapping, or pairs of name and value.
        connect_timeout: seconds that one attempt to connect may take.
        keepalive_time: seconds of silence after which the server is pinged; etcd
            ends connections that ping more often than every 5 s.
        keepalive_timeout: seconds that it then has to answer.
        max_message_size: bound in bytes of one response, 1024 or more; a watch that
            needs more fails with `RpcError` (RESOURCE_EXHAUSTED).

    Raises:
        TypeError, ValueError: naming the argument.
    """

    __slots__ = (
        "_endpoints",
        "connect_timeout",
        "credentials",
        "keepalive_time",
        "keepalive_timeout",
        "max_message_size",
        "metadata",
        "ssl_context",
    )

    def __init__(
        self,
        *endpoints: str,
        ssl_context: ssl.SSLContext | None = None,
        credentials: Credentials | None = None,
        metadata: MetadataLike = None,
        connect_timeout: float = 5.0,
        keepalive_time: float = 10.0,
        keepalive_timeout: float = 5.0,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    ) -> None:
        if not endpoints:
            raise ValueError("endpoints must not be empty")
        parsed = tuple(_parse_endpoint(endpoint) for endpoint in endpoints)
        _check_type("ssl_context", ssl_context, ssl.SSLContext)
        _check_type("credentials", credentials, Credentials)
        for endpoint, text in zip(parsed, endpoints, strict=True):
            if ssl_context is not None and endpoint.tls is False:
                raise ValueError(f"ssl_context contradicts endpoint {text!r}")
        _check_seconds("connect_timeout", connect_timeout)
        _check_seconds("keepalive_time", keepalive_time)
        _check_seconds("keepalive_timeout", keepalive_timeout)
        check_int("max_message_size", max_message_size, low=1024, high=2**32 - 1)
        self._endpoints = parsed
        self.ssl_context = ssl_context
        self.credentials = credentials
        self.metadata = metadata_pairs(metadata)
        self.connect_timeout = connect_timeout
        self.keepalive_time = keepalive_time
        self.keepalive_timeout = keepalive_timeout
        self.max_message_size = max_message_size

    def __repr__(self) -> str:
        # Not metadata: it may hold a token.
        endpoints = ", ".join(repr(str(endpoint)) for endpoint in self._endpoints)
        return f"Channel({endpoints}, credentials={self.credentials!r})"


def as_channel(channel: object) -> Channel:
    """Return the `Channel` that the argument of `open_watcher()` stands for.

    Raises:
        TypeError, ValueError: it stands for none.
    """
    if isinstance(channel, Channel):
        return channel
    if isinstance(channel, str):
        return Channel(channel)
    if address := address_of(channel):
        host, port, ssl_context = address
        host = f"[{host}]" if ":" in host else host
        return Channel(f"{host}:{port}", ssl_context=ssl_context)
    if isinstance(channel, Iterable) and not isinstance(channel, bytes):
        return Channel(*channel)
    raise TypeError(
        f"channel must be a Channel, an endpoint, a sequence of endpoints or a "
        f"purerpc channel, got {channel!r}"
    )


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
        return connection, (*self.channel.metadata, *token)

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

    async def _dial(self, endpoint: _Endpoint) -> Connection:
        channel = self.channel
        context = channel.ssl_context
        if context is None and endpoint.tls:
            context = _system_context()
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
            raise StreamLost(f"{endpoint}: {reason}") from exc
        except (
            OSError,
            UnicodeError,  # of a host name that IDNA cannot encode
            trio.BrokenResourceError,
            StreamLost,
        ) as exc:
            raise StreamLost(f"{endpoint}: {_reason(exc)}") from exc
        self.connections_made += 1
        logger.info("connected to %s", endpoint)
        return connection

    @trio.lowlevel.enable_ki_protection
    async def _serve(self, connection: Connection, endpoint: _Endpoint) -> None:
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
                reply = await connection.unary(
                    _AUTHENTICATE, request, self.channel.metadata
                )
        except trio.TooSlowError as exc:
            raise StreamLost("no answer to Authenticate") from exc
        except RpcError as exc:
            if exc.message == _AUTH_NOT_ENABLED:
                # Go's client goes on without a token too. The next stream asks again.
                return None
            raise AuthenticationError(exc.code, exc.message) from exc
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
    endpoint: _Endpoint, context: ssl.SSLContext | None
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
    return "; ".join(dict.fromkeys(str(c) or type(c).__name__ for c in causes))
