"""Looks up the SRV records of names, and caches them for as long as DNS allows."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from operator import attrgetter
from typing import final

import trio

from ._channel import Channel, needs_tls
from ._endpoints import Endpoint, SrvName
from ._grpc.status import StreamLost
from ._log import printable
from ._rotation import Rotation
from ._srv import NoRecords, Record, in_order, usable_targets

logger = logging.getLogger("trio_etcd_watch.endpoints")

MAX_TTL = 7 * 86_400.0
"""Seconds; RFC 8767 (4) tells resolvers to use no larger one."""

MAX_RECORDS = 300
"""How many records of one name are used. An answer may have three thousand, and the
time to order them is quadratic."""

MAX_LINES = 10
"""How many of the records that one look-up leaves out are logged."""

FAILURE_TTL = 1.0
"""Seconds for which a look-up that failed is not repeated, whoever asks for it."""

MAX_DENIAL_TTL = 60.0
"""The most seconds for which it is cached that there are no records: watches may be
waiting for a new cluster. RFC 2308 (5) lets resolvers choose a limit, of some hours."""


@dataclass(frozen=True, slots=True)
class _Found:
    """The records of a name, or why they are not known, and until when this holds."""

    records: list[Record]
    tls: bool
    failure: StreamLost | None
    expires: float


@final
class Discovery:
    """Looks up the names of a channel.

    Args:
        channel: decides which records may be used: only those for TLS if any endpoint
            is reached by TLS, or if there is a password, a token or metadata to send.
    """

    def __init__(self, channel: Channel) -> None:
        self._timeout = channel.connect_timeout
        self._trusts = channel.ssl_context is not None
        # Metadata may be secret too.
        self._tls_only = (
            needs_tls(channel)
            or channel.credentials is not None
            or channel.token is not None
            or bool(channel.metadata)
        )
        # Names that have had records for TLS; those for plaintext are never used again.
        self._had_tls: set[SrvName] = set()
        self._found: dict[SrvName, _Found] = {}
        # The lines that were last logged of each name, which are not repeated.
        self._logged: dict[SrvName, set[str]] = {}

    async def expand(self, name: SrvName, rotation: Rotation) -> None:
        """Look a name up, and give its turn to the endpoints that it resolves to.

        If these are not known now, the endpoints of the last look-up get the turn, at
        later tries.

        Raises:
            StreamLost: as from `look_up()`; this counts as a try.
        """
        try:
            targets = await self.look_up(name)
        except NoRecords:
            rotation.forget(name)
            raise
        except StreamLost:
            rotation.expand_as_before(name)
            raise
        rotation.expand(name, targets)

    async def look_up(self, name: SrvName) -> list[Endpoint]:
        """Return the endpoints that a name resolves to, in the order to try them.

        The order is drawn at each call; DNS is asked once the records' TTL is over.
        Cancellation leaves nothing behind.

        Raises:
            NoRecords: DNS says that there are no records.
            StreamLost: the records are not known, or none can be used.
        """
        try:
            return await self._look_up(name)
        except NoRecords as exc:
            raise NoRecords(printable(f"{name}: {exc}")) from exc
        except StreamLost as exc:
            raise StreamLost(printable(f"{name}: {exc}")) from exc

    async def _look_up(self, name: SrvName) -> list[Endpoint]:
        found = self._found.get(name)
        if found is None or found.expires <= trio.current_time():
            found = self._found[name] = await self._ask(name)
        if found.failure is not None:
            # A new exception: the traceback of one that is raised repeatedly would
            # grow.
            raise type(found.failure)(str(found.failure))
        endpoints, left_out = usable_targets(
            name,
            in_order(found.records, random.random),
            tls=found.tls,
            trusts=self._trusts,
        )
        if found.tls:
            self._had_tls.add(name)
        targets = ", ".join(sorted(map(str, endpoints)))
        lines = {f"resolves to {targets}", *sorted(left_out)[:MAX_LINES]}
        for line in sorted(lines - self._logged.get(name, set())):
            logger.debug("%s: %s", name, printable(line))
        self._logged[name] = lines
        return endpoints

    async def _ask(self, name: SrvName) -> _Found:
        loss: StreamLost
        ttl = FAILURE_TTL
        try:
            with trio.fail_after(self._timeout):
                records, ttl, tls = await self._query(name)
        except trio.TooSlowError:
            loss = StreamLost(f"DNS gives no answer within {self._timeout:g} s")
        except NoRecords as exc:
            loss, ttl = exc, max(FAILURE_TTL, min(exc.ttl, MAX_DENIAL_TTL))
        except StreamLost as exc:
            loss = exc
        else:
            expires = trio.current_time() + min(ttl, MAX_TTL)
            # More records would take too long to order.
            records = sorted(records, key=attrgetter("priority"))[:MAX_RECORDS]
            return _Found(records, tls, None, expires)
        return _Found([], True, loss, trio.current_time() + ttl)

    async def _query(self, name: SrvName) -> tuple[list[Record], float, bool]:
        # Imported here, since dnspython is installed only where such names are used.
        from ._resolver import query_srv

        try:
            return *await query_srv(name.query(tls=True), self._timeout), True
        except NoRecords as exc:
            # Plaintext is tried only if DNS says that there are no records for TLS:
            # an attacker who suppresses an answer must not cause a downgrade.
            denial = exc
        if self._tls_only or name in self._had_tls:
            reason = f"{denial}, and plaintext is not for this channel"
            raise NoRecords(reason, denial.ttl) from denial
        try:
            return *await query_srv(name.query(tls=False), self._timeout), False
        except NoRecords as exc:
            raise NoRecords(str(exc), min(exc.ttl, denial.ttl)) from exc
