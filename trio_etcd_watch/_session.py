"""One Watch stream without its I/O: which watches are on it, and what a reply means.

Decoded responses and the user's wishes go in; requests to send and deliveries for
the watches come out. The rules that a change must keep:

1. Every creation sent has its reply; `_creations` says whose it is.
2. A watch is in one state. Only `LIVE` has a watch id, and only ids of live watches
   are listened to; anything under another id is answered with one cancel.
3. What is delivered moves the cursor in the same step (`_cursor` says how), and
   what is dropped does not: so what was dropped is asked for again.
4. A stream that breaks takes ids, queue and fragments with it. Cursors stay.
5. An error belongs to one watch, and so does a refused token: whoever needs a new one
   is expelled, for a stream that has it, and the neighbours go on.

A watch that its user does not drain is *parked*: canceled on the server, and created
again from its cursor when half of what it holds has been taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from ._creations import Creations
from ._errors import (
    AuthenticationError,
    ClusterChangedError,
    HistoryLostError,
    PermissionDeniedError,
    RpcError,
    WatchError,
)
from ._grpc.status import StatusCode, StreamLost
from ._requests import (
    WatchSpec,
    cancel_request,
    create_request,
    progress_request,
)
from ._responses import (
    RawResponse,
    WatchResponse,
    changes_of,
    decode,
    drop_seen,
    split_last_revision,
)
from ._runs import merge_run
from ._subscription import BROADCAST_ID, Delivery, State, Subscription
from ._verdicts import Call, Verdict, error_of_cancel, status_of_reason, verdict_on

MAX_FRAGMENTS = 65_536
"""Of one response. etcd's are of 2 MiB; endless empty ones have to end too."""

MAX_REFUSED_TOKENS = 3
"""How often in a row a watch may be refused for its token before it fails."""

MAX_UNKNOWN_IDS = 10_000
"""Watch ids on one stream that nobody knows. A server that is well sends a few, for
watches that were just left."""


