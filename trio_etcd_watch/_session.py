"""One Watch stream without its I/O: which watches are on it, and what a reply means.

Decoded responses and the user's wishes go in; requests to send and deliveries for
the watches come out. The rules that a change must keep go by the names under which
docs/explanation/guarantees.md has them. Those of the cursor are in `_cursor`; the others:

replies_matched
    Every creation sent has its reply; `_creations` says whose it is.
live_ids_only
    A watch is in one state. Only `LIVE` has a watch id, and only ids of live watches
    are listened to; anything under another id is answered with one cancel.
reliable, unread_survives
    What is delivered moves the cursor in the same step, and what is dropped does not:
    so what was dropped is asked for again, and what was delivered is not.
stream_state_dies
    A stream that breaks takes ids, queue and fragments with it. Cursors stay.
isolated, own_token_trouble
    An error belongs to one watch, and so does a refused token: a watch that needs a new
    one is expelled, for a stream that has it, and its neighbours go on.
parked_at_bound, woken_at_half
    A watch that its user does not drain is *parked*: canceled on the server, and created
    again from its cursor when half of what it holds has been taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile

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
from ._responses import (
    Event,
    RawResponse,
    WatchResponse,
    changes_of,
    decode,
)
from ._roster import Roster
from ._runs import merge_run
from ._subscription import BROADCAST_ID, Delivery, State, Subscription
from ._verdicts import (
    MAX_REFUSED_TOKENS,
    Call,
    Verdict,
    error_of_cancel,
    status_of_reason,
    verdict_on,
)

MAX_FRAGMENTS = 65_536
"""Of one response. etcd's are of 2 MiB; endless empty ones have to end too."""


LARGE_REQUEST = 262_144
"""Bytes of a key and range_end that may be over the limit of a server: etcd's is 1.5 MiB
and 512 KiB, unless told otherwise."""

MAX_OVERSIZED = 20
"""How many responses over the limit in a row a watch may be created again for. What etcd
has ready before it announces the watch is not split, and a busy server was four times in
a row that quick; what is one event above the limit is so each time."""


