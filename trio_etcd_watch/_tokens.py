"""Decides what a refused token means, for a stream and for each of its watches.

Sans-IO: time is an argument. The refusal of a stream is counted by that stream alone,
and the refusal of a watch by that watch alone, which takes its count along to its next
stream (own_token_trouble, refused_tokens_bounded). So streams that are refused at the
same time each have all of their tries, and no refusal counts for another watch.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from ._backoff import bound_of_delay
from ._grpc.status import Status
from ._verdicts import MAX_REFUSED_TOKENS, Call, Verdict, verdict_on

NEW_TOKEN_AGE = 2.0
"""Seconds for which a token that replaced a refused one is assumed to be valid, so that
denied watches do not each cost a new one. etcd's tokens live for minutes by default."""


class Refusal(enum.Enum):
    """The cause of the refusal of one watch."""

    OTHER = "other"
    """Not the token: the user gets the server's words."""
    RENEW = "renew"
    """The token; the watch is to be created again with a new one."""
    UNAUTHENTICATED = "unauthenticated"
    """The token, and no new one can be had."""


@dataclass(slots=True)
class WatchTokens:
    """The tokens that were refused for one watch.

    Attributes:
        refused: how many in a row were refused.
        expulsions: how often the watch was expelled to get a new token, since events or
            progress last came for it.
    """

    refused: int = 0
    expulsions: int = 0

    @property
    def pause(self) -> float:
        """Seconds to wait before the watch is created again.

        This keeps a server that confirms the watch and refuses its token, again and
        again, from being asked without a pause.
        """
        return bound_of_delay(self.expulsions - 1)


class StreamTokens:
    """The tokens of one stream and of its watches.

    Attributes:
        can_renew: whether a new stream can have a new token.
    """

    def __init__(self, *, can_renew: bool = False) -> None:
        self.can_renew = can_renew
        self._renewed = -math.inf
        self._refused = 0

    def opening(self, renewed: float) -> None:
        """Note when the next stream's token replaced a refused one; -inf if never."""
        self._renewed = renewed

    def worked(self) -> None:
        """Note that the server has replied on the stream: its token is valid."""
        self._refused = 0

    def stream_refused(self) -> bool:
        """Count that the stream's token was refused; return whether to try another.

        Each refusal counts, even if another stream had the same token and has already
        requested the next.
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
        """Return the cause of the refusal of a watch; count it if that is the token.

        Args:
            watch: the tokens of the watch that is refused.
            status: the server's words.
            now: the time.
            denied: whether the status means that the user may not read the range.
            is_precise: whether this server denies a range only if the token is valid.
                Other servers answer "permission denied" for an expired token, too, so a
                new token has to be tried.
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
