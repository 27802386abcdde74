"""A small etcd: a cluster's history, and one Watch stream of one of its members.

It models what `_session` can observe, and uses nothing of it: requests arrive as bytes,
and replies leave as messages, in an order in which etcd may send them. The rules are
those of etcd's `server/etcdserver/api/v3rpc/watch.go` and `server/storage/mvcc`:

* A member applies the cluster's revisions one by one, and may lag behind.
* A synced watcher gets each revision as it is applied; an unsynced one gets history in
  batches of few revisions, with the revision of the member in their header.
* A stream has two queues, one for events and one for control replies; each is in order,
  but either may be ahead of the other. Events of a watch id wait until the id has been
  announced, and are never sent once its cancel was confirmed.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._pb.watch_pb2 import WatchResponse as RawResponse

PERMISSION_DENIED = (
    "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
)
INVALID_TOKEN = (
    "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
)
DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"

NO_ID = -1
"""The watch id of replies that are not about one watch."""


@dataclass(frozen=True, slots=True)
class Version:
    """Differences between releases of etcd that a watch can observe."""

    name: str
    refuses_under_id_0: bool = False
    """Whether a refusal carries the watch id of the request, silences the watch that
    has this id, and gives every reason of the auth store as "permission denied"."""
    registers_last: bool = False
    """Whether a creation's header is read before the watcher is registered, not after."""
    answers_progress_at_once: bool = False
    """Whether the answer to a progress request ignores events that are still unsent."""
    ignores_future_start: bool = False
    """Whether a watcher from a future revision gets progress like any other, and loses
    its start when the member catches up from a snapshot."""


V3_5_1 = Version(
    "3.5.1",
    refuses_under_id_0=True,
    registers_last=True,
    answers_progress_at_once=True,
    ignores_future_start=True,
)
V3_4_23 = Version(
    "3.4.23",
    registers_last=True,
    answers_progress_at_once=True,
    ignores_future_start=True,
)
V3_6 = Version("3.6")


@dataclass(frozen=True, slots=True)
class Interest:
    """Which events a watcher should get."""

    key: bytes
    range_end: bytes
    no_put: bool = False
    no_delete: bool = False

    def wants(self, event: pb.Event) -> bool:
        """Whether this event, of a key in the range, passes the filters."""
        return not (self.no_put if event.type == pb.Event.PUT else self.no_delete)

    def covers(self, key: bytes) -> bool:
        """Whether the key is in the range (rpc.proto, `RangeRequest`)."""
        if not self.range_end:
            return key == self.key
        if self.range_end == b"\0":
            return key >= self.key
        return self.key <= key < self.range_end


class Cluster:
    """The history of a cluster; it keeps what is compacted, for tests to compare with.

    Attributes:
        cluster_id: the ID in every header.
    """

    def __init__(self, cluster_id: int) -> None:
        self.cluster_id = cluster_id
        # The events of each revision; revision 1 is the empty store.
        self._revisions: list[tuple[pb.Event, ...]] = [()]
        self._latest: dict[bytes, pb.Event] = {}
        self._values = 0
        # How often a member has omitted prev_kv: at most twice for each interest.
        self.forgotten: Counter[Interest] = Counter()
        # Each with the newest revision at its time, and the compacted revision.
        self._compactions: list[tuple[int, int]] = []

    @property
    def revision(self) -> int:
        """The newest revision."""
        return len(self._revisions)

    def commit(self, changes: Mapping[bytes, bool]) -> None:
        """Put the keys that are True, delete those that are False, as one revision.

        Deleting a missing key changes nothing, and without a change there is no revision.
        """
        events = []
        for key, is_put in changes.items():
            last = self._latest.get(key)
            exists = last is not None and last.type == pb.Event.PUT
            event = pb.Event(type=pb.Event.PUT if is_put else pb.Event.DELETE)
            event.kv.key = key
            event.kv.mod_revision = self.revision + 1
            if exists:
                assert last is not None
                event.prev_kv.CopyFrom(last.kv)
            elif not is_put:
                continue
            if is_put:
                self._values += 1
                event.kv.value = b"%d" % self._values
                event.kv.version = event.prev_kv.version + 1
                event.kv.create_revision = (
                    event.prev_kv.create_revision or event.kv.mod_revision
                )
            events.append(event)
        if events:
            self._revisions.append(tuple(events))
            self._latest |= {event.kv.key: event for event in events}

    def lose(self, revisions: int) -> None:
        """Restore a backup that is older by so many revisions, under the same ID."""
        del self._revisions[max(1, self.revision - revisions) :]
        self._latest = {
            event.kv.key: event for events in self._revisions for event in events
        }
        self._compactions = [
            (min(at, self.revision), min(compacted, self.revision))
            for at, compacted in self._compactions
        ]

    def compact(self, revision: int) -> None:
        """Compact all below this revision, which itself stays valid as a start."""
        if self.compacted() < revision <= self.revision:
            self._compactions.append((self.revision, revision))

    def compacted(self, applied: int | None = None) -> int:
        """The compacted revision that a member knows at the revision `applied`."""
        return max(
            (
                revision
                for at, revision in self._compactions
                if applied is None or at <= applied
            ),
            default=0,
        )

    def events(self, interest: Interest, first: int, last: int) -> list[pb.Event]:
        """Copies of the events that are due, in order, each with its previous key."""
        return [
            _copy(event)
            for revision in range(max(first, 1), min(last, self.revision) + 1)
            for event in self._revisions[revision - 1]
            if interest.covers(event.kv.key) and interest.wants(event)
        ]

    def revisions_with(self, interest: Interest, first: int, last: int) -> list[int]:
        """The revisions among these that have a key in the range, filtered or not."""
        return [
            revision
            for revision in range(max(first, 1), last + 1)
            if any(
                interest.covers(event.kv.key) for event in self._revisions[revision - 1]
            )
        ]


