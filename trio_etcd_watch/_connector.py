"""Keeps a connection to one endpoint of the cluster, and the token for its streams."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import trio

from ._authentication import Authenticator
from ._channel import (
    API_VERSION,
    Channel,
    endpoints_of,
    flaw_of_token,
    needs_tls,
    srv_names_of,
)
from ._dialer import Dialer
from ._endpoints import Endpoint, SrvName
from ._errors import AuthenticationError
from ._grpc.connection import Connection
from ._grpc.metadata import Metadata
from ._grpc.status import StatusCode, StreamLost, TooManyPings
from ._log import printable
from ._rotation import Rotation, Source
from ._statistics import EndpointStatistics
from ._verdicts import MAX_REFUSED_TOKENS

if TYPE_CHECKING:
    from ._discovery import Discovery
    from ._following import Following

logger = logging.getLogger("trio_etcd_watch")

HAS_LEADER: Metadata = (("hasleader", "true"),)
"""Sent with Authenticate and with every stream. A member of etcd that has no leader
then refuses them at once, and ends a stream within three election timeouts, instead of
being silent (v3rpc/interceptor.go)."""

PATIENCE = 0.25
"""Seconds after which a member that has not replied is suspected, if its users give up.
If they do so twice, the next stream is opened elsewhere. Once is not enough, since they
may have a short timeout, and another connection has to be made first."""

MAX_KEEPALIVE_TIME = 600.0
"""Seconds up to which a server may increase keepalive_time. This is twice the longest
interval that gRPC servers ask for, and a dead connection is still noticed after it."""


# The modules of these two features are imported only if the channel uses them.


def _discovery_of(channel: Channel) -> Discovery | None:
    if not srv_names_of(channel):
        return None
    from ._discovery import Discovery

    return Discovery(channel)


def _following_of(channel: Channel, connector: Connector) -> Following | None:
    if not channel.follow_members:
        return None
    from ._following import Following

    return Following(
        connector,
        endpoints_of(channel),
        secure=needs_tls(channel),
        timeout=channel.connect_timeout,
    )


@final
class Connector:
    """Keeps one connection to the cluster, shared by the streams of a watcher.

    Attributes:
        channel: the channel.
        connections_made: how many connections have been opened so far.

    Args:
        channel: describes how to reach the cluster.
        nursery: runs the connections, and closes them when it is cancelled.
    """

    def __init__(self, channel: Channel, nursery: trio.Nursery) -> None:
        self.channel = channel
        self.connections_made: int = 0
        self._nursery = nursery
        given: Sequence[Endpoint | SrvName] = (
            *endpoints_of(channel),
            *srv_names_of(channel),
        )
        # Shuffled, so that clients spread over the members.
        self._rotation = Rotation(random.sample(given, len(given)))
        self._discovery = _discovery_of(channel)
        self._dialer = Dialer(channel, self._start)
        self._connection: Connection | None = None
        # The endpoint of the connection, its source, and from when until when the
        # connection lasted.
        self._reached: Endpoint | None = None
        self._source: Source = "given"
        self._since, self._until = 0.0, math.inf
        # The connection on which the list of members was read.
        self._served: Connection | None = None
        self._token: str | None = None
        # The connection on which the token was obtained, and the time if it replaced a
        # refused one, otherwise -inf.
        self._token_origin: tuple[Connection | None, float] = (None, -math.inf)
        self._token_refused = False
        self._flawed_tokens = 0
        self._closed = False
        self._suspect: Connection | None = None
        self._lock = trio.Lock()
        self._authenticator = Authenticator(channel, HAS_LEADER)
        self._following = _following_of(channel, self)
        if self._following:
            nursery.start_soon(self._following.run)

    @property
    def can_authenticate(self) -> bool:
        """Whether a new stream can have a new token."""
        return self.channel.credentials is not None or self.channel.token is not None

    async def connect(self) -> tuple[Connection, Metadata]:
        """Return a working connection, and the metadata for a new stream on it.

        This tries one endpoint, with all its addresses, once; the next call tries the
        next endpoint. If it is the turn of a name, that is looked up first.

        Raises:
            StreamLost: the endpoint could not be reached, or there was no token that
                can be sent.
            AuthenticationError: the credentials are refused, the function given as
                `token=` raised, or several tokens in a row cannot be sent.
        """
        async with self._lock:
            self._check_open()
            connection = self._connection
            if connection is None or connection.lost:
                self._note_loss()
                connection = await self._dial(await self._next_endpoint())
            if self._token is None:
                await self._take_token(connection)
            return connection, self._metadata_with(self._token)

    async def metadata_on(
        self, connection: Connection, *, new_token: bool = False
    ) -> Metadata:
        """Return the metadata for a unary call, without dialing.

        The connection stays the one in use, whatever happens.

        Args:
            connection: the connection of the call.
            new_token: get another token than that of the streams, which keep theirs. If
                it is refused, that does not count as a try of the streams.

        Raises:
            StreamLost: the connection is no longer in use, or there was no token that
                can be sent.
            AuthenticationError: the credentials are refused, or the function given as
                `token=` raised.
        """
        async with self._lock:  # a stream may be getting a token just now
            self._check_open()
            if connection is not self._connection or connection.lost:
                raise StreamLost("there is another connection by now, or none")
            token = self._token
        if new_token or token is None:
            token = await self._authenticator.new_token(connection)
            if token is not None and (flaw := flaw_of_token(token)):
                raise StreamLost(f"the token {flaw}")
        return self._metadata_with(token)

    def _metadata_with(self, token: str | None) -> Metadata:
        pair: Metadata = (("token", token),) if token else ()
        return (*API_VERSION, *self.channel.metadata, *pair)

    @property
    def reached(self) -> tuple[Connection, Endpoint] | None:
        """The present connection and its endpoint; None while there is none."""
        connection, endpoint = self._connection, self._reached
        if connection is None or endpoint is None or connection.lost:
            return None
        return connection, endpoint

    def endpoints(self) -> tuple[EndpointStatistics, ...]:
        """Return the statistics of the endpoints that are known."""
        known = dict(self._rotation.known())
        reached = self.reached
        in_use = reached[1] if reached else None
        if in_use:
            # Its member, or its SRV record, may have been removed.
            known.setdefault(in_use, self._source)
        return tuple(
            EndpointStatistics(str(endpoint), source, endpoint == in_use)
            for endpoint, source in known.items()
        )

    def join(self, connection: Connection, members: Sequence[Endpoint]) -> None:
        """Set the current members, which are tried in addition to the given endpoints.

        Args:
            connection: the connection on which they were read, which therefore works.
            members: their endpoints.
        """
        self._served = connection
        if self._rotation.join(random.sample(members, len(members))):
            names = printable(", ".join(map(str, members)))
            line = "members in addition to the given endpoints: %s"
            logger.getChild("endpoints").debug(line, names or "none")
            self._dialer.keep(endpoint for endpoint, _ in self._rotation.known())

    def leave(self, connection: Connection) -> None:
        """Open the next streams elsewhere, and no more on this connection.

        Its streams continue; the connection is closed with the last of them.
        """
        if connection is self._connection:
            self._note_loss()
            self._connection = None
            connection.retire()

    def _note_loss(self) -> None:
        """Report a lost connection to the rotation if the members were read on it.

        If they were not, it perhaps served nobody, and the next endpoint has its turn.
        """
        connection = self._connection
        if connection is None or not connection.lost:
            return
        if connection is self._served:
            assert self._reached is not None
            until = min(self._until, trio.current_time())
            self._rotation.lost(self._reached, until - self._since)
        self._served = None

    def suspect(self, connection: Connection) -> None:
        """Note that users gave up before any reply; `leave()` at the second time."""
        if self._suspect is connection:
            self.leave(connection)
        self._suspect = connection

    def trust(self) -> None:
        """Note that the member has replied."""
        self._suspect = None

    def token_renewed(self, connection: Connection) -> float:
        """Return when the present token replaced a refused one; -inf if it did not.

        Only a token that was obtained on this very connection counts: a server that
        restarts forgets its tokens, and loses its connections. A first token does not
        count either: that of `token=` may be old, and auth may have been disabled and
        enabled since.
        """
        origin, taken = self._token_origin
        return taken if origin is connection else -math.inf

    def forget_token(self, token: str | bytes | None) -> bool:
        """Get a new token for the next stream, since the server refused this one.

        Returns:
            Whether it was the present token; if not, nothing is changed.
        """
        if token != self._token:
            return False
        self._token = None
        self._token_refused = True
        return True

    def close(self) -> None:
        """Make no more connections: the nursery is about to end."""
        self._closed = True

    def _check_open(self) -> None:
        # Tasks that wait for the lock while another dials would dial in turn, in vain.
        if self._closed:
            raise StreamLost("the watcher is closed")

    async def _next_endpoint(self) -> Endpoint:
        turn = self._rotation.take()
        if isinstance(turn, SrvName):
            assert self._discovery is not None
            await self._discovery.expand(turn, self._rotation)
            self._dialer.keep(endpoint for endpoint, _ in self._rotation.known())
            turn = self._rotation.take()
        assert isinstance(turn, Endpoint)
        return turn

    async def _dial(self, endpoint: Endpoint) -> Connection:
        source = self._rotation.source_of(endpoint)
        try:
            connection = await self._dialer.dial(endpoint)
        except StreamLost:
            self._rotation.failed(endpoint)
            raise
        self._rotation.worked(endpoint)
        self._connection, self._reached, self._source = connection, endpoint, source
        self._since, self._until = trio.current_time(), math.inf
        self.connections_made += 1
        if self._following:
            self._following.connected()
        logger.debug("reached %s", printable(endpoint))
        return connection

    def _start(self, connection: Connection, endpoint: Endpoint) -> None:
        self._check_open()
        self._nursery.start_soon(self._serve, connection, endpoint)

    @trio.lowlevel.enable_ki_protection
    async def _serve(self, connection: Connection, endpoint: Endpoint) -> None:
        await connection.run()
        if isinstance(connection.lost, TooManyPings):
            self._ping_less(connection, endpoint)
        if connection is self._connection:
            self._until = trio.current_time()
            reason = printable(connection.lost)
            logger.debug("lost the connection to %s: %s", printable(endpoint), reason)

    def _ping_less(self, connection: Connection, endpoint: Endpoint) -> None:
        """Double the interval of pings of new connections (gRFC A8).

        It is doubled only once if several connections are refused together.
        """
        interval = min(2 * connection.keepalive_time, MAX_KEEPALIVE_TIME)
        if interval > self._dialer.keepalive_time:
            self._dialer.keepalive_time = interval
            logger.info(
                "%s is pinged too often: keepalive_time is %g s from now on",
                printable(endpoint),
                interval,
            )

    # Tokens

    async def _take_token(self, connection: Connection) -> None:
        """Get a token for the streams."""
        asked = trio.current_time()
        try:
            token = await self._authenticator.new_token(connection)
        except StreamLost:
            if self.channel.credentials is not None:
                # Authenticate requires a quorum, which another member may have.
                self.leave(connection)
            raise
        except trio.Cancelled:
            waited = trio.current_time() - asked
            if self.channel.credentials is not None and waited > PATIENCE:
                self.suspect(connection)
            raise
        if token is None:
            return
        if flaw := flaw_of_token(token):
            self._flawed_tokens += 1
            if self._flawed_tokens > MAX_REFUSED_TOKENS:
                raise AuthenticationError(
                    StatusCode.UNAUTHENTICATED, f"the token {flaw}"
                )
            raise StreamLost(f"the token {flaw}")
        self._flawed_tokens = 0
        self._token = token
        taken = trio.current_time() if self._token_refused else -math.inf
        self._token_origin = (connection, taken)
        self._token_refused = False
