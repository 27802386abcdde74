"""Where the cluster is: endpoints, TLS and credentials; values that open nothing."""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, final
from urllib.parse import urlsplit

from ._grpc.metadata import Metadata, check_metadata
from ._purerpc import address_of
from ._requests import check_int

MetadataLike: TypeAlias = (
    Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]] | None
)

DEFAULT_MAX_MESSAGE_SIZE = 128 * 2**20
"""In bytes. etcd splits a response at 2 MiB unless one event is larger, but sends
unsplit what had to wait for the creation of its watch."""


API_VERSION: Metadata = (("client-api-version", "3.7"),)
"""Sent with every call, as Go's client sends it: the etcd whose API this client knows.
Servers count their clients by it (etcd_server_client_requests_total), so that whoever
upgrades a cluster can see who is left; without it we would be "unknown"."""


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
class Endpoint:
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


def _parse_endpoint(endpoint: object) -> Endpoint:
    if not isinstance(endpoint, str):
        raise TypeError(f"endpoint must be str, got {endpoint!r}")
    scheme, found, rest = endpoint.partition("://")
    if not found:
        scheme, rest = "", endpoint
    if scheme == "unix":
        if not rest:
            raise ValueError(f"endpoint has no path after unix://, got {endpoint!r}")
        return Endpoint(host="", port=0, path=rest, tls=None)
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
    return Endpoint(host=host, port=port, path="", tls=tls)


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
    for name, _ in API_VERSION:
        # Go's client overwrites it without a word.
        if any(name == given for given, _ in checked):
            raise ValueError(f"metadata name {name!r} is this client's own")
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
        f"channel must be a Channel, an endpoint or a sequence of endpoints, "
        f"got {channel!r}"
    )
