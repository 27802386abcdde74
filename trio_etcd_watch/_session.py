"""One Watch stream without its I/O: which watches are on it, and what a reply means.

Decoded responses and the user's wishes go in; requests to send and deliveries for
the watches come out. The rules that a change must keep:

1. Replies to creations carry nothing that names their request, but come in its
   order. So every creation sent waits in a queue, also one that nobody wants any
   more: its reply must still be met, and its watch id canceled. Ids are given in that
   order too. Where they show that replies are not (etcd's grpc-proxy), a new stream
   is needed, and from then on each creation waits for the reply to the one before.
2. A watch is in one state. Only `LIVE` has a watch id, and only ids of live watches
   are listened to; anything under another id is answered with one cancel.
3. What is delivered moves the cursor in the same step (`_cursor` says how), and
   what is dropped does not: so what was dropped is asked for again.
4. A stream that breaks takes ids, queue and fragments with it. Cursors stay.
5. An error belongs to one watch.

A watch that its user does not drain is *parked*: canceled on the server, and created
again from its cursor when half of what it holds has been taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile

from ._errors import (
    AuthenticationError,
    ClusterChangedError,
    PermissionDeniedError,
    RpcError,
    TokenExpired,
    WatchError,
    error_of_cancel,
    is_stale_token,
    lacks_token,
)
from ._grpc.status import StatusCode, StreamLost
from ._requests import (
    WatchSpec,
    cancel_request,
    create_request,
    progress_request,
)
from ._responses import (
    Event,
    RawResponse,
    WatchResponse,
    changes_of,
    decode,
    join,
)
from ._runs import merge_run
from ._subscription import BROADCAST_ID, Delivery, State, Subscription

MAX_FRAGMENTS = 65_536
"""Of one response. etcd's are of 2 MiB; endless empty ones have to end too."""

MAX_REFUSED_TOKENS = 3
"""How often in a row a watch may be refused for its token before it fails."""


