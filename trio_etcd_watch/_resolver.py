"""Asks DNS for SRV records; the only module that imports dnspython.

It is imported only if an endpoint needs it (the extra `[srv]`).
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

# Named explicitly, since dnspython needs sniffio to find out by itself.
_BACKEND = dns.asyncbackend.get_backend("trio")


def make_resolver() -> dns.asyncresolver.Resolver:
    """Return a resolver with the system's configuration as it is now."""
    return dns.asyncresolver.Resolver()


async def query_srv(name: str, lifetime: float) -> tuple[list[Record], float]:
    """Return the records of a full name, and for how many seconds they are valid.

    Cancellation leaves nothing behind.

    Args:
        name: with its last dot, so that no domain is appended to it.
        lifetime: seconds that all tries may take together.

    Raises:
        NoRecords: there are no records.
        StreamLost: no server gave a usable answer.
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
        if any(map(_is_truncated, responses)):
            raise StreamLost(
                f"{name} is not resolved: the answer is truncated"
            ) from exc
        ttl = min(map(_denied_for, responses), default=0.0)
        raise NoRecords(f"DNS has no {name}", ttl) from exc
    except (dns.exception.DNSException, OSError, ValueError) as exc:
        # An invalid configuration of the system raises OSError or ValueError.
        raise StreamLost(f"{name} is not resolved: {exc}") from exc
    if _is_truncated(answer.response):
        # This answer came by TCP, since one by UDP would have been repeated by TCP.
        # What is missing is not known, and may be every record.
        raise StreamLost(f"{name} is not resolved: the answer is truncated")
    if answer.rrset is None:
        raise NoRecords(f"DNS has no {name}", _denied_for(answer.response))
    records = [
        Record(rdata.priority, rdata.weight, rdata.port, _text(rdata.target))
        for rdata in answer.rrset
    ]
    return records, float(answer.chaining_result.minimum_ttl)


def _is_truncated(response: dns.message.Message) -> bool:
    return bool(response.flags & dns.flags.TC)


def _denied_for(response: dns.message.Message) -> float:
    """Return for how many seconds a denial is valid, by its SOA (RFC 2308, 5)."""
    for rrset in response.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            # The TTLs of aliases limit what was found through them.
            ttls = [each.ttl for each in (rrset, *response.answer)]
            return float(min(rrset[0].minimum, *ttls))
    return 0.0


def _text(name: dns.name.Name) -> str:
    return "" if name == dns.name.root else name.to_text(omit_final_dot=True).lower()
