"""Describes how to reach a cluster: endpoints, TLS and credentials, without any I/O."""

from __future__ import annotations

import importlib
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, final

from ._arguments import check_int, check_seconds, check_type
from ._endpoints import Endpoint, SrvName, check_schemes, parse_endpoint, shown
from ._grpc.metadata import Metadata, check_metadata
from ._purerpc import address_of

MetadataLike: TypeAlias = (
    Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]] | None
)
"""Metadata of calls, as a user gives it."""

TokenSource: TypeAlias = str | Callable[[], Awaitable[str]]
"""A token of etcd's auth, or an async function that returns one."""

DEFAULT_MAX_MESSAGE_SIZE = 128 * 2**20
"""In bytes. etcd splits a response at 2 MiB unless one event is larger, but does not
split events that had to wait for the creation of their watch."""


API_VERSION: Metadata = (("client-api-version", "3.7"),)
"""Sent with every call, as by Go's client: the etcd version whose API this client
knows. Servers count their clients by it (etcd_server_client_requests_total), so that
whoever upgrades a cluster sees which clients remain; without it we would count as
"unknown"."""


@final
@dataclass(frozen=True, slots=True)
class Credentials:
    """A user of etcd's auth, and the password, which the repr omits.

    Raises:
        TypeError, ValueError: One of them is not a str or cannot be UTF-8, or the user
            is empty; the text never has the password.
    """

    user: str
    """The name of the user."""
    password: str = field(repr=False)
    """The password."""

    def __post_init__(self) -> None:
        for name, value in (("user", self.user), ("password", self.password)):
            if not isinstance(value, str):
                raise TypeError(f"{name} must be str, got {type(value).__name__}")
            try:
                value.encode()
            except UnicodeEncodeError:
                # From None, since the cause would hold the value.
                raise ValueError(f"{name} cannot be encoded as UTF-8") from None
        if not self.user:
            raise ValueError("user must not be empty, got ''")


def metadata_pairs(metadata: MetadataLike) -> Metadata:
    """Check metadata, and return it sorted, so that equal metadata compares equal."""
    if metadata is None:
        return ()
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata
    try:
        checked = tuple((name, value) for name, value in pairs)
    except (TypeError, ValueError) as exc:
        raise TypeError("metadata must be a mapping or pairs of name, value") from exc
    check_metadata(checked)
    for name, _ in API_VERSION:
        # Go's client overwrites it silently.
        if any(name == given for given, _ in checked):
            raise ValueError(f"metadata name {name!r} is this client's own")
    return tuple(sorted(checked, key=lambda pair: pair[0]))


def _parsed(endpoints: Sequence[str]) -> list[tuple[Endpoint | SrvName, str]]:
    """Return what each of them stands for, with its text."""
    if not endpoints:
        raise ValueError("endpoints must not be empty")
    parsed = [(parse_endpoint(endpoint), endpoint) for endpoint in endpoints]
    _check_system(parsed)
    return parsed


def _check_system(endpoints: Iterable[tuple[Endpoint | SrvName, str]]) -> None:
    """Check that this system, and what is installed on it, can reach endpoints."""
    for endpoint, text in endpoints:
        if isinstance(endpoint, SrvName):
            try:
                importlib.import_module("._resolver", __package__)
            except ImportError as exc:
                raise ValueError(
                    f"endpoint {text!r} needs dnspython: "
                    f"pip install 'trio-etcd-watch[srv]'"
                ) from exc
        elif endpoint.path and not hasattr(socket, "AF_UNIX"):
            raise ValueError(f"endpoint {text!r}: this system has no unix sockets")


def _check_context(context: ssl.SSLContext | None) -> None:
    check_type("ssl_context", context, ssl.SSLContext)
    if context is not None and context.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ValueError(
            "ssl_context must be a client's, got one of PROTOCOL_TLS_SERVER; "
            "ssl.create_default_context() makes one"
        )


def _check_secrets(credentials: object, token: object) -> None:
    check_type("credentials", credentials, Credentials)
    if token is None:
        return
    if credentials is not None:
        raise ValueError("credentials and token exclude each other")
    if callable(token):
        return
    if not isinstance(token, str):
        raise TypeError(
            f"token must be str or an async function without arguments, "
            f"got {type(token).__name__}"
        )
    if flaw := flaw_of_token(token):
        raise ValueError(f"token {flaw}")


def flaw_of_token(token: str) -> str | None:
    """Say why a header cannot carry a token, without quoting it; None if it can."""
    if not token:
        return "is empty"
    if not re.fullmatch(r"[\x20-\x7e]*", token):
        hint = " (a line end behind it?)" if token != token.rstrip() else ""
        return f"has characters other than printable ASCII{hint}"
    if token != token.strip():
        return "begins or ends with a space"
    return None