class Session(Roster):
    """The watches of one stream, across all its reconnects.

    Args:
        max_message_size: bound, in bytes, of a message, and of a revision that is
            joined from fragments.
        can_authenticate: whether a new stream would come with a new token.
        has_new_token: whether the present one has come with one, so that what it may
            not read is no matter of its token.
    """

    def __init__(
        self,
        *,
        max_message_size: int,
        can_authenticate: bool = False,
        has_new_token: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._max_message_size = max_message_size
        self._can_authenticate = can_authenticate
        self._has_new_token = has_new_token

    def prove(self, revision: int, watches: Iterable[Subscription]) -> list[Delivery]:
        """Take the cluster's newest revision, as a linearizable read has it.

        lost_history_found: what is behind what it has told is another history, and that
        watch fails. lag_is_no_loss: otherwise only the member lags.

        Args:
            revision: the newest when the read was made.
            watches: that were `unproved` before it; a later one may have been told more
                meanwhile.
        """
        self._proved = max(self._proved, revision)
        failed = []
        for subscription in watches:
            if subscription not in self._unproved:
                continue
            del self._unproved[subscription]
            told = subscription.cursor.told
            if told > self._proved:
                error = HistoryLostError(told, revision)
                failed.append(self._fail(subscription, error))
            else:
                self._create(subscription)
        return failed

    def receive(self, response: RawResponse) -> Sequence[Delivery]:
        """Take one response of the stream; return what the watches get of it.

        Raises:
            StreamLost: it cannot be known whose replies are whose. Open a new one.
        """
        if response.created:
            return self._receive_created(response)
        if response.canceled or response.compact_revision:
            return self._receive_canceled(response)
        watch_id = response.watch_id
        subscription = self._live.get(watch_id)
        if subscription is None:
            if watch_id == BROADCAST_ID and not response.events:
                return self._receive_broadcast(response)
            self._cancel_unknown(watch_id)
            return ()
        if response.fragment or subscription.fragments.count:
            return self._receive_fragment(subscription, response)
        if response.events:
            size = response.size
            return self._receive_events(subscription, response, response.events, size)
        return self._receive_progress(subscription, response)

    def receive_run(self, run: Sequence[bytes]) -> Iterator[Delivery]:
        """Take responses that are alike: as one if that is the same, or else in turn.

        Hand on each delivery before asking for the next: its cursor has moved, and
        what follows may raise.

        Raises:
            StreamLost: one cannot be parsed; or as `receive()`.
        """
        merged = merge_run(run) if len(run) > 1 else None
        if merged is not None:
            subscription = self._live.get(merged.watch_id)
            if subscription is not None and self._may_merge(subscription, merged):
                yield from self._receive_events(
                    subscription, merged, merged.events, merged.size
                )
                return
        for message in run:
            yield from self.receive(decode(message))

    def receive_oversized(self, watch_id: int, size: int) -> Sequence[Delivery]:
        """Take note of a response that was longer than the limit, and thrown away.

        fragments_on_demand: it is asked for again in fragments. What is too long then is one event; or else
        events that were ready before the server had announced the watch, which it does
        not split: another try is likely to fare better.
        """
        subscription = self._live.get(watch_id)
        if subscription is None:
            self._cancel_unknown(watch_id)
            return ()
        subscription.splits = True
        subscription.oversized += 1
        if subscription.oversized > MAX_OVERSIZED:
            return [self._fail(subscription, self._too_large(size))]
        self._repeat(subscription)
        return ()

    def refuse(self, error: RpcError) -> Sequence[Delivery]:
        """The server refuses the stream, as it may for the sake of one creation.

        Which one cannot be told while several are sent at once, so from now on each
        waits for the reply to the one before. Call it before `disconnect()`.
        """
        suspects = self._creations.sent(self._unsent)
        if len(suspects) == 1:
            return [self._fail(suspects[0], error)]
        self._creations.pipelined = False
        return ()

    def refuse_largest(self, error: RpcError) -> Sequence[Delivery]:
        """The stream ended over a message too large for the server, or for a proxy.

        Only a creation that is large itself is to blame for it: that may also have been
        a response. Call it before `disconnect()`.
        """
        return [
            self._fail(subscription, error)
            for subscription in self._creations.sent(self._unsent)
            if len(subscription.spec.key) + len(subscription.spec.range_end)
            > LARGE_REQUEST
        ]

    def halt(self, error: WatchError) -> Sequence[Delivery]:
        """The stream cannot be had again: every watch on it fails."""
        return [
            Delivery(subscription, error, subscription.cursor.next_revision)
            for subscription in self._end_all()
        ]

    # Replies

    def _receive_created(self, response: RawResponse) -> Sequence[Delivery]:
        subscription = self._creations.reply()
        if subscription is None:
            # No server does this; the watch is nobody's.
            if not response.canceled:
                self._cancel_unknown(response.watch_id)
            return ()
        if not response.canceled:
            self._creations.check_order(response.watch_id)
        if following := self._creations.next_to_send():
            self._request(following)
        # Servers before 3.4.22 and 3.5.6 refuse with id 0 instead of -1, so the id
        # says nothing about success.
        if response.canceled:
            self._repeat_silenced(response.watch_id)
        if subscription.state is not State.CREATING:
            if not response.canceled:
                self._cancel(response.watch_id)
            return ()
        if response.canceled:
            return self._receive_refusal(subscription, response)
        return self._receive_confirmation(subscription, response)

    def _receive_confirmation(
        self, subscription: Subscription, response: RawResponse
    ) -> Sequence[Delivery]:
        if response.watch_id in self._live:
            raise StreamLost(f"the server gave the watch id {response.watch_id} twice")
        known = subscription.cluster_id
        # etcd's grpc-proxy makes the header up where it has the same watch already.
        made_up = not response.cluster_id
        subscription.state = State.LIVE
        subscription.watch_id = response.watch_id
        subscription.refused_tokens = 0
        subscription.created_revision = MAX_REVISION if made_up else response.revision
        self._live[response.watch_id] = subscription
        if known and response.cluster_id and response.cluster_id != known:
            # same_cluster
            error = ClusterChangedError(known, response.cluster_id)
            return [self._fail(subscription, error)]
        subscription.cluster_id = known or response.cluster_id
        told = subscription.cursor.told
        if response.revision < told and told > self._proved and not made_up:
            # The member lags, or the cluster has lost history: nothing may be taken
            # for its continuation before that is known.
            self._leave(subscription)
            subscription.state = State.RESUMING
            self._unproved[subscription] = None
            return ()
        subscription.lost_at = None
        subscription.cursor.created(response.revision, made_up=made_up)
        if subscription.confirmed and not subscription.spec.resume_notify:
            return ()
        subscription.confirmed = True
        return [self._delivery(subscription, construct(WatchResponse, response))]

    def _receive_canceled(self, response: RawResponse) -> Sequence[Delivery]:
        watch_id = response.watch_id
        subscription = self._live.get(watch_id)
        if subscription is None:
            # The answer to a cancel of ours: nothing follows under this id.
            self._canceled.discard(watch_id)
            return ()
        if response.compact_revision:
            # compacted_id_freed: etcd keeps it until it is canceled, and withholds
            # progress from the whole stream meanwhile.
            error = error_of_cancel(construct(WatchResponse, response))
            return [self._fail(subscription, error)]
        del self._live[watch_id]
        return self._receive_refusal(subscription, response)

    def _receive_refusal(
        self, subscription: Subscription, response: RawResponse
    ) -> Sequence[Delivery]:
        error: WatchError = error_of_cancel(
            construct(WatchResponse, response), anonymous=not self._can_authenticate
        )
        status = status_of_reason(response.cancel_reason)
        denied = isinstance(error, PermissionDeniedError)
        needs_token = verdict_on(Call.CREATION, status) is Verdict.NEW_TOKEN or (
            # The servers that refuse under another id than -1 call an expired token
            # "permission denied" too: a new one tells.
            denied and response.watch_id != BROADCAST_ID and not self._has_new_token()
        )
        if needs_token and self._can_authenticate:
            # refused_tokens_bounded
            subscription.refused_tokens += 1
            if subscription.refused_tokens <= MAX_REFUSED_TOKENS:
                self._expel(subscription)
                return ()
        if needs_token and not denied:
            error = AuthenticationError(StatusCode.UNAUTHENTICATED, status.message)
        self._end(subscription)
        return [self._delivery(subscription, error)]

    def _receive_broadcast(self, response: RawResponse) -> Sequence[Delivery]:
        # answers_move_nothing, and answers_not_overtaking: etcd answers [progress,
        # creation] with the events last.
        revision = response.revision
        return [
            self._delivery(subscription, construct(WatchResponse, response))
            for subscription in self._live.values()
            if subscription.created_revision < revision
            or subscription.cursor.next_revision > revision
        ]

    def _receive_progress(
        self, subscription: Subscription, response: RawResponse
    ) -> Sequence[Delivery]:
        subscription.expulsions = 0
        subscription.cursor.progressed(response.revision)
        shown = subscription.spec.progress_notify
        item = construct(WatchResponse, response) if shown else None
        return [self._delivery(subscription, item)]

    def _receive_events(
        self,
        subscription: Subscription,
        response: RawResponse,
        events: Sequence[Event],
        size: int,
    ) -> Sequence[Delivery]:
        """Take whole revisions: the events of a response, or of parts of it."""
        cursor = subscription.cursor
        first, last = response.first_revision, response.last_revision
        if events is not response.events:
            first, last = events[0].kv.mod_revision, events[-1].kv.mod_revision
        if not cursor.is_new(first):
            old = takewhile(
                lambda event: not cursor.is_new(event.kv.mod_revision), events
            )
            events = events[len(list(old)) :]
        if not events:
            return ()
        # previous_value_retried; what only creates keys says nothing of it.
        if subscription.prev_kv_tries and (changes := changes_of(events)):
            if all(event.prev_kv is None for event in changes):
                tries = subscription.prev_kv_tries - 1
                self._repeat(subscription)
                subscription.prev_kv_tries = tries
                return ()
            subscription.prev_kv_tries = 0
        count = len(events)
        subscription.expulsions = subscription.oversized = 0
        cursor.delivered(last)
        subscription.unread += count
        subscription.unread_bytes += size
        if subscription.is_full:
            self._leave(subscription)
            subscription.state = State.PARKED
        item = construct(WatchResponse, response, events)
        return [Delivery(subscription, item, cursor.next_revision, count, size)]

    def _receive_fragment(
        self, subscription: Subscription, response: RawResponse
    ) -> Sequence[Delivery]:
        """Hand on the revisions that are complete; keep what of the last has come."""
        subscription.oversized = 0
        fragments = subscription.fragments
        come = fragments.size + response.size
        events = fragments.add(response)
        if fragments.size > self._max_message_size or fragments.count > MAX_FRAGMENTS:
            return [self._fail(subscription, self._too_large(fragments.size))]
        if not events:
            return ()
        size = come - fragments.size
        return self._receive_events(subscription, response, events, size)

    # Steps

    @staticmethod
    def _may_merge(subscription: Subscription, merged: RawResponse) -> bool:
        spec = subscription.spec
        return (
            not subscription.prev_kv_tries
            and not subscription.fragments.count
            and subscription.unread + len(merged.events) <= spec.max_buffered_events
            and subscription.unread_bytes + merged.size <= spec.max_buffered_bytes
        )

    def _repeat_silenced(self, watch_id: int) -> None:
        """Create again the live watch whose id the server used for a refusal.

        silenced_recreated: servers before 3.4.22 and 3.5.6 refuse a creation under id 0, and from then on
        hold back the events of the watch that has this id.
        """
        if subscription := self._live.get(watch_id):
            self._repeat(subscription)

    def _end_all(self) -> list[Subscription]:
        ended = list(self._subscriptions)
        for subscription in ended:
            self.close(subscription)
        return ended

    def _fail(self, subscription: Subscription, error: WatchError) -> Delivery:
        self.close(subscription)
        return self._delivery(subscription, error)

    def _too_large(self, size: int) -> RpcError:
        return RpcError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"a message of {size} bytes, which the server does not split, is over the "
            f"limit of {self._max_message_size}; raise Channel(max_message_size=...)",
        )

    @staticmethod
    def _delivery(
        subscription: Subscription, item: WatchResponse | WatchError | None
    ) -> Delivery:
        return Delivery(subscription, item, subscription.cursor.next_revision)
