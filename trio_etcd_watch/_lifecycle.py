"""Handles the replies with which the server begins and ends the watches of one stream.

Sans-IO. A creation is accepted or refused, a watch is canceled, a member is behind, or
the stream itself is refused. `_session` handles what comes in between. These are the
rules, by their names in docs/explanation/guarantees.md:

replies_matched
    Every creation that is sent gets a reply; `_creations` assigns it to its watch.
isolated, own_token_trouble
    An error belongs to one watch, and so does a refused token: a watch that needs a new
    one is expelled, to move to a stream that has it, and its neighbours stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ._cursor import MAX_REVISION
from ._errors import (
    AuthenticationError,
    ClusterChangedError,
    HistoryLostError,
    PermissionDeniedError,
    RpcError,
    WatchError,
)
from ._face import construct
from ._grpc.status import StatusCode, StreamLost
from ._responses import RawResponse, WatchResponse
from ._roster import Roster
from ._subscription import (
    BROADCAST_ID,
    Creating,
    Delivery,
    Live,
    State,
    Subscription,
)
from ._tokens import Refusal, StreamTokens
from ._verdicts import error_of_cancel, status_of_reason

LARGE_REQUEST = 262_144
"""Bytes of a key and range_end above which a creation may be over the server's limit.
etcd's limit for a request is 1.5 MiB and 512 KiB by default."""


