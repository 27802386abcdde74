"""What a refused token means, for a stream and for each of its watches.

Sans-IO: time is an argument. A refusal is counted where it belongs, and nowhere else: that
of a stream by this stream, that of a watch by this watch, which takes its count along to
its next stream (own_token_trouble, refused_tokens_bounded). So streams that are refused
at the same time each have all of their tries, and no watch pays for a neighbour's.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from ._backoff import bound_of_delay
from ._grpc.status import Status
from ._verdicts import MAX_REFUSED_TOKENS, Call, Verdict, verdict_on

NEW_TOKEN_AGE = 2.0
"""Seconds for which a token that replaced a refused one is taken to be good: watches
that are denied must not each cost a new one. etcd's tokens live for minutes, unless told
otherwise."""


class Refusal(enum.Enum):
    """What the refusal of one watch is about."""

    OTHER = "other"
    """Not its token: the server's words go to the user."""
    RENEW = "renew"
    """Its token, and it is to be asked for again with a new one."""
    UNAUTHENTICATED = "unauthenticated"
    """Its token, and no other is to be had."""


@dataclass(slots=True)
class WatchTokens:
    """How one watch has fared with its tokens.

    Attributes:
        refused: how many of them in a row were refused.
        expulsions: how often it was given up for want of a token, since it last brought
            anything.
    """

    refused: int = 0
    expulsions: int = 0

    @property
    def pause(self) -> float:
        """Seconds before it is asked for again.

        A server that confirms a watch and refuses its token, again and again, is not
        asked without end.
        """
        return bound_of_delay(self.expulsions - 1)


class StreamTokens:
    """The tokens of one stream and of its watches.

    Attributes:
        can_renew: whether a new stream may come with a new token.
    """

    def __init__(self, *, can_renew: bool = False) -> None:
        self.can_renew = can_renew
        self._renewed = -math.inf
        self._refused = 0

    def opening(self, renewed: float) -> None:
        """Note when the token of the next stream replaced a refused one, or -inf."""
        self._renewed = renewed

    def worked(self) -> None:
        """Note that the stream has replied: its token is good."""
        self._refused = 0

    def stream_refused(self) -> bool:
        """Count that the token of the stream is refused; return whether to try another.

        Each refusal counts, also where another stream had the same token and has
        already asked for the next.
        """
        self._refused += 1
        return self.can_renew and self._refused <= MAX_REFUSED_TOKENS

    def watch_refused(
        self,
        watch: WatchTokens,
        status: Status,
        now: float,
        *,
        denied: bool,
        is_precise: bool,
    ) -> Refusal:
        """Say what the refusal of a watch is about, and count it if that is its token.

        Args:
            watch: that is refused.
            status: the server's words.
            now: the time.
            denied: whether they say that the user may not read the range.
            is_precise: whether this server says so only of a token that is good. Others
                call an expired one "permission denied" too: a new one tells.
        """
        is_new = now - self._renewed < NEW_TOKEN_AGE
        needs_token = verdict_on(Call.CREATION, status) is Verdict.NEW_TOKEN or (
            denied and not is_precise and not is_new
        )
        if needs_token and self.can_renew:
            watch.refused += 1
            if watch.refused <= MAX_REFUSED_TOKENS:
                watch.expulsions += 1
                return Refusal.RENEW
        if needs_token and not denied:
            return Refusal.UNAUTHENTICATED
        return Refusal.OTHER