@final
@dataclass(frozen=True, slots=True, init=False, repr=False)
class Channel:
    """How to reach a cluster: an immutable description that opens nothing.

    Channels of equal arguments are equal.

    Args:
        endpoints: `host:port`, `http://host:port`, `https://host:port`,
            `[::1]:2379` or `unix:///path`. The first is picked at random; after each
            failure the next is tried, as is each address of a name that has several.
            `etcd+srv://example.com` means the targets of that domain's SRV records;
            `pip install 'trio-etcd-watch[srv]'` installs what looks them up.
        ssl_context: for TLS, with the certificates that it has loaded. It is not
            changed, except for the moment (far below a millisecond) in which a
            connection is made: then `h2` is its ALPN protocol, also for another thread
            that connects with it at that moment. Without a context, `https://`
            verifies against the system's certificates.
        credentials: a user of etcd's auth. etcd may take seconds to compare a
            password (bcrypt), so the time limit of the answer is the longer of 20 s
            and `connect_timeout`.
        token: instead of credentials, a token of etcd's auth that comes from
            elsewhere (a JWT): a string, or an async function without arguments that
            returns one. The function is called when a stream needs a token, and again
            when the server refuses the last one, at most three times in a row; then
            the watch fails with `AuthenticationError`. If the function raises, the
            watch fails at once with the same error, whose cause is what was raised. A
            call may take `connect_timeout`; then it is cancelled, and made again later.
        metadata: sent with every stream: a mapping, or pairs of name and value.
        connect_timeout: seconds that looking up a name or its SRV records may take,
            and then each attempt at one of its addresses, until the server has begun to
            speak HTTP/2. The next address does not wait for the end of an attempt: it
            is tried 0.25 s after the one before, and the first that works is used.
        keepalive_time: seconds of silence after which the server is pinged; etcd
            ends connections that ping more often than every 5 s.
        keepalive_timeout: seconds that the server then has to answer.
        max_message_size: bound in bytes of one response, 1024 or more; a watch that
            needs more fails with `RpcError` (RESOURCE_EXHAUSTED).
        follow_members: whether to ask the cluster for its members, on each new
            connection and every five minutes, and to use their addresses as well as the
            endpoints, which are never forgotten. If the streams' token is refused for
            that, the cluster is asked with other tokens, up to three each time.

    Raises:
        TypeError, ValueError: An argument is wrong; the text names it, and never has a
            password or a token.
    """

    _endpoints: tuple[Endpoint, ...]
    _srv_names: tuple[SrvName, ...]
    ssl_context: ssl.SSLContext | None
    credentials: Credentials | None
    token: TokenSource | None
    metadata: Metadata
    connect_timeout: float
    keepalive_time: float
    keepalive_timeout: float
    max_message_size: int
    follow_members: bool

    def __init__(
        self,
        *endpoints: str,
        ssl_context: ssl.SSLContext | None = None,
        credentials: Credentials | None = None,
        token: TokenSource | None = None,
        metadata: MetadataLike = None,
        connect_timeout: float = 5.0,
        keepalive_time: float = 10.0,
        keepalive_timeout: float = 5.0,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        follow_members: bool = False,
    ) -> None:
        parsed = _parsed(endpoints)
        _check_context(ssl_context)
        _check_secrets(credentials, token)
        check_type("follow_members", follow_members, bool)
        has_secret = credentials is not None or token is not None
        has_context = ssl_context is not None
        check_schemes(parsed, has_context=has_context, has_secret=has_secret)
        seconds = {
            "connect_timeout": connect_timeout,
            "keepalive_time": keepalive_time,
            "keepalive_timeout": keepalive_timeout,
        }
        check_seconds(seconds)
        check_int("max_message_size", max_message_size, low=1024, high=2**32 - 1)
        fields: dict[str, object] = {
            "_endpoints": tuple(e for e, _ in parsed if isinstance(e, Endpoint)),
            "_srv_names": tuple(e for e, _ in parsed if isinstance(e, SrvName)),
            "ssl_context": ssl_context,
            "credentials": credentials,
            "token": token,
            "metadata": metadata_pairs(metadata),
            "max_message_size": max_message_size,
            "follow_members": follow_members,
            **seconds,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        # Metadata and token are omitted: they may be secret.
        given = (*self._endpoints, *self._srv_names)
        endpoints = ", ".join(repr(str(endpoint)) for endpoint in given)
        return f"Channel({endpoints}, credentials={self.credentials!r})"


def as_channel(channel: object) -> Channel:
    """Return the `Channel` that the argument of `open_watcher()` describes.

    Raises:
        TypeError, ValueError: it does not describe one.
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
        f"got {shown(channel)}"
    )


def endpoints_of(channel: Channel) -> tuple[Endpoint, ...]:
    """Return the endpoints that were given, but for names."""
    return channel._endpoints


def srv_names_of(channel: Channel) -> tuple[SrvName, ...]:
    """Return the names that were given, whose SRV records are endpoints."""
    return channel._srv_names


def needs_tls(channel: Channel) -> bool:
    """Whether endpoints found beside the given ones may only be reached by TLS.

    That is so if a given endpoint is reached by TLS, or if there is a secret to send,
    unless the given endpoints send it in plaintext over the network anyway.
    """
    if channel.ssl_context is not None or any(e.tls for e in channel._endpoints):
        return True
    has_secret = channel.credentials is not None or channel.token is not None
    return has_secret and all(e.path for e in channel._endpoints)