class Lifecycle(Roster):
    """The watches of one stream, and how they begin and end.

    Args:
        tokens: decides what a refused token means.
    """

    def __init__(self, tokens: StreamTokens) -> None:
        super().__init__()
        self._tokens = tokens

    def prove(self, revision: int, watches: Iterable[Subscription]) -> list[Delivery]:
        """Compare the cluster's newest revision with what it has reported to watches.

        lost_history_found: if the cluster is behind what it has reported to a watch, it
        has another history, and the watch fails. lag_is_no_loss: otherwise only the
        member lags, and the watch is created again.

        Args:
            revision: the newest revision, by a linearizable read.
            watches: the watches that were `unproved` before that read. To a later one
                the cluster may have reported more meanwhile.
        """
        self._proved = max(self._proved, revision)
        failed = []
        for subscription in watches:
            if subscription not in self._unproved:
                continue
            del self._unproved[subscription]
            reported = subscription.cursor.reported
            if reported > self._proved:
                error = HistoryLostError(reported, revision)
                failed.append(self._fail(subscription, error))
            else:
                self._create(subscription)
        return failed

    def refuse(self, error: RpcError) -> Sequence[Delivery]:
        """Handle that the server refused the stream, perhaps because of one creation.

        If several creations were sent, the cause cannot be identified, so from now on
        each waits for the reply to the one before. Call this before `disconnect()`.
        """
        suspects = self._creations.sent(self._unsent)
        if len(suspects) == 1:
            return [self._fail(suspects[0], error)]
        self._creations.pipelined = False
        return ()

    def refuse_largest(self, error: RpcError) -> Sequence[Delivery]:
        """Handle that a message was too large for the server, or for a proxy.

        Only creations that are large themselves fail: the message may also have been a
        response. Call this before `disconnect()`.
        """
        return [
            self._fail(subscription, error)
            for subscription in self._creations.sent(self._unsent)
            if len(subscription.spec.key) + len(subscription.spec.range_end)
            > LARGE_REQUEST
        ]

    def fail_all(self, error: WatchError) -> Sequence[Delivery]:
        """Handle that the stream cannot be opened again: every watch on it fails."""
        return [self._fail(each, error) for each in self.subscriptions]

    # Replies

    def _receive_created(self, response: RawResponse, now: float) -> Sequence[Delivery]:
        subscription = self._creations.reply()
        if response.canceled:
            return self._receive_refused(subscription, response, now)
        return self._receive_accepted(subscription, response)

    def _receive_accepted(
        self, subscription: Subscription | None, response: RawResponse
    ) -> Sequence[Delivery]:
        """Handle that the server created a watch: the next one that awaits a reply."""
        watch_id = response.watch_id
        if subscription is None:
            # No server does this. The watch belongs to nobody.
            self._cancel_unknown(watch_id)
            return ()
        self._creations.check_order(watch_id)
        self._request_following()
        creating = subscription.phase
        if not isinstance(creating, Creating):
            self._cancel(watch_id)
            return ()
        return self._confirm(subscription, creating, response)

    def _receive_refused(
        self, subscription: Subscription | None, response: RawResponse, now: float
    ) -> Sequence[Delivery]:
        """Handle that the server refused a watch: the next one that awaits a reply."""
        if subscription is None:
            return ()
        self._request_following()
        # Servers before 3.4.22 and 3.5.6 refuse with id 0 instead of -1, so the id
        # does not show a refusal.
        self._repeat_silenced(response.watch_id)
        if subscription.state is not State.CREATING:
            return ()
        return self._give_up(subscription, response, now)

    def _request_following(self) -> None:
        if following := self._creations.next_to_send():
            self._request(following)

    def _confirm(
        self, subscription: Subscription, creating: Creating, response: RawResponse
    ) -> Sequence[Delivery]:
        watch_id = response.watch_id
        if watch_id in self._live:
            raise StreamLost(f"the server assigned watch id {watch_id} twice")
        known = subscription.cluster_id
        # etcd's grpc-proxy makes the header up for a watch that joins another one.
        made_up = not response.cluster_id
        subscription.phase = Live(
            watch_id,
            created_revision=MAX_REVISION if made_up else response.revision,
            prev_kv_tries=creating.prev_kv_tries,
        )
        subscription.tokens.refused = 0
        self._live[watch_id] = subscription
        if known and response.cluster_id and response.cluster_id != known:
            # same_cluster
            error = ClusterChangedError(known, response.cluster_id)
            return [self._fail(subscription, error)]
        subscription.cluster_id = known or response.cluster_id
        reported = subscription.cursor.reported
        if response.revision < reported and reported > self._proved and not made_up:
            # The member lags, or the cluster has lost history.
            self._doubt(subscription)
            return ()
        subscription.lost_at = None
        subscription.cursor.created(response.revision, made_up=made_up)
        if subscription.confirmed and not subscription.spec.resume_notify:
            return ()
        subscription.confirmed = True
        return [self._delivery(subscription, response)]

    def _receive_canceled(
        self, response: RawResponse, now: float
    ) -> Sequence[Delivery]:
        watch_id = response.watch_id
        subscription = self._live.get(watch_id)
        if subscription is None:
            # The answer to a cancel request: nothing follows under this id.
            self._canceled.discard(watch_id)
            return ()
        if response.compact_revision:
            # compacted_id_freed: etcd keeps the id until it is canceled, and sends no
            # progress notification on the whole stream meanwhile.
            error = error_of_cancel(construct(WatchResponse, response))
            return [self._fail(subscription, error)]
        del self._live[watch_id]
        return self._give_up(subscription, response, now)

    def _give_up(
        self, subscription: Subscription, response: RawResponse, now: float
    ) -> Sequence[Delivery]:
        """End a watch that the server does not serve, or expel it for another token."""
        error: WatchError = error_of_cancel(
            construct(WatchResponse, response), anonymous=not self._tokens.can_renew
        )
        status = status_of_reason(response.cancel_reason)
        refusal = self._tokens.watch_refused(
            subscription.tokens,
            status,
            now,
            denied=isinstance(error, PermissionDeniedError),
            is_precise=response.watch_id == BROADCAST_ID,
        )
        if refusal is Refusal.RENEW:
            self._expel(subscription, now)
            return ()
        if refusal is Refusal.UNAUTHENTICATED:
            error = AuthenticationError(StatusCode.UNAUTHENTICATED, status.message)
        self._end(subscription)
        return [self._error(subscription, error)]

    # Steps

    def _repeat_silenced(self, watch_id: int) -> None:
        """Create again the live watch whose id the server used for a refusal.

        silenced_recreated: servers before 3.4.22 and 3.5.6 refuse a creation under id
        0, and from then on send no events of the watch that has this id.
        """
        if subscription := self._live.get(watch_id):
            self._repeat(subscription)

    def _fail(self, subscription: Subscription, error: WatchError) -> Delivery:
        self.end(subscription)
        return self._error(subscription, error)

    @staticmethod
    def _error(subscription: Subscription, error: WatchError) -> Delivery:
        return Delivery(subscription, error, subscription.cursor.next_revision)

    @staticmethod
    def _delivery(subscription: Subscription, shown: RawResponse | None) -> Delivery:
        """Deliver the resume point, with a response without events or with none."""
        following = subscription.cursor.next_revision
        if shown is None:
            return Delivery(subscription, None, following)
        item = construct(WatchResponse, shown)
        return Delivery(subscription, item, following, header_revision=shown.revision)
