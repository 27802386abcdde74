"""Parses endpoints as users write them: addresses, and names that have SRV records.

Sans-IO. An error quotes what it refuses, except for text that may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

SRV_SCHEME = "etcd+srv"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of the cluster: `path` for a unix socket, otherwise host, port."""

    host: str
    port: int
    path: str
    tls: bool | None
    """None where the endpoint does not say; then the channel's context decides."""
    server_name: str = ""
    """The name that a certificate must have, instead of the host."""

    @property
    def authority(self) -> str:
        if self.path:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.path else self.authority


@dataclass(frozen=True, slots=True)
class SrvName:
    """A domain whose SRV records name the endpoints of the cluster."""

    domain: str
    """In lower case, without the dot that ends a full name."""
    service: str = ""
    """Selects one of several clusters in the domain, as etcd's
    `--discovery-srv-name`."""
    server_name: str = ""
    """The name that certificates must have, instead of the domain."""

    def query(self, *, tls: bool) -> str:
        """Return the full name of the records, for TLS or for plaintext."""
        service = "_etcd-client-ssl" if tls else "_etcd-client"
        if self.service:
            service += f"-{self.service}"
        return f"{service}._tcp.{self.domain}."

    def __str__(self) -> str:
        query = f"?service={self.service}" if self.service else ""
        return f"{SRV_SCHEME}://{self.domain}{query}"


_TLS_OF_SCHEME = {"": None, "http": False, "https": True}


def parse_endpoint(endpoint: object) -> Endpoint | SrvName:
    """Return the address or the name that an endpoint gives.

    Raises:
        TypeError, ValueError: it is not a valid endpoint.
    """
    if not isinstance(endpoint, str):
        raise TypeError(f"endpoint must be str, got {shown(endpoint)}")
    scheme, found, rest = endpoint.partition("://")
    scheme = scheme.lower()
    if not found:
        scheme, rest = "", endpoint
    if scheme == "unix":
        return _parse_unix(endpoint, rest)
    if "@" in endpoint:
        # The endpoint is not quoted: the text before the "@" may be a password.
        raise ValueError(
            "endpoint must not hold a user or a password (there is an '@' in it); "
            "give them as credentials=Credentials(user, password)"
        )
    if scheme == SRV_SCHEME:
        return _parse_srv(endpoint, rest)
    if scheme not in _TLS_OF_SCHEME:
        raise ValueError(
            f"endpoint must begin with http://, https://, unix://, {SRV_SCHEME}:// or "
            f"a host, got {endpoint!r}"
        )
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise _not_host_port(endpoint, rest) from exc
    extra = parts.path.strip("/") or parts.query or parts.fragment
    odd = " " in rest or not rest.isprintable()
    if not host or host.startswith(".") or not port or extra or odd:
        raise _not_host_port(endpoint, rest)
    return Endpoint(host=host, port=port, path="", tls=_TLS_OF_SCHEME[scheme])


def _parse_unix(endpoint: str, path: str) -> Endpoint:
    if not path:
        raise ValueError(f"endpoint has no path after unix://, got {endpoint!r}")
    return Endpoint(host="", port=0, path=path, tls=None)


def _not_host_port(endpoint: str, rest: str) -> ValueError:
    hint = ""
    if "," in rest:
        hint = "; give each endpoint as an argument of its own"
    elif re.fullmatch(r"[\w.-]+|\[[^]]+\]", rest):
        hint = f"; did you mean {endpoint + ':2379'!r}?"
    elif rest.count(":") > 1 and "[" not in rest:
        hint = "; an IPv6 address needs brackets, as in '[::1]:2379'"
    return ValueError(f"endpoint must be host:port, got {endpoint!r}{hint}")


# DNS names

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"


def is_host_name(name: str) -> bool:
    """Whether DNS may have such a host name: lower case, without the last dot.

    A name that ends in a number is an address, or would be parsed as one.
    """
    if len(name) > 253 or not re.fullmatch(rf"{_LABEL}(?:\.{_LABEL})*", name):
        return False
    return not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", name.rpartition(".")[2])


def _parse_srv(endpoint: str, rest: str) -> SrvName:
    domain, _, query = rest.partition("?")
    domain = domain.removesuffix("/").removesuffix(".").lower()
    # With the service and protocol labels before it, a name has at most 253 characters.
    if not is_host_name(domain) or len(domain) > 200:
        hint = ""
        if re.fullmatch(r"[\w.-]+:\d+", domain):
            hint = "; its records say the ports"
        elif not domain.isascii():
            hint = "; write its labels as DNS has them (xn--…)"
        raise ValueError(
            f"endpoint must be {SRV_SCHEME}://domain[?service=name], "
            f"got {endpoint!r}{hint}"
        )
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    known = options.keys() <= {"service", "server_name"}
    service = options.get("service", "").lower()
    server_name = options.get("server_name", "").lower().removesuffix(".")
    if (
        not known
        or len(options) != len(pairs)
        or "" in options.values()
        or (service and not re.fullmatch(r"[a-z0-9-]{1,40}", service))
        or (server_name and not is_host_name(server_name))
    ):
        raise ValueError(
            f"endpoint {endpoint!r}: after the '?' may stand service=name and "
            f"server_name=host, once each"
        )
    return SrvName(domain, service, server_name)


# Checks of endpoints together


def check_schemes(
    endpoints: Sequence[tuple[Endpoint | SrvName, str]],
    *,
    has_context: bool,
    has_secret: bool,
) -> None:
    """Refuse endpoints that would send a secret in plaintext, or contradict each other.

    A name counts as TLS: its records for TLS are preferred to those for plaintext.
    """
    by_tls: dict[bool | None, str] = {}
    for endpoint, text in endpoints:
        if isinstance(endpoint, SrvName):
            by_tls[True] = text
        elif not endpoint.path:
            by_tls[endpoint.tls] = text
    plain, unsaid = by_tls.get(False), by_tls.get(None)
    if has_context:
        if plain is not None:
            raise ValueError(f"ssl_context contradicts endpoint {plain!r}")
    elif True in by_tls:
        if unsaid is not None:
            raise ValueError(
                f"endpoint {unsaid!r} has no scheme, which is plaintext, beside "
                f"{by_tls[True]!r}; say https:// or http://"
            )
        if has_secret and plain is not None:
            raise ValueError(
                f"endpoint {plain!r} is plaintext beside {by_tls[True]!r}: it would "
                f"give away the password or token; say https:// for all, or for none"
            )


def shown(value: object) -> str:
    """Return a value for an error, or only its type if it may hold a password."""
    text = repr(value)
    return type(value).__name__ if "@" in text else text
