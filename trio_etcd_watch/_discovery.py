"""Looks up what names stand for (SRV), and remembers it for as long as DNS allows."""

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
"""Seconds; RFC 8767 (4) has resolvers believe no larger one."""

MAX_RECORDS = 300
"""Of one name. An answer may have three thousand; to draw them takes their square."""

MAX_LINES = 10
"""Of the records that are left out at one look, those that the log tells."""

FAILURE_TTL = 1.0
"""Seconds in which a look-up that failed is not made again, whoever wants it."""

MAX_DENIAL_TTL = 60.0
"""Seconds for which it is believed at most that there are no records: a cluster may come,
and watches wait for it. RFC 2308 (5) lets resolvers choose a limit, of some hours."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a name stands for, or why that is not known; until when it is believed."""

    records: list[Record]
    tls: bool
    failure: StreamLost | None
    expires: float


@final
class Discovery:
    """Looks up the names of a channel.

    Args:
        channel: says which kinds of record may be used: for TLS alone, if any endpoint
            is reached by TLS, or if there is a password or token to send.
    """

    def __init__(self, channel: Channel) -> None:
        self._timeout = channel.connect_timeout
        self._trusts = channel.ssl_context is not None
        # Metadata may be a secret too.
        self._tls_only = (
            needs_tls(channel)
            or channel.credentials is not None
            or channel.token is not None
            or bool(channel.metadata)
        )
        # Those that have stood for endpoints by TLS never stand for plaintext again.
        self._had_tls: set[SrvName] = set()
        self._found: dict[SrvName, _Found] = {}
        # What was logged of each last: the same again says nothing.
        self._told: dict[SrvName, set[str]] = {}

    async def expand(self, name: SrvName, rotation: Rotation) -> None:
        """Look a name up, and give the turn that it has to what it stands for.

        If that is not known just now, those have it for whom it stood last, at later
        tries.

        Raises:
            StreamLost: as `look_up()`; this was a try.
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
        """Return the endpoints that a name stands for, in the order to try them.

        Each time they are drawn anew; DNS is asked when the records' TTL is over.
        Cancelled, it leaves nothing behind.

        Raises:
            NoRecords: DNS says that there are none.
            StreamLost: they are not known, or none can be used.
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
            # A new one: raised again and again, one would grow.
            raise type(found.failure)(str(found.failure))
        endpoints, left_out = usable_targets(
            name,
            in_order(found.records, random.random),
            tls=found.tls,
            trusts=self._trusts,
        )
        if found.tls:
            self._had_tls.add(name)
        stands_for = ", ".join(sorted(map(str, endpoints)))
        lines = {f"stands for {stands_for}", *sorted(left_out)[:MAX_LINES]}
        for line in sorted(lines - self._told.get(name, set())):
            logger.debug("%s: %s", name, printable(line))
        self._told[name] = lines
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
            # Whatever is more would cost more to draw than it is worth.
            records = sorted(records, key=attrgetter("priority"))[:MAX_RECORDS]
            return _Found(records, tls, None, expires)
        return _Found([], True, loss, trio.current_time() + ttl)

    async def _query(self, name: SrvName) -> tuple[list[Record], float, bool]:
        # Here, since only who gives such a name has dnspython.
        from ._resolver import query_srv

        try:
            return *await query_srv(name.query(tls=True), self._timeout), True
        except NoRecords as exc:
            # Only if DNS says so: else who suppresses an answer has us go on in
            # plaintext.
            denial = exc
        if self._tls_only or name in self._had_tls:
            reason = f"{denial}, and plaintext is not for this channel"
            raise NoRecords(reason, denial.ttl) from denial
        try:
            return *await query_srv(name.query(tls=False), self._timeout), False
        except NoRecords as exc:
            raise NoRecords(str(exc), min(exc.ttl, denial.ttl)) from exc
