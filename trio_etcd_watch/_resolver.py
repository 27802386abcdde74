"""Asks DNS for SRV records: the only module that imports dnspython.

It is imported by whoever gives an endpoint that needs it (the extra `[srv]`).
"""

from __future__ import annotations

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver

from ._grpc.status import StreamLost
from ._srv import NoRecords, Record

# Said outright: to find out by itself it wants sniffio.
_BACKEND = dns.asyncbackend.get_backend("trio")


def make_resolver() -> dns.asyncresolver.Resolver:
    """Return a resolver that has read the system's configuration, as it is now."""
    return dns.asyncresolver.Resolver()


async def query_srv(name: str, lifetime: float) -> tuple[list[Record], float]:
    """Return the records of a full name, and for how many seconds they hold.

    Cancelled, it leaves nothing behind.

    Args:
        name: with its last dot, so that no domain is appended to it.
        lifetime: seconds that all tries may take together.

    Raises:
        NoRecords: there are none.
        StreamLost: nobody could tell.
    """
    try:
        answer = await make_resolver().resolve(
            name,
            "SRV",
            search=False,
            raise_on_no_answer=False,
            lifetime=lifetime,
            backend=_BACKEND,
        )
    except dns.resolver.NXDOMAIN as exc:
        responses = exc.kwargs.get("responses", {}).values()
        if any(map(_is_cut, responses)):
            raise StreamLost(f"{name} is not resolved: the answer is cut") from exc
        ttl = min(map(_denied_for, responses), default=0.0)
        raise NoRecords(f"DNS has no {name}", ttl) from exc
    except (dns.exception.DNSException, OSError, ValueError) as exc:
        # The latter two of a system's configuration that makes no sense.
        raise StreamLost(f"{name} is not resolved: {exc}") from exc
    if _is_cut(answer.response):
        # By TCP, or it would have been asked for again: what is missing is not known,
        # and might be all of it.
        raise StreamLost(f"{name} is not resolved: the answer is cut")
    if answer.rrset is None:
        raise NoRecords(f"DNS has no {name}", _denied_for(answer.response))
    records = [
        Record(rdata.priority, rdata.weight, rdata.port, _text(rdata.target))
        for rdata in answer.rrset
    ]
    return records, float(answer.chaining_result.minimum_ttl)


def _is_cut(response: dns.message.Message) -> bool:
    return bool(response.flags & dns.flags.TC)


def _denied_for(response: dns.message.Message) -> float:
    """Return for how many seconds there is nothing: what its SOA says (RFC 2308, 5)."""
    for rrset in response.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            # Those of an alias hold for what follows from it.
            ttls = [each.ttl for each in (rrset, *response.answer)]
            return float(min(rrset[0].minimum, *ttls))
    return 0.0


def _text(name: dns.name.Name) -> str:
    return "" if name == dns.name.root else name.to_text(omit_final_dot=True).lower()
