"""Decides in which order SRV records are tried, and which of them are used.

Sans-IO.

1. A lower priority comes first; within one, the chance to be next is proportional to
   the weight (RFC 2782).
2. A certificate must name the *domain* that the user gave, or the `server_name` given
   with it, and not the target: an attacker who forges a record also forges its target,
   and may have a certificate for that. etcd's own tools do the same (etcdctl and the
   gateway set ServerName to the domain of `--discovery-srv`: etcd pull request 6084),
   as RFC 6125 (6.2.1) asks.
3. A target outside the domain is left out, unless the user says whom to trust besides
   DNS: by an `ssl_context` with a CA, or by `server_name`.
4. A single record with the target "." means that there is no such service (RFC 2782).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ._endpoints import Endpoint, SrvName, is_host_name
from ._grpc.status import StreamLost

MAX_TARGETS = 100
"""How many records of one name are used; an answer may have two thousand."""

_WEIGHT_OF_ZERO = 0.001
"""The weight of records that have 0: a very small chance beside others (RFC 2782)."""


@dataclass(frozen=True, slots=True)
class Record:
    """An SRV record; its target is lower case, without the last dot ("" for root)."""

    priority: int
    weight: int
    port: int
    target: str


class NoRecords(StreamLost):
    """DNS says that there are no such records.

    Attributes:
        ttl: for how many seconds this is valid; 0 if DNS does not say (RFC 2308).
    """

    def __init__(self, reason: str, ttl: float = 0.0) -> None:
        super().__init__(reason)
        self.ttl = ttl


def in_order(records: Sequence[Record], random: Callable[[], float]) -> list[Record]:
    """Return records in the order in which they are tried.

    Args:
        records: in any order.
        random: returns a float in [0, 1).
    """
    ordered: list[Record] = []
    for priority in sorted({record.priority for record in records}):
        rest = [record for record in records if record.priority == priority]
        while rest:
            ordered.append(rest.pop(_draw(rest, random)))
    return ordered


def _draw(records: Sequence[Record], random: Callable[[], float]) -> int:
    weights = [record.weight or _WEIGHT_OF_ZERO for record in records]
    remaining = random() * sum(weights)
    for i, weight in enumerate(weights):
        remaining -= weight
        if remaining < 0:
            return i
    return len(records) - 1  # the sum was rounded


def usable_targets(
    name: SrvName, records: Sequence[Record], *, tls: bool, trusts: bool
) -> tuple[list[Endpoint], list[str]]:
    """Return the endpoints that records name, and why other records are left out.

    Args:
        name: the name that was looked up.
        records: its records, in order.
        tls: whether they are the records for TLS.
        trusts: whether the user gave an `ssl_context`.

    Raises:
        NoRecords: there is no such service.
        StreamLost: no record can be used.
    """
    if all(not record.target for record in records):
        raise NoRecords("its SRV record says that there is no such service")
    anywhere = trusts or bool(name.server_name)
    server_name = (name.server_name or name.domain) if tls else ""
    endpoints: list[Endpoint] = []
    left_out: list[str] = []
    for record in records[:MAX_TARGETS]:
        if flaw := _flaw(name, record, anywhere=anywhere):
            left_out.append(flaw)
        else:
            endpoints.append(Endpoint(record.target, record.port, "", tls, server_name))
    if len(records) > MAX_TARGETS:
        left_out.append(f"{len(records) - MAX_TARGETS} more than {MAX_TARGETS} records")
    if not endpoints:
        raise StreamLost(f"no SRV record can be used: {left_out[0]}")
    # A target with two records, of different weights, has one turn.
    return list(dict.fromkeys(endpoints)), left_out


def _flaw(name: SrvName, record: Record, *, anywhere: bool) -> str | None:
    """Return why a record is left out, or None."""
    target = record.target
    if not is_host_name(target):
        return f"target {target!r} is no host"
    if not record.port:
        return f"target {target} has port 0"
    if not anywhere and not f".{target}".endswith(f".{name.domain}"):
        return (
            f"target {target} is outside {name.domain}, and may be forged "
            f"(an ssl_context with its CA, or ?server_name=, allows it)"
        )
    return None
