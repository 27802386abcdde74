"""Selects the addresses of a cluster's members that a client can use.

Sans-IO. The list comes from outside, and each of its URLs is left out unless

1. its member has started, and has a vote: a learner serves no watch;
2. it is `http://host:port` or `https://host:port`, and nothing more;
3. its host means the same here as on the member: it is not `0.0.0.0`, has no zone, and
   is a machine's name for itself (such as `localhost`) only if the member that reported
   the list was reached at such a name;
4. it is https, if the given endpoints are.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from ._endpoints import Endpoint, is_host_name
from ._pb import watch_pb2 as pb

MAX_LIST_SIZE = 2**20
"""In bytes. etcd sends no longer list, so one that is longer is not parsed."""

MAX_MEMBERS = 1000
"""How many members are considered; a cluster has up to seven."""

MAX_URLS = 100
"""How many URLs are considered; most members have one."""


def usable_members(
    members: Iterable[pb.Member],
    *,
    reporter: Endpoint,
    secure: bool,
    given: Sequence[Endpoint],
) -> tuple[list[Endpoint], list[str]]:
    """Return the endpoints of members, and why others are left out.

    Args:
        members: as the cluster lists them.
        reporter: the endpoint that reported the list.
        secure: whether only TLS may be used.
        given: the endpoints of the channel, which are not returned again.
    """
    local = bool(reporter.path) or is_local(reporter.host)
    known = {_address(endpoint, secure=secure) for endpoint in given if endpoint.host}
    endpoints: dict[Endpoint, None] = {}
    left_out: list[str] = []
    pairs = (
        (member.ID, url)
        for member in itertools.islice(members, MAX_MEMBERS)
        if member.name and not member.isLearner
        for url in member.clientURLs
    )
    for member_id, url in itertools.islice(pairs, MAX_URLS):
        result = _endpoint_of(url, local=local, secure=secure)
        if isinstance(result, str):
            left_out.append(f"a URL of member {member_id:x} is left out: {result}")
        elif _address(result, secure=secure) not in known:
            endpoints[result] = None
    if next(pairs, None) is not None:
        left_out.append(f"only the first {MAX_URLS} URLs of members are looked at")
    return list(endpoints), left_out


def _address(endpoint: Endpoint, *, secure: bool) -> tuple[str, int, bool]:
    tls = secure if endpoint.tls is None else endpoint.tls
    return endpoint.host, endpoint.port, tls


def _endpoint_of(url: str, *, local: bool, secure: bool) -> Endpoint | str:
    """Return the endpoint of a URL, or say why there is none.

    A URL that cannot be parsed is not quoted, since it may hold a password.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in ("http", "https"):
        return "it is neither http:// nor https://"
    if "@" in rest:
        return "there is an '@' in it, and so perhaps a password"
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    host = host.removesuffix(".")
    # urlsplit() silently removes line ends and the like.
    if not rest.isprintable() or not port or not (_ip(host) or is_host_name(host)):
        return "it is not host:port"
    if parts.path.strip("/") or parts.query or parts.fragment:
        return "there is more in it than host:port"
    endpoint = Endpoint(host, port, "", scheme == "https")
    if flaw := _flaw_of_host(host, local=local):
        return f"{endpoint} {flaw}"
    if secure and scheme == "http":
        return f"{endpoint} is plaintext, and this channel is not"
    return endpoint


def _flaw_of_host(host: str, *, local: bool) -> str | None:
    address = _ip(host)
    if address and (address.is_unspecified or address.is_multicast):
        return "is no address of a server"
    if "%" in host:
        return "means something on that machine alone"
    if not local and is_local(host):
        return "is that machine's own name for itself"
    return None


_LOCAL_NAMES = frozenset(
    {
        "localhost",
        "localhost4",
        "localhost6",
        "ip6-localhost",
        "ip6-loopback",
        "ipv6-localhost",
        "ipv6-loopback",
        "loopback",
    }
)
"""Names in the /etc/hosts of various systems; some are followed by a domain."""


def is_local(host: str) -> bool:
    """Whether a host is each machine's name for itself (RFC 6761, 6.3, and others)."""
    host = host.removesuffix(".").lower()
    if address := _ip(host):
        return address.is_loopback
    labels = host.split(".")
    return labels[0] in _LOCAL_NAMES or labels[-1] == "localhost"


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host is; an IPv4 address in IPv6 notation as IPv4."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if not int(address) >> 32 and int(address) >> 16:  # ::127.0.0.1, but not ::1
        return ipaddress.IPv4Address(int(address))
    return address.ipv4_mapped or address