class Session:
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
        self._max_message_size = max_message_size
        self._can_authenticate = can_authenticate
        self._has_new_token = has_new_token
        self._connected = False
        self._subscriptions: dict[Subscription, None] = {}
        self._live: dict[int, Subscription] = {}
        self._creations = Creations()
        # Ids that have been canceled on this stream, so that each is canceled once.
        self._canceled: set[int] = set()
        self._unknown_ids = 0
        self._requests: list[bytes] = []
        self._asks_progress = False
        # Watches on a member that is behind them, and how far the cluster is proved.
        self._unproved: dict[Subscription, None] = {}
        self._proved = 0
        self._expelled: list[Subscription] = []

    # The user's side

    @property
    def subscriptions(self) -> Iterable[Subscription]:
        """The watches that have neither failed nor been left."""
        return self._subscriptions.keys()

    def open(self, spec: WatchSpec) -> Subscription:
        """Add a watch. Its creation is sent now, or when there is a stream."""
        subscription = Subscription(spec)
        self.adopt(subscription)
        return subscription

    def adopt(self, subscription: Subscription) -> None:
        """Add a watch that another stream has expelled."""
        self._subscriptions[subscription] = None
        self._create(subscription)

    def close(self, subscription: Subscription) -> None:
        """Forget a watch, and cancel it on the server; one that has ended may come."""
        if subscription.state is State.LIVE:
            self._leave(subscription)
        elif subscription.state is State.CREATING:
            self._creations.abandoned += 1
        self._end(subscription)

    def take(self, subscription: Subscription, events: int, size: int) -> None:
        """Note what the user has taken; a parked watch may go on."""
        subscription.unread -= events
        subscription.unread_bytes -= size
        if subscription.state is State.PARKED and subscription.is_drained:
            self._create(subscription)

    def request_progress(self) -> None:
        """Ask the server how far this stream is; without a stream do nothing.

        One answer is as good as many, so what has not been sent yet is asked once.
        """
        self._asks_progress = self._connected

    # The stream's side

    def connect(self) -> None:
        """A new stream is open: create every watch that is to be on it."""
        self._connected = True
        for subscription in self._subscriptions:
            if subscription.state is State.RESUMING:
                self._create(subscription)

    def disconnect(self) -> None:
        """The stream is gone."""
        self._connected = False
        for subscription in self._subscriptions:
            if subscription.state in (State.LIVE, State.CREATING):
                subscription.state = State.RESUMING
            subscription.expect_prev_kv()
            # Rule 6: a revision that never came whole is sent again.
            subscription.drop_fragments()
        self._live.clear()
        self._creations.clear()
        self._canceled.clear()
        self._unknown_ids = 0
        self._requests.clear()
        self._asks_progress = False
        self._unproved.clear()
        self._proved = 0

    @property
    def unanswered(self) -> int:
        """How many creations wait for their replies, wanted or not."""
        return len(self._creations)

    @property
    def answered(self) -> int:
        """How many have been answered, on all streams so far."""
        return self._creations.answered

    @property
    def abandoned(self) -> int:
        """How many of the unanswered nobody wants any more."""
        return self._creations.abandoned

    @property
    def has_requests(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._requests) or self._asks_progress

    def requests(self) -> list[bytes]:
        """Return the messages to send, and forget them."""
        requests, self._requests = self._requests, []
        if self._asks_progress:
            requests.append(progress_request())
        self._asks_progress = False
        return requests

    def expelled(self) -> list[Subscription]:
        """Return, and forget, the watches that are to go on with a new token."""
        expelled, self._expelled = self._expelled, []
        return expelled

    @property
    def unproved(self) -> Subscription | None:
        """A watch that this member is behind: `prove()` how far the cluster is."""
        return next(iter(self._unproved), None)

    def prove(self, revision: int) -> list[Delivery]:
        """Take the cluster's newest revision, as a linearizable read has it.

        What is behind what it has told is another history: that watch fails. Otherwise
        only the member lags.
        """
        self._proved = max(self._proved, revision)
        waiting, self._unproved = self._unproved, {}
        failed = []
        for subscription in waiting:
            told = subscription.cursor.told
            if told > self._proved:
                error = HistoryLostError(told, revision)
                failed.append(self._fail(subscription, error))
            else:
                self._create(subscription)
        return failed

    def receive(self, response: RawResponse, size: int = 0) -> Sequence[Delivery]:
        """Take one response of the stream; return what the watches get of it.

        Args:
            response: decoded.
            size: of its message, in bytes.

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
        if response.fragment or subscription.fragment_count:
            return self._receive_fragment(subscription, response, size)
        if response.events:
            return self._receive_events(subscription, [response], size)
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
            size = sum(map(len, run))
            if subscription is not None and self._may_merge(
                subscription, len(merged.events), size
            ):
                yield from self._receive_events(subscription, [merged], size)
                return
        for message in run:
            yield from self.receive(decode(message), len(message))

    def receive_oversized(self, watch_id: int, size: int) -> Sequence[Delivery]:
        """Take note of a response that was longer than the limit, and thrown away.

        It is asked for again in fragments; a fragment that is too long is one event.
        """
        subscription = self._live.get(watch_id)
        if subscription is None:
            self._cancel_unknown(watch_id)
            return ()
        if subscription.splits:
            return [self._fail(subscription, self._too_large(size))]
        subscription.splits = True
        self._repeat(subscription)
        return ()

    def refuse(self, error: RpcError) -> Sequence[Delivery]:
        """The server refuses the stream, as it may for the sake of one creation.

        Which one cannot be told while several are sent at once, so from now on each
        waits for the reply to the one before. Call it before `disconnect()`.
        """
        suspects = self._creations.sent()
        if len(suspects) == 1:
            return [self._fail(suspects[0], error)]
        self._creations.pipelined = False
        return ()

    def refuse_largest(self, error: RpcError) -> Sequence[Delivery]:
        """The stream ended over a request too large for the server.

        Call it before `disconnect()`.
        """
        suspects = self._creations.sent()
        if not suspects:
            return ()
        largest = max(
            suspects, key=lambda each: len(each.spec.key) + len(each.spec.range_end)
        )
        return [self._fail(largest, error)]

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
        header = response.header
        known = subscription.cluster_id
        subscription.state = State.LIVE
        subscription.watch_id = response.watch_id
        subscription.refused_tokens = 0
        subscription.created_revision = header.revision
        self._live[response.watch_id] = subscription
        # etcd's grpc-proxy leaves it out where it has the same watch already.
        if known and header.cluster_id and header.cluster_id != known:
            error = ClusterChangedError(known, header.cluster_id)
            return [self._fail(subscription, error)]
        subscription.cluster_id = known or header.cluster_id
        told = subscription.cursor.told
        if header.revision < told and told > self._proved:
            # The member lags, or the cluster has lost history: nothing may be taken
            # for its continuation before that is known.
            self._leave(subscription)
            subscription.state = State.RESUMING
            self._unproved[subscription] = None
            return ()
        subscription.cursor.created(header.revision)
        if subscription.confirmed and not subscription.spec.resume_notify:
            return ()
        subscription.confirmed = True
        return [self._delivery(subscription, WatchResponse(response))]

    def _receive_canceled(self, response: RawResponse) -> Sequence[Delivery]:
        watch_id = response.watch_id
        subscription = self._live.get(watch_id)
        if subscription is None:
            # The answer to a cancel of ours: nothing follows under this id.
            self._canceled.discard(watch_id)
            return ()
        if response.compact_revision:
            # The server keeps the id until it is canceled, and withholds progress
            # from the whole stream meanwhile.
            error = error_of_cancel(WatchResponse(response))
            return [self._fail(subscription, error)]
        del self._live[watch_id]
        return self._receive_refusal(subscription, response)

    def _receive_refusal(
        self, subscription: Subscription, response: RawResponse
    ) -> Sequence[Delivery]:
        error: WatchError = error_of_cancel(WatchResponse(response))
        status = status_of_reason(response.cancel_reason)
        denied = isinstance(error, PermissionDeniedError)
        needs_token = verdict_on(Call.CREATION, status) is Verdict.NEW_TOKEN or (
            # The servers that refuse under another id than -1 call an expired token
            # "permission denied" too: a new one tells.
            denied and response.watch_id != BROADCAST_ID and not self._has_new_token()
        )
        if needs_token and self._can_authenticate:
            subscription.refused_tokens += 1
            if subscription.refused_tokens <= MAX_REFUSED_TOKENS:
                self._expel(subscription)
                return ()
        if needs_token and not denied:
            error = AuthenticationError(StatusCode.UNAUTHENTICATED, status.message)
        self._end(subscription)
        return [self._delivery(subscription, error)]

    def _receive_broadcast(self, response: RawResponse) -> Sequence[Delivery]:
        # Rule 4: it moves nothing, and says nothing to those whose creation it may have
        # overtaken: etcd answers [progress, creation] with the events last.
        revision = response.header.revision
        return [
            self._delivery(subscription, WatchResponse(response))
            for subscription in self._live.values()
            if subscription.created_revision < revision
            or subscription.cursor.next_revision > revision
        ]

    def _receive_progress(
        self, subscription: Subscription, response: RawResponse
    ) -> Sequence[Delivery]:
        subscription.cursor.progressed(response.header.revision)
        shown = subscription.spec.progress_notify
        item = WatchResponse(response) if shown else None
        return [self._delivery(subscription, item)]

    def _receive_events(
        self, subscription: Subscription, parts: list[RawResponse], size: int
    ) -> Sequence[Delivery]:
        """Take whole revisions; none of the parts is without events."""
        cursor = subscription.cursor
        drop_seen(parts, cursor.is_new)
        if not parts:
            return ()
        # What only creates keys says nothing of it.
        if subscription.prev_kv_tries and (changes := changes_of(parts)):
            if not any(event.HasField("prev_kv") for event in changes):
                tries = subscription.prev_kv_tries - 1
                self._repeat(subscription)
                subscription.prev_kv_tries = tries
                return ()
            subscription.prev_kv_tries = 0
        count = sum([len(part.events) for part in parts])
        cursor.delivered(parts[-1].events[-1].kv.mod_revision)
        subscription.unread += count
        subscription.unread_bytes += size
        if subscription.is_full:
            self._leave(subscription)
            subscription.state = State.PARKED
        item = WatchResponse(*parts)
        return [Delivery(subscription, item, cursor.next_revision, count, size)]

    def _receive_fragment(
        self, subscription: Subscription, response: RawResponse, size: int
    ) -> Sequence[Delivery]:
        """Hand on the revisions that are complete; keep what of the last has come."""
        parts = [part for part in (*subscription.fragments, response) if part.events]
        come = subscription.fragment_bytes + size
        count = subscription.fragment_count + 1
        subscription.drop_fragments()
        if response.fragment:
            parts, held = split_last_revision(parts)
            subscription.fragments = held
            subscription.fragment_bytes = sum([part.ByteSize() for part in held])
            subscription.fragment_count = count
            if (
                subscription.fragment_bytes > self._max_message_size
                or count > MAX_FRAGMENTS
            ):
                error = self._too_large(subscription.fragment_bytes)
                return [self._fail(subscription, error)]
        if not parts:
            return ()
        size = max(0, come - subscription.fragment_bytes)
        return self._receive_events(subscription, parts, size)

    # Steps

    @staticmethod
    def _may_merge(subscription: Subscription, events: int, size: int) -> bool:
        spec = subscription.spec
        return (
            not subscription.prev_kv_tries
            and not subscription.fragment_count
            and subscription.unread + events <= spec.max_buffered_events
            and subscription.unread_bytes + size <= spec.max_buffered_bytes
        )

    def _repeat(self, subscription: Subscription) -> None:
        """Create a live watch again; what comes of its present creation is dropped.

        For prev_kv: etcd begins to send before it has noted that it is wanted
        (recvLoop, v3rpc/watch.go), so now and then the first responses come without.
        """
        self._leave(subscription)
        self._create(subscription)

    def _repeat_silenced(self, watch_id: int) -> None:
        """Create again the live watch whose id the server used for a refusal.

        Servers before 3.4.22 and 3.5.6 refuse a creation under id 0, and from then on
        hold back the events of the watch that has this id.
        """
        if subscription := self._live.get(watch_id):
            self._repeat(subscription)

    def _create(self, subscription: Subscription) -> None:
        if not self._connected:
            subscription.state = State.RESUMING
            return
        subscription.state = State.CREATING
        if self._creations.add(subscription):
            self._request(subscription)

    def _request(self, subscription: Subscription) -> None:
        self._requests.append(
            create_request(
                subscription.spec,
                subscription.cursor.next_revision,
                fragment=subscription.splits,
            )
        )

    def _cancel(self, watch_id: int) -> None:
        if watch_id not in self._canceled:
            self._canceled.add(watch_id)
            self._requests.append(cancel_request(watch_id))

    def _cancel_unknown(self, watch_id: int) -> None:
        if watch_id not in self._canceled:
            self._unknown_ids += 1
            if self._unknown_ids > MAX_UNKNOWN_IDS:
                raise StreamLost("the server makes up watch ids")
            self._cancel(watch_id)

    def _leave(self, subscription: Subscription) -> None:
        """Take a live watch off the stream; what is in flight for it is dropped."""
        del self._live[subscription.watch_id]
        self._cancel(subscription.watch_id)
        subscription.drop_fragments()
        subscription.expect_prev_kv()

    def _expel(self, subscription: Subscription) -> None:
        """Give a watch up to a stream that comes with a new token."""
        subscription.state = State.RESUMING
        subscription.drop_fragments()
        subscription.expect_prev_kv()
        del self._subscriptions[subscription]
        self._expelled.append(subscription)

    def _end(self, subscription: Subscription) -> None:
        subscription.state = State.ENDED
        subscription.drop_fragments()
        self._subscriptions.pop(subscription, None)
        self._unproved.pop(subscription, None)

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
            f"a revision, or an event, of at least {size} bytes is over the limit of "
            f"{self._max_message_size}; raise Channel(max_message_size=...)",
        )

    @staticmethod
    def _delivery(
        subscription: Subscription, item: WatchResponse | WatchError | None
    ) -> Delivery:
        return Delivery(subscription, item, subscription.cursor.next_revision)