def _copy(event: pb.Event) -> pb.Event:
    copy = pb.Event()
    copy.CopyFrom(event)
    return copy


class Group(enum.Enum):
    """The group of watchers in which a member keeps a watcher."""

    SYNCED = enum.auto()
    UNSYNCED = enum.auto()
    """The watcher has history to be sent."""
    COMPACTED = enum.auto()
    """The next revision of the watcher is compacted. The client has to cancel it."""


@dataclass(slots=True)
class Watcher:
    """One watcher of a stream; `next_revision` is the first that it has not been sent."""

    id: int
    interest: Interest
    prev_kv: bool
    progress_notify: bool
    fragment: bool
    next_revision: int
    group: Group
    forgets_prev_kv: bool = False
    """Whether its first response has none: recvLoop registers it before it notes this."""
    start_forgotten: bool = False
    """Whether a snapshot has set it back while it waited for a future revision."""
    largest: int = 0
    """The number of events in its largest response so far."""


@dataclass(slots=True)
class Stream:
    """One Watch stream: it gets requests, and gives replies. A lost one is discarded.

    Attributes:
        cluster: the cluster that it serves.
        version: the release of the member.
        applied: the newest revision that the member has applied.
        batch: how many revisions a batch of history has at most (etcd: 1000).
        fragment_events: how many events a message holds (etcd counts bytes).
        watchers: the watchers that the server holds for the client, by watch id.
        cancels: how often the client has requested the cancel of each watch id.
        refusals: the reasons for refusing the creations to come, in turn.
        token_expired: whether every creation is refused from now on.
    """

    cluster: Cluster
    version: Version
    applied: int
    batch: int = 2
    fragment_events: int = 2
    watchers: dict[int, Watcher] = field(default_factory=dict)
    cancels: Counter[int] = field(default_factory=Counter)
    refusals: deque[str] = field(default_factory=deque)
    token_expired: bool = False
    # Every watcher that was ever created.
    _all: dict[int, Watcher] = field(default_factory=dict)
    _events: deque[RawResponse] = field(default_factory=deque)
    _control: deque[RawResponse] = field(default_factory=deque)
    _announced: set[int] = field(default_factory=set)
    _pending: dict[int, list[RawResponse]] = field(default_factory=dict)
    # Messages to send next: no other comes between the fragments of a response.
    _wire: deque[RawResponse] = field(default_factory=deque)

    # Requests of the client

    def handle(self, request: bytes, racing: int = 0) -> pb.WatchRequest:
        """Handle one request.

        Args:
            racing: how many revisions are applied during a creation.

        Returns:
            The request, decoded.
        """
        decoded = pb.WatchRequest.FromString(request)
        match decoded.WhichOneof("request_union"):
            case "create_request":
                self._create(decoded.create_request, racing)
            case "cancel_request":
                self._cancel(decoded.cancel_request.watch_id)
            case "progress_request":
                self._request_progress()
            case _:
                raise AssertionError("etcd ends the stream over an empty request")
        return decoded

    def _create(self, request: pb.WatchCreateRequest, racing: int) -> None:
        if reason := self._refusal():
            denied = self.version.refuses_under_id_0
            self._control.append(
                RawResponse(
                    header=self._header(),
                    watch_id=0 if denied else NO_ID,
                    created=True,
                    canceled=True,
                    cancel_reason=PERMISSION_DENIED if denied else reason,
                )
            )
            return
        before = self.applied
        if self.version.registers_last:
            self.apply(racing)
        interest = Interest(
            request.key,
            request.range_end,
            no_put=pb.WatchCreateRequest.NOPUT in request.filters,
            no_delete=pb.WatchCreateRequest.NODELETE in request.filters,
        )
        start = request.start_revision
        if start == 0:
            start = (before if self.version.registers_last else self.applied) + 1
        watcher = Watcher(
            id=len(self._all),
            interest=interest,
            prev_kv=request.prev_kv,
            forgets_prev_kv=bool(racing) and self.cluster.forgotten[interest] < 2,
            progress_notify=request.progress_notify,
            fragment=request.fragment,
            next_revision=start,
            group=Group.SYNCED if start > self.applied else Group.UNSYNCED,
        )
        self._all[watcher.id] = self.watchers[watcher.id] = watcher
        header = before
        if not self.version.registers_last:
            self.apply(racing)
            header = self.applied
        self._control.append(
            RawResponse(header=self._header(header), watch_id=watcher.id, created=True)
        )

    def _refusal(self) -> str:
        if self.token_expired:
            return INVALID_TOKEN
        return self.refusals.popleft() if self.refusals else ""

    def _cancel(self, watch_id: int) -> None:
        self.cancels[watch_id] += 1
        # An unknown id gets no reply.
        if self.watchers.pop(watch_id, None):
            self._control.append(
                RawResponse(header=self._header(), watch_id=watch_id, canceled=True)
            )

    def _request_progress(self) -> None:
        answer = RawResponse(header=self._header(), watch_id=NO_ID)
        if self.version.answers_progress_at_once:
            self._control.append(answer)
        elif self.watchers and all(map(self._may_vouch, self.watchers.values())):
            self._events.append(answer)

    # Events in the member

    def apply(self, revisions: int, *, crowded: bool = False) -> None:
        """Apply the next revisions of the cluster, at most so many.

        Args:
            crowded: whether the queue is full, so that watchers fall behind instead.
        """
        for revision in range(
            self.applied + 1, min(self.applied + revisions, self.cluster.revision) + 1
        ):
            self.applied = revision
            for watcher in self.watchers.values():
                if (
                    watcher.group is not Group.SYNCED
                    or revision < watcher.next_revision
                ):
                    continue
                if crowded and self.cluster.revisions_with(
                    watcher.interest, revision, revision
                ):
                    watcher.next_revision = revision
                    watcher.group = Group.UNSYNCED
                    continue
                self._send(watcher, revision, revision)
                watcher.next_revision = revision + 1

    def sync(self) -> None:
        """Send each unsynced watcher its next batch of history."""
        compacted = self.cluster.compacted(self.applied)
        for watcher in self.watchers.values():
            if watcher.group is not Group.UNSYNCED:
                continue
            if watcher.next_revision < compacted:
                watcher.group = Group.COMPACTED
                # Its header has no revision.
                self._events.append(
                    RawResponse(
                        header=self._header(0),
                        watch_id=watcher.id,
                        canceled=True,
                        compact_revision=compacted,
                    )
                )
                continue
            due = self.cluster.revisions_with(
                watcher.interest, watcher.next_revision, self.applied
            )
            if len(due) > self.batch:
                end = due[self.batch]
            elif self.version.ignores_future_start:
                end = self.applied + 1
                watcher.start_forgotten |= end < watcher.next_revision
                watcher.group = Group.SYNCED
            else:
                end = max(self.applied + 1, watcher.next_revision)
                watcher.group = Group.SYNCED
            self._send(watcher, watcher.next_revision, end - 1)
            watcher.next_revision = end

    def restore(self) -> None:
        """Load a snapshot, as a member does that was far behind."""
        for watcher in self.watchers.values():
            if watcher.group is Group.SYNCED:
                watcher.group = Group.UNSYNCED

    def tick(self) -> None:
        """Send progress notifications to the watchers that requested them."""
        for watcher in self.watchers.values():
            if watcher.progress_notify and self._may_vouch(watcher):
                self._events.append(
                    RawResponse(header=self._header(), watch_id=watcher.id)
                )

    def _may_vouch(self, watcher: Watcher) -> bool:
        return watcher.group is Group.SYNCED and (
            self.version.ignores_future_start
            or watcher.next_revision <= self.applied + 1
        )

    def _send(self, watcher: Watcher, first: int, last: int) -> None:
        events = self.cluster.events(watcher.interest, first, last)
        if events:
            watcher.largest = max(watcher.largest, len(events))
            if watcher.forgets_prev_kv:
                watcher.forgets_prev_kv = False
                self.cluster.forgotten[watcher.interest] += 1
                for event in events:
                    event.ClearField("prev_kv")
            self._events.append(
                RawResponse(header=self._header(), watch_id=watcher.id, events=events)
            )

    def _header(self, revision: int | None = None) -> pb.ResponseHeader:
        return pb.ResponseHeader(
            cluster_id=self.cluster.cluster_id,
            member_id=1,
            revision=self.applied if revision is None else revision,
            raft_term=1,
        )

    # Sending

    @property
    def idle(self) -> bool:
        """Whether everything that can be applied and sent has been."""
        return (
            not (self._wire or self._control or self._events)
            and self.applied == self.cluster.revision
            and all(w.group is not Group.UNSYNCED for w in self.watchers.values())
        )

    def watcher(self, watch_id: int) -> Watcher:
        """The watcher that has or had this id."""
        return self._all[watch_id]

    @property
    def created(self) -> int:
        """How many watchers were ever created; all watch ids are below this."""
        return len(self._all)

    def is_too_large(self, response: RawResponse) -> bool:
        """Whether a response is over the client's limit, here the size of a fragment."""
        watcher = self._all.get(response.watch_id)
        return (
            watcher is not None
            and not watcher.fragment
            and len(response.events) > self.fragment_events
        )

    def send(self, *, control_first: bool) -> RawResponse | None:
        """Return the next message, or None if there is none.

        Args:
            control_first: whether to prefer the queue of control replies.
        """
        while not self._wire:
            queues = self._events, self._control
            queue = queues[control_first] or queues[not control_first]
            if not queue:
                return None
            if queue is self._control:
                self._wire.extend(self._announce(queue.popleft()))
            else:
                self._wire.extend(self._admit(queue.popleft()))
        return self._wire.popleft()

    def _announce(self, reply: RawResponse) -> Iterator[RawResponse]:
        yield reply
        if reply.canceled:
            # A refusal may carry the id of a live watch, which it silences.
            self._announced.discard(reply.watch_id)
        elif reply.created:
            self._announced.add(reply.watch_id)
            # Responses that had to wait are not fragmented.
            for response in self._pending.pop(reply.watch_id, ()):
                self._look_back(response)
                yield response

    def _admit(self, response: RawResponse) -> Iterable[RawResponse]:
        watch_id = response.watch_id
        if watch_id == NO_ID:
            return [response]
        if watch_id not in self._announced:
            self._pending.setdefault(watch_id, []).append(response)
            return ()
        self._look_back(response)
        if not self.watcher(watch_id).fragment:
            return [response]
        return self._fragments(response)

    def _look_back(self, response: RawResponse) -> None:
        """Drop each previous key that was not requested or is compacted."""
        if not response.events:
            return
        asked = self.watcher(response.watch_id).prev_kv
        compacted = self.cluster.compacted(self.applied)
        for event in response.events:
            if not asked or event.kv.mod_revision - 1 < compacted:
                event.ClearField("prev_kv")

    def _fragments(self, response: RawResponse) -> Iterator[RawResponse]:
        size = self.fragment_events
        count = len(response.events)
        if count <= size:
            yield response
            return
        for start in range(0, count, size):
            yield RawResponse(
                header=response.header,
                watch_id=response.watch_id,
                fragment=start + size < count,
                events=response.events[start : start + size],
            )
