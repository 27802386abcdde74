"""Gets tokens: from `token=` itself, from the user's function, or by Authenticate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import final

import trio

from ._channel import API_VERSION, Channel, Credentials
from ._errors import AuthenticationError
from ._grpc.connection import Connection
from ._grpc.metadata import Metadata
from ._grpc.status import Status, StatusCode, StreamLost
from ._parsing import parse
from ._pb import watch_pb2 as pb
from ._verdicts import Call, Verdict, verdict_on

_AUTHENTICATE = "/etcdserverpb.Auth/Authenticate"

AUTHENTICATE_TIMEOUT = 20.0
"""Seconds that Authenticate may take, unless connect_timeout is longer: etcd checks a
password with bcrypt, which takes about 8 s at a cost of 17."""


@final
class Authenticator:
    """Gets a new token at each call, and keeps none.

    Args:
        channel: has the token, the function or the credentials.
        metadata: metadata for Authenticate, in addition to the channel's.
    """

    def __init__(self, channel: Channel, metadata: Metadata) -> None:
        self._channel = channel
        self._metadata = metadata
        # The user's function is never called by two tasks at once.
        self._lock = trio.Lock()

    async def new_token(self, connection: Connection) -> str | None:
        """Return a token; None if there is no source, or the cluster requires none.

        Raises:
            StreamLost: there was no answer in time, or none that gives a token; another
                try may help.
            AuthenticationError: the credentials are refused, or the user's function
                raised or returned no str.
        """
        source, credentials = self._channel.token, self._channel.credentials
        if isinstance(source, str):
            return source
        if source is not None:
            async with self._lock:
                return await self._call(source)
        if credentials is not None:
            return await self._authenticate(connection, credentials)
        return None

    async def _call(self, source: Callable[[], Awaitable[str]]) -> str:
        """Call the user's function for a token."""
        timeout = self._channel.connect_timeout
        with trio.move_on_after(timeout):
            try:
                token: object = await source()
            except Exception as exc:
                # The text of the cause may hold a secret, so it is not in this one.
                what = f"the function given as token= raised {type(exc).__name__}"
                raise AuthenticationError(StatusCode.UNAUTHENTICATED, what) from exc
            if isinstance(token, str):
                return token
            what = f"the function given as token= returned {type(token).__name__}"
            raise AuthenticationError(StatusCode.UNAUTHENTICATED, f"{what}, not str")
        raise StreamLost(
            f"the function given as token= returned none within {timeout:g} s"
        )

    async def _authenticate(
        self, connection: Connection, credentials: Credentials
    ) -> str | None:
        request = pb.AuthenticateRequest(
            name=credentials.user, password=credentials.password
        ).SerializeToString()
        timeout = max(self._channel.connect_timeout, AUTHENTICATE_TIMEOUT)
        try:
            with trio.fail_after(timeout):
                metadata = (*API_VERSION, *self._metadata, *self._channel.metadata)
                reply = await connection.unary(_AUTHENTICATE, request, metadata)
        except trio.TooSlowError as exc:
            raise StreamLost(f"no answer to Authenticate within {timeout:g} s") from exc
        if isinstance(reply, Status):
            match verdict_on(Call.AUTHENTICATE, reply):
                case Verdict.NO_AUTH:
                    # Auth may be enabled later; the next stream tries again.
                    return None
                case Verdict.FINAL:
                    raise AuthenticationError(reply.code, reply.message)
            raise StreamLost(f"no token: {reply}")
        try:
            return parse(pb.AuthenticateResponse, reply).token
        except ValueError as exc:
            raise StreamLost("the answer to Authenticate cannot be parsed") from exc
