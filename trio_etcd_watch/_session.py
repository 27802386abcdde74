"""Processes the messages of one Watch stream into deliveries for its watches.

Sans-IO. The messages that a read brought and the calls of the users go in; requests to
send and deliveries for the watches come out. `_roster` keeps the watches and the
requests, `_lifecycle` handles how a watch begins and ends, and this module handles what
comes in between. These are the rules, by their names in docs/explanation/guarantees.md.
The rules of the cursor are in `_cursor`, those of creations and refusals in
`_lifecycle`.

live_ids_only
    A watch is in one phase. Only a live one has a watch id, and only responses with ids
    of live watches are processed. A response with another id is answered with one
    cancel request.
reliable, unread_survives
    What is delivered moves the cursor in the same step, and what is dropped does not
    move it: so what was dropped is requested again, and what was delivered is not.
stream_state_dies
    When a stream breaks, its ids, requests and fragments are discarded. Cursors stay.
parked_at_bound, woken_at_half
    A watch that holds more unread events than it may is *parked*: canceled on the
    server, and created again from its cursor once half of its bound has been consumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from ._batches import merge_batch, split_batches_fast
from ._errors import RpcError
from ._face import construct
from ._grpc.messages import Oversized
from ._grpc.status import StatusCode
from ._lifecycle import Lifecycle
from ._responses import (
    Event,
    RawResponse,
    WatchResponse,
    changes_of,
    decode,
    watch_id_of_head,
)
from ._subscription import BROADCAST_ID, Delivery, Subscription
from ._tokens import StreamTokens

MAX_FRAGMENTS = 65_536
"""How many fragments a response may have. etcd's have 2 MiB each; this also bounds a
response of endless empty fragments."""


MAX_OVERSIZED = 20
"""How many responses over the limit in a row a watch may be created again for. etcd
does not split events that it has ready before it announces the watch; a busy server did
this four times in a row. A single event over the limit does not pass at any try."""


class Session(Lifecycle):
    """The watches of one stream, across all its reconnects.

    Args:
        max_message_size: the bound, in bytes, of a message, and of a revision that is
            joined from fragments.
        tokens: decides what a refused token means.

    Attributes:
        bytes_received: how many bytes of messages that were not over the limit have
            come, on all streams so far.
    """

    def __init__(
        self,
        *,
        max_message_size: int,
        tokens: StreamTokens | None = None,
    ) -> None:
        super().__init__(tokens or StreamTokens())
        self.bytes_received: int = 0
        self._max_message_size = max_message_size

    def receive_messages(
        self, messages: Sequence[bytes | Oversized], now: float
    ) -> Iterator[Delivery]:
        """Process all messages that one read of the connection brought.

        Hand on each delivery before asking for the next: its cursor has moved, and
        the next step may raise. The deliveries of one watch come in order.

        Args:
            messages: the messages, in the order in which they came.
            now: the time.

        Raises:
            StreamLost: a message breaks the protocol, or replies cannot be assigned to
                their creations. Open a new stream.
        """
        for batch in split_batches_fast(messages):
            if isinstance(batch, bytes):
                self.bytes_received += len(batch)
                yield from self._receive(decode(batch), now)
            elif isinstance(batch, Oversized):
                watch_id = watch_id_of_head(batch.head)
                yield from self._receive_oversized(watch_id, batch.size)
            else:
                self.bytes_received += sum(map(len, batch))
                yield from self._receive_batch(batch, now)

    def _receive_batch(self, batch: Sequence[bytes], now: float) -> Iterator[Delivery]:
        """Process a batch as one response if that is equivalent, otherwise in turn."""
        merged = merge_batch(batch)
        if merged is not None:
            subscription = self._live.get(merged.watch_id)
            if subscription is not None and self._may_merge(subscription, merged):
                yield from self._receive_events(
                    subscription, merged, merged.events, merged.size
                )
                return
        for message in batch:
            yield from self._receive(decode(message), now)

    def _receive(self, response: RawResponse, now: float) -> Sequence[Delivery]:
        """Process one response of the stream; return its deliveries to the watches."""
        if response.created:
            return self._receive_created(response, now)
        if response.canceled or response.compact_revision:
            return self._receive_canceled(response, now)
        watch_id = response.watch_id
        subscription = self._live.get(watch_id)
        if subscription is None:
            if watch_id == BROADCAST_ID and not response.events:
                return self._receive_broadcast(response)
            self._cancel_unknown(watch_id)
            return ()
        if response.fragment or subscription.live.fragments.count:
            return self._receive_fragment(subscription, response)
        if response.events:
            size = response.size
            return self._receive_events(subscription, response, response.events, size)
        return self._receive_progress(subscription, response)

    def _receive_oversized(self, watch_id: int, size: int) -> Sequence[Delivery]:
        """Handle a response that was over the limit, and therefore discarded.

        fragments_on_demand: it is requested again in fragments. What is still too long
        is one event, or events that the server had ready before it announced the watch.
        The server does not split those, but is likely to split them at another try.
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

    # Replies

    def _receive_broadcast(self, response: RawResponse) -> Sequence[Delivery]:
        # answers_move_nothing, and answers_not_overtaking: if a creation follows a
        # progress request, etcd may send the events of the watch after the answer.
        revision = response.revision
        return [
            self._delivery(subscription, response)
            for subscription in self._live.values()
            if subscription.live.created_revision < revision
            or subscription.cursor.next_revision > revision
        ]

    def _receive_progress(
        self, subscription: Subscription, response: RawResponse
    ) -> Sequence[Delivery]:
        subscription.tokens.expulsions = 0
        subscription.cursor.progressed(response.revision)
        shown = subscription.spec.progress_notify
        return [self._delivery(subscription, response if shown else None)]

    def _receive_events(
        self,
        subscription: Subscription,
        response: RawResponse,
        events: Sequence[Event],
        size: int,
    ) -> Sequence[Delivery]:
        """Deliver whole revisions: the events of a response, or of its fragments."""
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
        # previous_value_retried: events that create keys have no prev_kv anyway.
        live = subscription.live
        if live.prev_kv_tries and (changes := changes_of(events)):
            if all(event.prev_kv is None for event in changes):
                self._repeat(subscription, live.prev_kv_tries - 1)
                return ()
            live.prev_kv_tries = 0
        count = len(events)
        subscription.tokens.expulsions = subscription.oversized = 0
        cursor.delivered(last)
        subscription.unread += count
        subscription.unread_bytes += size
        if subscription.is_full:
            self._park(subscription)
        item = construct(WatchResponse, response, events)
        newest = response.revision
        return [Delivery(subscription, item, cursor.next_revision, count, size, newest)]

    def _receive_fragment(
        self, subscription: Subscription, response: RawResponse
    ) -> Sequence[Delivery]:
        """Deliver the revisions that are complete; keep the part of the last one."""
        subscription.oversized = 0
        fragments = subscription.live.fragments
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
            not subscription.live.prev_kv_tries
            and not subscription.live.fragments.count
            and subscription.unread + len(merged.events) <= spec.max_buffered_events
            and subscription.unread_bytes + merged.size <= spec.max_buffered_bytes
        )

    def _too_large(self, size: int) -> RpcError:
        return RpcError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"a message of {size} bytes, which the server does not split, is over the "
            f"limit of {self._max_message_size}; set a larger Channel(max_message_size=...)",
        )
