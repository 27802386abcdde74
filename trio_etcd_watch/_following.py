"""Asks the cluster for its members, and adds their addresses to the rotation.

It asks on each new connection, and every five minutes while one lasts. (While no
endpoint answers there is nobody to ask; the connection that ends such a time is a new
one.) A refusal is not an error: the known members stay. Nothing here closes or opens a
connection, or replaces the streams' token.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol, final

import trio

from ._endpoints import Endpoint
from ._errors import RpcError
from ._grpc.connection import Connection
from ._grpc.metadata import Metadata
from ._grpc.status import Status, StreamLost
from ._log import printable
from ._members import MAX_LIST_SIZE, usable_members
from ._parsing import parse
from ._pb import watch_pb2 as pb
from ._verdicts import MAX_REFUSED_TOKENS, Call, Verdict, verdict_on

logger = logging.getLogger("trio_etcd_watch.endpoints")

_MEMBER_LIST = "/etcdserverpb.Cluster/MemberList"

# Linearizable: a member that was removed or is partitioned may have an old list.
_REQUEST = pb.MemberListRequest(linearizable=True).SerializeToString()

INTERVAL = 300.0
"""Seconds between two requests while a connection lasts."""

RETRY = 10.0
"""Seconds until the next request after a failure that may pass: while a cluster has no
quorum, its members are likely to change."""


class Reach(Protocol):
    """The part of a connector that is used here."""

    @property
    def reached(self) -> tuple[Connection, Endpoint] | None:
        """The current connection and its endpoint; None without one."""

    async def metadata_on(
        self, connection: Connection, *, new_token: bool = False
    ) -> Metadata:
        """See `Connector.metadata_on()`."""

    def join(self, connection: Connection, members: Sequence[Endpoint]) -> None:
        """Set the current members, as reported on this connection."""


@final
class Following:
    """Keeps one connector's endpoints in step with the cluster.

    Args:
        connector: gives its connection, and receives the members.
        given: the endpoints of the channel.
        secure: whether members that use plaintext are left out.
        timeout: seconds that an answer may take.
    """

    def __init__(
        self,
        connector: Reach,
        given: Sequence[Endpoint],
        *,
        secure: bool,
        timeout: float,
    ) -> None:
        self._connector = connector
        self._given = given
        self._secure = secure
        self._timeout = timeout
        self._connected = trio.Event()
        # A connection on which the streams' token was refused, and the metadata with
        # another token that is used there instead.
        self._own: tuple[Connection, Metadata] | None = None
        self._left_out: list[str] = []

    def connected(self) -> None:
        """Note that there is a new connection, on which to ask."""
        self._connected.set()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Ask for the members, again and again, until cancelled."""
        while True:
            self._connected = trio.Event()
            reached = self._connector.reached
            if reached is None:
                await self._connected.wait()
                continue
            wait = await self._ask_once(*reached)
            with trio.move_on_after(wait):
                await self._connected.wait()

    async def _ask_once(self, connection: Connection, reporter: Endpoint) -> float:
        """Ask one member; return the seconds until the next request."""
        try:
            reply = await self._ask(connection)
        except trio.TooSlowError:
            return self._log_failure(reporter, f"no answer within {self._timeout:g} s")
        except StreamLost as exc:
            return self._log_failure(reporter, str(exc))
        except RpcError as exc:
            # Each retry would authenticate with a password that was refused.
            return self._log_failure(reporter, str(exc), INTERVAL)
        if isinstance(reply, Status):
            lasting = (Verdict.FINAL, Verdict.NEW_TOKEN)
            lasts = verdict_on(Call.MEMBERS, reply) in lasting
            wait = INTERVAL if lasts else RETRY
            return self._log_failure(reporter, str(reply), wait)
        if len(reply) > MAX_LIST_SIZE:
            reason = f"a list of {len(reply)} bytes is longer than any of etcd's"
            return self._log_failure(reporter, reason, INTERVAL)
        try:
            answer = parse(pb.MemberListResponse, reply)
        except ValueError:
            return self._log_failure(reporter, "the answer cannot be parsed", INTERVAL)
        if not any(each.clientURLs for each in answer.members):
            # A cluster has at least the member that answers.
            return self._log_failure(
                reporter, "the list has no started member", INTERVAL
            )
        self._join(answer, connection, reporter)
        return INTERVAL

    async def _ask(self, connection: Connection) -> bytes | Status:
        """Ask; if the streams' token is refused, ask with tokens that no stream has.

        A token that is valid for a watch may be refused here, and the reverse.
        """
        refused = 0
        while True:
            if self._own is not None and self._own[0] is connection:
                metadata = self._own[1]
            else:
                metadata = await self._connector.metadata_on(connection)
            # The limit is for this call only: getting a token may take longer.
            with trio.fail_after(self._timeout):
                reply = await connection.unary(_MEMBER_LIST, _REQUEST, metadata)
            if (
                not isinstance(reply, Status)
                or verdict_on(Call.MEMBERS, reply) is not Verdict.NEW_TOKEN
            ):
                return reply
            self._own = None
            if "token" not in dict(metadata) or refused == MAX_REFUSED_TOKENS:
                return reply
            refused += 1
            another = await self._connector.metadata_on(connection, new_token=True)
            if another == metadata:
                # The channel's `token` is a fixed string.
                return reply
            self._own = connection, another

    def _join(
        self, answer: pb.MemberListResponse, connection: Connection, reporter: Endpoint
    ) -> None:
        endpoints, left_out = usable_members(
            answer.members,
            reporter=reporter,
            secure=self._secure or bool(reporter.tls),
            given=self._given,
        )
        for line in left_out:
            if line not in self._left_out:
                logger.debug("%s", printable(line))
        self._left_out = left_out
        self._connector.join(connection, endpoints)

    def _log_failure(
        self, reporter: Endpoint, reason: str, wait: float = RETRY
    ) -> float:
        logger.debug(
            "%s does not report the members: %s", printable(reporter), printable(reason)
        )
        return wait
