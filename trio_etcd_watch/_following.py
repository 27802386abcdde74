"""Asks the cluster for its members, and has the addresses of theirs join the rotation.

At each new connection, and every five minutes while one lasts. After a round in which
nobody answered there is nobody to ask, but the connection that ends it is a new one. A
refusal is no error: then what is known stays as it is. Nothing here ends a connection,
makes one, or costs the streams a token.
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

# By quorum: a member that was removed, or is cut off, may have an old list.
_REQUEST = pb.MemberListRequest(linearizable=True).SerializeToString()

INTERVAL = 300.0
"""Seconds between two looks while a connection lasts."""

RETRY = 10.0
"""Seconds until the next look, if it is worth one: while a cluster is without a quorum
its members are likely to change."""


class Reach(Protocol):
    """What of a connector is needed."""

    @property
    def reached(self) -> tuple[Connection, Endpoint] | None:
        """The connection that lives just now, and where it leads."""

    async def metadata_on(
        self, connection: Connection, *, anew: bool = False
    ) -> Metadata:
        """As `Connector.metadata_on()`."""

    def join(self, connection: Connection, members: Sequence[Endpoint]) -> None:
        """Take these for the members that are there, as this connection tells."""


@final
class Following:
    """Keeps one connector's endpoints in step with the cluster.

    Args:
        connector: is asked for its connection, and told of the members.
        given: the endpoints of the channel.
        secure: whether members in plaintext are none for it.
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
        # What this asks with, on which connection, once the streams' token was refused.
        self._own: tuple[Connection, Metadata] | None = None
        self._left_out: list[str] = []

    def connected(self) -> None:
        """Look soon: there is a new connection."""
        self._connected.set()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Look for members until cancelled."""
        while True:
            self._connected = trio.Event()
            reached = self._connector.reached
            if reached is None:
                await self._connected.wait()
                continue
            wait = await self._look(*reached)
            with trio.move_on_after(wait):
                await self._connected.wait()

    async def _look(self, connection: Connection, teller: Endpoint) -> float:
        """Ask one member; return for how many seconds its answer will do."""
        try:
            reply = await self._ask(connection)
        except trio.TooSlowError:
            return self._unknown(teller, f"no answer within {self._timeout:g} s")
        except StreamLost as exc:
            return self._unknown(teller, str(exc))
        except RpcError as exc:
            # Each try is an Authenticate, with a password that is refused.
            return self._unknown(teller, str(exc), INTERVAL)
        if isinstance(reply, Status):
            lasting = (Verdict.FINAL, Verdict.NEW_TOKEN)
            lasts = verdict_on(Call.MEMBERS, reply) in lasting
            wait = INTERVAL if lasts else RETRY
            return self._unknown(teller, str(reply), wait)
        if len(reply) > MAX_LIST_SIZE:
            reason = f"a list of {len(reply)} bytes is none of etcd's"
            return self._unknown(teller, reason, INTERVAL)
        try:
            answer = parse(pb.MemberListResponse, reply)
        except ValueError:
            return self._unknown(teller, "the answer cannot be parsed", INTERVAL)
        if not any(each.clientURLs for each in answer.members):
            # A cluster has at least the member that answers.
            return self._unknown(teller, "the list has no started member", INTERVAL)
        self._take(answer, connection, teller)
        return INTERVAL

    async def _ask(self, connection: Connection) -> bytes | Status:
        """Ask; if the streams' token is refused, with some that no stream has.

        What a user may watch with may be no good for this, and the reverse.
        """
        refused = 0
        while True:
            if self._own is not None and self._own[0] is connection:
                metadata = self._own[1]
            else:
                metadata = await self._connector.metadata_on(connection)
            # The limit is for this alone: a token may take longer.
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
            another = await self._connector.metadata_on(connection, anew=True)
            if another == metadata:
                # A `token=` that is a text.
                return reply
            self._own = connection, another

    def _take(
        self, answer: pb.MemberListResponse, connection: Connection, teller: Endpoint
    ) -> None:
        endpoints, left_out = usable_members(
            answer.members,
            teller=teller,
            secure=self._secure or bool(teller.tls),
            given=self._given,
        )
        for line in left_out:
            if line not in self._left_out:
                logger.debug("%s", printable(line))
        self._left_out = left_out
        self._connector.join(connection, endpoints)

    def _unknown(self, teller: Endpoint, reason: str, wait: float = RETRY) -> float:
        logger.debug(
            "%s does not tell the members: %s", printable(teller), printable(reason)
        )
        return wait