class Session:
    """The watches of one stream, across all its reconnects.

    Args:
        max_message_size: bound, in bytes, of a response joined from fragments.
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
        # Their replies are awaited; unless pipelined, only the first has been sent.
        self._creating: deque[Subscription] = deque()
        self._pipelined = True
        self._next_watch_id = 0
        # Ids that have been canceled on this stream, so that each is canceled once.
        self._canceled: set[int] = set()
        self._requests: list[bytes] = []
        self._asks_progress = False

    # The user's side

    @property
    def subscriptions(self) -> Iterable[Subscription]:
        """The watches that have neither failed nor been left."""
        return self._subscriptions.keys()

    def open(self, spec: WatchSpec) -> Subscription:
        """Add a watch. Its creation is sent now, or when there is a stream."""
        subscription = Subscription(spec)
        self._subscriptions[subscription] = None
        self._create(subscription)
        return subscription

    def close(self, subscription: Subscription) -> None:
        """Forget a watch, and cancel it on the server; one that has ended may come."""
        if subscription.state is State.LIVE:
            self._leave(subscription)
        self._end(subscription)

    def take(self, subscription: Subscription, events: int) -> None:
        """Note that the user has taken so many events; a parked watch may go on."""
        subscription.unread -= events
        if (
            subscription.state is State.PARKED
            and subscription.unread * 2 <= subscription.spec.max_buffered_events
        ):
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
            subscription.prev_kv_checked = not subscription.spec.prev_kv
            # Rule 6: a response that never came whole is sent again.
            self._drop_fragments(subscription)
        self._live.clear()
        self._creating.clear()
        self._next_watch_id = 0
        self._canceled.clear()
        self._requests.clear()
        self._asks_progress = False

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

    def receive(self, response: RawResponse) -> Sequence[Delivery]:
        """Take one response of the stream; return what the watches get of it.

        Raises:
            StreamLost: it cannot be known whose replies are whose. Open a new one.
            TokenExpired: the stream's token is refused. Open a new one.
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
            self._cancel(watch_id)
            return ()
        parts = [response]
        if response.fragment or subscription.fragments:
            whole = self._receive_fragment(subscription, response)
            if isinstance(whole, WatchError):
                return [self._fail(subscription, whole)]
            if whole is None:
                return ()
            parts = [part for part in whole if part.events]
        if parts and parts[0].events:
            return self._receive_events(subscription, parts)
        return self._receive_progress(subscription, response)

    def receive_run(self, run: Sequence[bytes]) -> Iterator[Delivery]:
        """Take responses that are alike: as one if that is the same, or else in turn.

        Hand on each delivery before asking for the next: its cursor has moved, and
        what follows may raise.

        Raises:
            StreamLost: one cannot be parsed; or TokenExpired, as `receive()`.
        """
        merged = merge_run(run) if len(run) > 1 else None
        if merged is not None:
            subscription = self._live.get(merged.watch_id)
            if subscription is not None and self._may_merge(subscription):
                unread = subscription.unread + len(merged.events)
                if unread <= subscription.spec.max_buffered_events:
                    yield from self._receive_events(subscription, [merged])
                    return
        for message in run:
            yield from self.receive(decode(message))

    def receive_oversized(self, watch_id: int, size: int) -> Sequence[Delivery]:
        """Take note of a response that was longer than the limit, and thrown away."""
        subscription = self._live.get(watch_id)
        if subscription is None:
            self._cancel(watch_id)
            return ()
        return [self._fail(subscription, self._too_large(size))]

    def halt(self, error: WatchError) -> Sequence[Delivery]:
        """The stream cannot be mended: every watch on it fails."""
        return [
            Delivery(subscription, error, subscription.cursor.next_revision)
            for subscription in self._end_all()
        ]

    # Replies

    def _receive_created(self, response: RawResponse) -> Sequence[Delivery]:
        if not self._creating:
            # No server does this; the watch is nobody's.
            if not response.canceled:
                self._cancel(response.watch_id)
            return ()
        subscription = self._creating.popleft()
        if not response.canceled:
            self._check_order(response.watch_id)
        if not self._pipelined:
            self._create_next()
        # Servers before 3.4.22 and 3.5.6 refuse with id 0 instead of -1, so the id
        # says nothing about success.
        if response.canceled:
            self._mend_silenced(response.watch_id)
        if subscription.state is not State.CREATING:
            if not response.canceled:
                self._cancel(response.watch_id)
            return ()
        if response.canceled:
            return self._receive_refusal(subscription, response)
        header = response.header
        known = subscription.cluster_id
        subscription.state = State.LIVE
        subscription.watch_id = response.watch_id
        subscription.refused_tokens = 0
        self._live[response.watch_id] = subscription
        # etcd's grpc-proxy leaves it out where it has the same watch already.
        if known and header.cluster_id and header.cluster_id != known:
            error = ClusterChangedError(known, header.cluster_id)
            return [self._fail(subscription, error)]
        subscription.cluster_id = known or header.cluster_id
        subscription.cursor.created(header.revision)
        if subscription.confirmed:
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
        if is_stale_token(response.cancel_reason) or (
            isinstance(error, PermissionDeniedError)
            and self._can_authenticate
            and not subscription.refused_tokens
            and (
                lacks_token(response.cancel_reason)
                # The servers that refuse under another id than -1 call an expired
                # token "permission denied" too: a new one tells.
                or (response.watch_id != BROADCAST_ID and not self._has_new_token())
            )
        ):
            subscription.refused_tokens += 1
            if self._can_authenticate and (
                subscription.refused_tokens <= MAX_REFUSED_TOKENS
            ):
                raise TokenExpired(response.cancel_reason)
            error = AuthenticationError(
                StatusCode.UNAUTHENTICATED, response.cancel_reason
            )
        self._end(subscription)
        return [self._delivery(subscription, error)]

    def _receive_broadcast(self, response: RawResponse) -> Sequence[Delivery]:
        # Rule 4 of the cursor: it moves nothing.
        return [
            self._delivery(subscription, WatchResponse(response))
            for subscription in self._live.values()
        ]

    def _receive_progress(
        self, subscription: Subscription, response: RawResponse
    ) -> Sequence[Delivery]:
        subscription.cursor.progressed(response.header.revision)
        shown = subscription.spec.progress_notify
        item = WatchResponse(response) if shown else None
        return [self._delivery(subscription, item)]

    def _receive_events(
        self, subscription: Subscription, parts: list[RawResponse]
    ) -> Sequence[Delivery]:
        """Take one response, or its fragments; none of them is without events."""
        cursor = subscription.cursor
        events: Sequence[Event] = parts[0].events
        if len(parts) > 1:
            events = join([part.events for part in parts])
        if not cursor.is_new(parts[0].first_revision):
            old = takewhile(
                lambda event: not cursor.is_new(event.kv.mod_revision), events
            )
            events = events[len(list(old)) :]
        if not events:
            return ()
        # What only creates keys says nothing of it.
        if not subscription.prev_kv_checked and (changes := changes_of(events)):
            subscription.prev_kv_checked = True
            if all(event.prev_kv is None for event in changes):
                self._repeat_creation(subscription)
                return ()
        count = len(events)
        cursor.delivered(parts[-1].last_revision)
        subscription.unread += count
        if subscription.unread > subscription.spec.max_buffered_events:
            self._leave(subscription)
            subscription.state = State.PARKED
        item = WatchResponse(parts[-1], events)
        return [Delivery(subscription, item, cursor.next_revision, count)]

    def _receive_fragment(
        self, subscription: Subscription, response: RawResponse
    ) -> list[RawResponse] | WatchError | None:
        """Return all fragments of a response once the last one is there."""
        fragments = subscription.fragments
        fragments.append(response)
        subscription.fragment_bytes += response.size
        if (
            subscription.fragment_bytes > self._max_message_size
            or len(fragments) > MAX_FRAGMENTS
        ):
            return self._too_large(subscription.fragment_bytes)
        if response.fragment:
            return None
        self._drop_fragments(subscription)
        return fragments

    # Steps

    @staticmethod
    def _may_merge(subscription: Subscription) -> bool:
        return subscription.prev_kv_checked and not subscription.fragments

    def _repeat_creation(self, subscription: Subscription) -> None:
        """Drop what comes of a creation that went wrong; once, not for ever.

        etcd begins to send before it has noted that prev_kv is wanted (recvLoop,
        v3rpc/watch.go): now and then the first responses come without. If they lack it
        because it is compacted, the second time is no different, or `CompactedError`.
        """
        self._leave(subscription)
        self._create(subscription)
        subscription.prev_kv_checked = True

    def _mend_silenced(self, watch_id: int) -> None:
        """Create anew the live watch whose id the server used for a refusal.

        Servers before 3.4.22 and 3.5.6 refuse a creation under id 0, and from then on
        hold back the events of the watch that has this id.
        """
        if subscription := self._live.get(watch_id):
            self._leave(subscription)
            self._create(subscription)

    def _create(self, subscription: Subscription) -> None:
        if not self._connected:
            subscription.state = State.RESUMING
            return
        subscription.state = State.CREATING
        self._creating.append(subscription)
        if self._pipelined or len(self._creating) == 1:
            self._request(subscription)

    def _create_next(self) -> None:
        # Of those that were left meanwhile the server has never heard.
        while self._creating and self._creating[0].state is not State.CREATING:
            self._creating.popleft()
        if self._creating:
            self._request(self._creating[0])

    def _request(self, subscription: Subscription) -> None:
        self._requests.append(
            create_request(subscription.spec, subscription.cursor.next_revision)
        )

    def _check_order(self, watch_id: int) -> None:
        expected, self._next_watch_id = self._next_watch_id, watch_id + 1
        # The only reply that was awaited is the right one, whatever its id.
        if self._pipelined and self._creating and watch_id != expected:
            self._pipelined = False
            raise StreamLost("the server answers creations out of order")

    def _cancel(self, watch_id: int) -> None:
        if watch_id not in self._canceled:
            self._canceled.add(watch_id)
            self._requests.append(cancel_request(watch_id))

    def _leave(self, subscription: Subscription) -> None:
        """Take a live watch off the stream; what is in flight for it is dropped."""
        # Not there if the server has just ended it for its token (TokenExpired).
        self._live.pop(subscription.watch_id, None)
        self._cancel(subscription.watch_id)
        self._drop_fragments(subscription)
        subscription.prev_kv_checked = not subscription.spec.prev_kv

    def _end(self, subscription: Subscription) -> None:
        subscription.state = State.ENDED
        self._drop_fragments(subscription)
        self._subscriptions.pop(subscription, None)

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
            f"a response of at least {size} bytes is over the limit of "
            f"{self._max_message_size}; raise Channel(max_message_size=...)",
        )

    @staticmethod
    def _delivery(
        subscription: Subscription, item: WatchResponse | WatchError | None
    ) -> Delivery:
        return Delivery(subscription, item, subscription.cursor.next_revision)

    @staticmethod
    def _drop_fragments(subscription: Subscription) -> None:
        subscription.fragments = []
        subscription.fragment_bytes = 0
