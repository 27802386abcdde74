"""The state machine that tests the session, between users and a model of etcd.

`test_session_machine.py` runs it unchanged, `test_mutations.py` with a rule broken.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from tests.machine.model import (
    DUPLICATE_ID,
    INVALID_TOKEN,
    NO_ID,
    PERMISSION_DENIED,
    V3_4_23,
    V3_5_1,
    V3_6,
    Cluster,
    Group,
    Interest,
    Stream,
    Version,
)
from tests.machine.mutations import REAL, Core
from trio_etcd_watch import (
    AuthenticationError,
    ClusterChangedError,
    CompactedError,
    Event,
    HistoryLostError,
    PermissionDeniedError,
    WatchCanceledError,
    WatchError,
)
from trio_etcd_watch._batches import split_batches
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._requests import WatchSpec
from trio_etcd_watch._responses import RawResponse, decode, watch_id_of_head
from trio_etcd_watch._subscription import Delivery, State, Subscription
from trio_etcd_watch._verdicts import MAX_REFUSED_TOKENS

MAX_MESSAGE_SIZE = 2**20
# A constant time: no token is old enough to be renewed without a reason.
NOW = 0.0


@dataclass(slots=True, eq=False)
class User:
    """What the user of one watch has received, and what is due to them.

    Attributes:
        next_revision: the next revision after the last delivery.
        bookmark: where to continue after what was consumed.
        cluster: the cluster that confirmed the watch, if any has.
        first: the first revision that the watch covers, once it is confirmed.
        log: every event consumed, also before the watch was reopened at its bookmark.
        unread: what was delivered and not consumed: events, the bookmark after them,
            and the bytes that they count.
        reported: the newest revision that the cluster has reported to it.
        created_revision: the revision of its creation on the present stream.
        vouched: the revision up to which no event may follow.
        splits: whether a response was too large for it.
        confirmed: whether its creation was delivered.
        answers: how many answers to progress requests were delivered.
        refused: how often in a row its creation was refused for the token.
        seen: the state of the subscription when it was last compared.
    """

    wish: Wish
    spec: WatchSpec
    subscription: Subscription
    interest: Interest
    seen: State
    next_revision: int
    bookmark: int
    cluster: Cluster | None = None
    first: int = 0
    log: list[Event] = field(default_factory=list)
    unread: deque[tuple[Sequence[Event], int, int]] = field(default_factory=deque)
    reported: int = 0
    created_revision: int = 0
    vouched: int = 0
    splits: bool = False
    error: WatchError | None = None
    confirmed: bool = False
    answers: int = 0
    refused: int = 0

    @property
    def unread_events(self) -> int:
        return sum(len(events) for events, _, _ in self.unread)

    @property
    def unread_bytes(self) -> int:
        return sum(size for _, _, size in self.unread)

    def consume(self, *, merge: bool) -> tuple[int, int]:
        """Consume the oldest as `Watch` does; with merge, successive events at once.

        Returns:
            How many events were consumed, and their bytes.
        """
        consumed = consumed_bytes = 0
        while self.unread:
            if consumed and not (merge and self.unread[0][0]):
                break
            events, self.bookmark, size = self.unread.popleft()
            self.log += events
            consumed += len(events)
            consumed_bytes += size
            if not events:
                break
        return consumed, consumed_bytes

    def check_owed(self, events: Sequence[Event], first: int, last: int) -> None:
        """Assert that these events are exactly those of the revisions given."""
        assert self.cluster is not None
        owed = self.cluster.events(self.interest, first, last)
        assert [(event.kv.mod_revision, event.kv.key) for event in events] == [
            (raw.kv.mod_revision, raw.kv.key) for raw in owed
        ]
        for event, raw in zip(events, owed, strict=True):
            is_put = raw.type == pb.Event.PUT
            assert event.is_create == (is_put and not raw.HasField("prev_kv"))
            assert event.is_modify == (is_put and raw.HasField("prev_kv"))
            too_old = event.kv.mod_revision - 1 < self.cluster.compacted()
            # previous_value_retried
            if not self.spec.prev_kv or (event.prev_kv is None and too_old):
                raw.ClearField("prev_kv")
            same = decode(pb.WatchResponse(events=[raw]).SerializeToString())
            assert event == same.events[0]


@dataclass(frozen=True, slots=True)
class Wish:
    """The arguments of `watch_spec()`; start is relative to the newest revision."""

    where: dict[str, Any]
    start: int | None = None
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False
    progress_notify: bool = False
    bound: int = 10_000

    def spec(self, core: Core, start_revision: int) -> WatchSpec:
        return core.watch_spec(
            **self.where,
            start_revision=start_revision,
            prev_kv=self.prev_kv,
            no_put=self.no_put,
            no_delete=self.no_delete,
            progress_notify=self.progress_notify,
            max_buffered_events=self.bound,
        )


# Mostly True, because without watches nothing happens.
REOPENS = st.sampled_from([True, True, True, False])
# How many events a message holds: 1 makes many fragments, 10 makes none.
SIZE = st.sampled_from([1, 2, 10])
# How many revisions the member is behind when the client connects to it.
BEHIND = st.sampled_from([0, 0, 1, 3])
MAX_WATCHES = 5
FUTURE = 3
"""The largest start of a watch, in revisions above the newest."""

KEYS = [b"a", b"b", b"b1", b"c"]
EVERYTHING = {"key": b"", "prefix": True}
RANGES = [
    EVERYTHING,
    EVERYTHING,
    {"key": b"b", "prefix": True},
    {"key": b"b"},
    {"key": b"a", "range_end": b"b1"},
    {"key": b"b1", "from_key": True},
]
FILTERS: list[dict[str, bool]] = [{}, {}, {"no_put": True}, {"no_delete": True}]
# There are more puts than deletions, as deleting a missing key changes nothing.
CHANGES = st.dictionaries(
    st.sampled_from(KEYS), st.sampled_from([True, True, False]), min_size=1
)
WISHES = st.builds(
    lambda filtered, **wish: Wish(**filtered, **wish),
    filtered=st.sampled_from(FILTERS),
    where=st.sampled_from(RANGES),
    start=st.none() | st.integers(-5, FUTURE),
    prev_kv=st.booleans(),
    progress_notify=st.booleans(),
    bound=st.sampled_from([4, 2, 1, 10_000]),
)
REFUSALS = ["", "", "", "", "", PERMISSION_DENIED, INVALID_TOKEN, DUPLICATE_ID]
# 3.4.23 differs from 3.5.1 in refusals alone.
VERSIONS = [V3_6, V3_5_1, V3_6, V3_5_1, V3_4_23]

connected = precondition(lambda self: self.stream is not None)


class SessionMachine(RuleBasedStateMachine):
    """A session between users and a model of etcd.

    At each delivery it checks that the events are exactly those from the last
    next_revision to the new one, and that next_revision moved as its rule says; after
    each step, the bound on unread events and what depends on it; in the end, that every
    event was delivered, and that the server holds no abandoned watcher.
    """

    core: ClassVar[Core] = REAL
    watches: Bundle[User] = Bundle("watches")

    def __init__(self) -> None:
        super().__init__()
        self.clusters = Cluster(7), Cluster(8)
        self.cluster = self.clusters[0]
        self.version = V3_6
        self.stream: Stream | None = None
        # Users that need a new token, which the next stream has.
        self.expelled: list[User] = []
        self.users: dict[Subscription, User] = {}
        # Creations that the session has to request, with their start; requests on the
        # way, with the user of a creation; creations whose reply has not come.
        self.creating: deque[tuple[User, int]] = deque()
        self.outbox: deque[tuple[bytes, User | None]] = deque()
        self.awaiting: deque[User] = deque()

    @initialize(
        target=watches,
        can_authenticate=st.booleans(),
        no_token_is_good=st.sampled_from([False] * 7 + [True]),
        history=st.lists(CHANGES, min_size=2, max_size=6),
        version=st.sampled_from(VERSIONS),
        size=SIZE,
        wish=WISHES,
    )
    def begin(
        self,
        can_authenticate: bool,
        no_token_is_good: bool,
        history: list[Mapping[bytes, bool]],
        version: Version,
        size: int,
        wish: Wish,
    ) -> User:
        self.can_authenticate = can_authenticate
        self.no_token_is_good = no_token_is_good
        self.session = self.core.session(
            max_message_size=MAX_MESSAGE_SIZE,
            tokens=self.core.tokens(can_renew=can_authenticate),
        )
        for cluster in self.clusters:
            for changes in history:
                cluster.commit(changes)
        self._connect(version, 0, elsewhere=False, size=size)
        return self._open(wish)

    # Events in the cluster. The rules are few, with choices inside: Hypothesis disables
    # some rules in each run, and without a working server little can happen.

    @rule(
        transactions=st.lists(CHANGES, min_size=1, max_size=3),
        lags=st.booleans(),
        crowded=st.booleans(),
    )
    def commit(
        self, transactions: list[Mapping[bytes, bool]], lags: bool, crowded: bool
    ) -> None:
        for changes in transactions:
            self.cluster.commit(changes)
        if self.stream and not lags:
            self.stream.apply(self.cluster.revision, crowded=crowded)

    @connected
    @rule(job=st.sampled_from(["tick", "sync", "compact", "restore", "expire"]))
    def work(self, job: str) -> None:
        assert self.stream
        match job:
            case "tick":
                self.stream.tick()
            case "sync":
                self.stream.sync()
            case "compact":
                self.cluster.compact(self.cluster.revision - 1)
            case "restore":
                self.stream.restore()
            case "expire":
                self.stream.token_expired = True

    @precondition(lambda self: self.stream is None)
    @rule(back=st.integers(0, 4))
    def compact(self, back: int) -> None:
        """Compact while the client is disconnected."""
        self.cluster.compact(self.cluster.revision - back)

    # Actions of the users

    @precondition(lambda self: len(self.users) < MAX_WATCHES)
    @rule(target=watches, wish=WISHES, refusal=st.sampled_from(REFUSALS))
    def open(self, wish: Wish, refusal: str) -> User:
        if self.stream and refusal:
            self.stream.refusals.append(refusal)
        return self._open(wish)

    @rule(target=watches, user=consumes(watches), reopens=REOPENS)
    def close(self, user: User, reopens: bool) -> User | MultipleResults[User]:
        """Close a watch, and reopen it at its bookmark, as a restarted program does."""
        if user.subscription not in self.users:
            return multiple()
        self._close(user)
        if not reopens or isinstance(user.error, HistoryLostError):
            # A bookmark of lost history is invalid.
            return multiple()
        again = self._open(user.wish, user.bookmark)
        again.cluster, again.first, again.log = user.cluster, user.first, user.log
        return again

    @rule(user=watches, times=st.integers(1, 2), merge=st.booleans())
    def consume(self, user: User, times: int, merge: bool) -> None:
        for _ in range(times if user.subscription in self.users else 0):
            self._consume(user, merge=merge)

    # Events of the connection

    @precondition(lambda self: self.stream is None)
    @rule(
        version=st.sampled_from(VERSIONS),
        behind=BEHIND,
        elsewhere=st.sampled_from([False] * 5 + [True]),
        size=SIZE,
    )
    def connect(
        self, version: Version, behind: int, elsewhere: bool, size: int
    ) -> None:
        self._connect(version, behind, elsewhere=elsewhere, size=size)

    @precondition(lambda self: self.stream is None)
    @rule(lost=st.integers(1, 4), version=st.sampled_from(VERSIONS))
    def lose_history(self, lost: int, version: Version) -> None:
        """Restore the cluster from an older backup; the session notices it at once."""
        self.cluster.lose(lost)
        newest = self.cluster.revision
        self._connect(version, 0, elsewhere=self.cluster is self.clusters[1], size=10)
        self._ask_all(races=False)
        self._receive_each(sys.maxsize)
        behind = {
            user
            for user in self.users.values()
            if user.reported > newest and not user.error and user not in self.expelled
            if user.cluster is self.cluster
            if user.subscription.state is not self.core.state.PARKED
        }
        failed = set()
        for delivery in self.session.prove(newest, self.session.unproved):
            user, item = self.users[delivery.subscription], delivery.item
            # lost_history_found, reported_by_the_cluster_only
            assert isinstance(item, HistoryLostError)
            assert (item.expected, item.actual) == (user.reported, newest)
            user.error = item
            failed.add(user.subscription)
        # lag_is_no_loss
        assert failed == {user.subscription for user in behind}
        self._look()
        # Others did not notice, or are reopened, or have failed: bookmarks are invalid.
        for user in [u for u in self.users.values() if u.cluster]:
            if max(user.reported, user.bookmark - 1) > newest:
                self._close(user)

    @connected
    @rule(
        after=st.integers(0, 8),
        then=st.sampled_from(["back"] * 5 + ["down", "elsewhere"]),
        version=st.sampled_from(VERSIONS),
        behind=BEHIND,
        size=SIZE,
    )
    def disconnect(
        self, after: int, then: str, version: Version, behind: int, size: int
    ) -> None:
        """Lose the connection in the middle of the events of one transaction."""
        assert self.stream
        if after:
            # The first response may be too large; the second is then in fragments.
            for count in sys.maxsize, after:
                self._ask_all(races=False)
                self.stream.sync()
                self.cluster.commit(dict.fromkeys(KEYS, True))
                self.stream.apply(self.cluster.revision)
                self._receive_each(count)
        elsewhere = (self.cluster is self.clusters[1]) != (then == "elsewhere")
        self._disconnect()
        if then != "down":
            self._connect(version, behind, elsewhere=elsewhere, size=size)

    @connected
    @rule(
        count=st.integers(0, 3),
        races=st.booleans(),
        picks=st.lists(st.booleans(), min_size=1, max_size=5),
        asks_progress=st.booleans(),
    )
    def exchange_some(
        self, count: int, races: bool, picks: list[bool], asks_progress: bool
    ) -> None:
        """Handle a few requests, and receive a few replies."""
        assert self.stream
        self.stream.apply(1)
        if asks_progress:
            self.session.request_progress()
        self._pull()
        for _ in range(min(count, len(self.outbox))):
            self._ask(races=races)
        messages = [self.stream.send(control_first=pick) for pick in picks]
        self._receive([message for message in messages if message is not None])

    @connected
    @rule(races=st.booleans(), progress=st.sampled_from(["asked", "tick", "none"]))
    def exchange(self, races: bool, progress: str) -> None:
        """Handle all requests, and receive all replies."""
        assert self.stream
        if progress == "asked":
            self.session.request_progress()
        self._prove()
        self._ask_all(races=races)
        self.stream.sync()
        if races:
            # Another write gives a watch two responses in one read.
            self.cluster.commit({b"b": True})
            self.stream.apply(self.cluster.revision)
        if progress == "tick":
            self.stream.tick()
        messages = []
        while message := self.stream.send(control_first=False):
            messages.append(message)
        self._receive(messages)

    def teardown(self) -> None:
        # It is skipped after a failure, and where Hypothesis has stopped the run.
        if sys.exc_info()[0] is None and self.users:
            self._settle()
            # Commits reach the watches that start in the future or were silenced.
            future = max(user.spec.start_revision for user in self.users.values())
            for _ in range(max(1, future - self.cluster.revision)):
                self.cluster.commit(dict.fromkeys(KEYS, True))
            self._settle()
            self._check_settled()
            for user in list(self.users.values()):
                self._close(user)
            self._settle()
            assert self.stream
            assert not self.stream.watchers

    # The steps

    def _connect(
        self, version: Version, behind: int, *, elsewhere: bool, size: int
    ) -> None:
        self.cluster = self.clusters[elsewhere]
        self.version = version
        applied = max(1, self.cluster.revision - behind)
        self.stream = Stream(
            self.cluster,
            version,
            applied,
            fragment_events=size,
            token_expired=self.no_token_is_good,
        )
        self.session.connect()
        for user in self.expelled:
            self.session.adopt(user.subscription)
            # It is now the last in the session's order, too.
            self.users[user.subscription] = self.users.pop(user.subscription)
        self.expelled.clear()
        self._look()

    def _disconnect(self) -> None:
        self.stream = None
        self.session.disconnect()
        assert not self.session.has_requests
        self.creating.clear()
        self.outbox.clear()
        self.awaiting.clear()
        self._look()

    def _open(self, wish: Wish, start_revision: int | None = None) -> User:
        if start_revision is None:
            start = wish.start
            newest = self.cluster.revision
            start_revision = 0 if start is None else max(1, newest + start)
        spec = wish.spec(self.core, start_revision)
        subscription = self.session.open(spec)
        user = User(
            wish,
            spec,
            subscription,
            Interest(spec.key, spec.range_end, spec.no_put, spec.no_delete),
            seen=self.core.state.RESUMING,
            next_revision=start_revision,
            bookmark=start_revision,
        )
        self.users[subscription] = user
        self._look()
        return user

    def _close(self, user: User) -> None:
        self.session.close(user.subscription)
        if user in self.expelled:
            self.expelled.remove(user)
        del self.users[user.subscription]

    def _consume(self, user: User, *, merge: bool) -> None:
        consumed, size = user.consume(merge=merge)
        if consumed:
            self.session.take(user.subscription, consumed, size)
        self._look()

    def _look(self, *first: Subscription) -> None:
        """After each call, note which watches, in turn, the session begins to create."""
        states = self.core.state
        for user in [*map(self.users.__getitem__, first), *self.users.values()]:
            state = user.subscription.state
            if state is states.CREATING and user.seen is not states.CREATING:
                self.creating.append((user, user.next_revision))
            if user.seen is states.PARKED and state is not states.PARKED:
                # woken_at_half, and not before.
                assert user.unread_events * 2 <= user.spec.max_buffered_events
            user.seen = state

    def _pull(self) -> None:
        """Move the session's requests to the outbox, and compare the creations."""
        for request in self.session.requests():
            decoded = pb.WatchRequest.FromString(request)
            if not decoded.HasField("create_request"):
                self.outbox.append((request, None))
                continue
            # resumed_at_once, replies_matched: in the order of the queue, and from the
            # next revision (creation_moves_nothing).
            assert self.creating, "a creation that is not due"
            user, start = self.creating.popleft()
            filters = []
            if user.spec.no_put:
                filters.append(pb.WatchCreateRequest.NOPUT)
            if user.spec.no_delete:
                filters.append(pb.WatchCreateRequest.NODELETE)
            assert decoded.create_request == pb.WatchCreateRequest(
                key=user.spec.key,
                range_end=user.spec.range_end,
                start_revision=start,
                prev_kv=user.spec.prev_kv,
                filters=filters,
                # fragments_on_demand, progress_always
                fragment=user.splits,
                progress_notify=True,
            )
            self.outbox.append((request, user))
        assert not self.creating, "a creation was not sent"

    def _ask(self, *, races: bool) -> None:
        """Let the server handle one request; a race is a put during the handling."""
        assert self.stream
        if races:
            self.cluster.commit({b"b": True})
        request, user = self.outbox.popleft()
        if user:
            self.awaiting.append(user)
        handled = self.stream.handle(request, racing=self.cluster.revision * races)
        if handled.HasField("cancel_request"):
            watch_id = handled.cancel_request.watch_id
            assert 0 <= watch_id < self.stream.created, "canceled an id that never was"
            # live_ids_only
            assert self.stream.cancels[watch_id] == 1, "canceled twice"

    def _ask_all(self, *, races: bool) -> None:
        self._pull()
        while self.outbox:
            self._ask(races=races)

    def _receive_each(self, count: int) -> None:
        """Hand over at most this number of messages, one in each read."""
        assert self.stream
        for _ in range(count):
            message = self.stream.send(control_first=False)
            if message is None:
                break
            self._receive([message])

    def _receive(self, messages: list[pb.WatchResponse]) -> None:
        """Hand over the messages of one read, as `_stream` does."""
        assert self.stream
        read = [
            Oversized(MAX_MESSAGE_SIZE + 1, message.SerializeToString()[:64])
            if self.stream.is_too_large(message)
            else message.SerializeToString()
            for message in messages
        ]
        # The session splits a read into the same batches; here each is checked alone.
        for batch in split_batches(read):
            if isinstance(batch, Oversized):
                self._receive_oversized(batch)
                continue
            raw = decode((alone := batch if isinstance(batch, list) else [batch])[-1])
            owner, expected = self._expect(raw)
            got = 0
            for delivery in self.session.receive_messages(alone, NOW):
                got += 1
                self._deliver(delivery, raw, owner)
            for subscription in self.session.expelled():
                self._check_expelled(raw, subscription, owner)
            self._look()
            if raw.created and raw.canceled:
                # A refusal silences the watch that has its id.
                assert raw.watch_id not in self._live()
            if raw.created and not raw.canceled:
                self._check_confirmed(raw, owner)
            assert expected is None or got == expected, "a delivery is missing"

    def _receive_oversized(self, oversized: Oversized) -> None:
        """Check that an oversized response is requested again, in fragments."""
        watch_id = watch_id_of_head(oversized.head)
        owner = self._live().get(watch_id)
        assert not list(self.session.receive_messages([oversized], NOW))
        if owner:
            assert not owner.splits
            owner.splits = True
        self._look()

    def _prove(self) -> None:
        """Prove the history: report the newest revision of the intact cluster."""
        if doubtful := self.session.unproved:
            # One that was parked until after the reconnect is later here than in `users`.
            assert not self.session.prove(self.cluster.revision, doubtful)
            self._look(*doubtful)

    def _live(self) -> dict[int, User]:
        return {
            user.subscription.live.watch_id: user
            for user in self.users.values()
            if user.subscription.state is self.core.state.LIVE
        }

    def _expect(self, raw: RawResponse) -> tuple[User | None, int | None]:
        """Return the user that a message is for (None: not one live watch), and how
        many deliveries it makes (None: this depends on the events)."""
        live = self._live()
        if raw.created:
            first = self.awaiting.popleft()
            if first.subscription not in self.users or first.error:
                return None, 0
            # A creation is delivered the first time, and if it fails.
            may_be_expelled = raw.canceled and self.can_authenticate
            return first, None if first.confirmed or may_be_expelled else 1
        if raw.watch_id == NO_ID:
            revision = raw.header.revision
            vouched = [
                user
                for user in live.values()
                if user.created_revision < revision or user.next_revision > revision
            ]
            return None, len(vouched)
        owner = live.get(raw.watch_id)
        if owner is None:
            return None, 0
        return owner, None if raw.events else 1

    # Checks

    def _deliver(
        self, delivery: Delivery, raw: RawResponse, owner: User | None
    ) -> None:
        assert self.stream
        user = self.users.get(delivery.subscription)
        assert user, "delivered to a closed watch"
        assert owner is user or raw.watch_id == NO_ID
        assert user.error is None, "nothing follows an error"
        item, before, now = delivery.item, user.next_revision, delivery.next_revision
        header = raw.header.revision
        events: Sequence[Event] = ()
        if isinstance(item, WatchError):
            self._check_error(user, item, raw)
            assert now == before
            user.error = item
            return
        if raw.created:
            # Only once for each watch: exact_start, creation_moves_nothing.
            assert not user.confirmed
            assert item is not None
            user.confirmed = True
            user.reported = header
            assert now == (user.spec.start_revision or header + 1)
            if user.cluster is not self.cluster:
                # The log begins here: a bookmark of another cluster is invalid.
                user.cluster, user.first, user.log = self.cluster, now, []
                user.vouched = 0
            user.next_revision = user.bookmark = now
            return
        if raw.events:
            # events_move: what counts is the last event; whole_revisions.
            assert item is not None
            events = list(item.events)
            assert now == events[-1].kv.mod_revision + 1
            # bookmarkable: an earlier bookmark stays valid.
            assert events[0].kv.mod_revision > user.vouched
            user.reported = max(user.reported, now - 1)
        elif raw.watch_id == NO_ID:
            # answers_move_nothing, answers_not_overtaking
            assert item is not None
            assert now == before
            user.answers += 1
            if not self.version.answers_progress_at_once:
                user.vouched = max(user.vouched, header)
        else:
            # own_progress_moves: after revision R, no event up to R follows.
            assert (item is not None) == user.spec.progress_notify
            assert now == max(before, header + 1)
            user.reported = max(user.reported, header)
            user.vouched = max(user.vouched, header)
        # never_backwards. The events are filtered, ordered, unique, reliable, and
        # atomic, since no revision is split between two deliveries.
        assert delivery.events == len(events)
        assert now >= before
        user.check_owed(events, before, now - 1)
        user.next_revision = now
        if item is not None:
            user.unread.append((events, now, delivery.size))
        elif user.unread:
            events_before, _, size = user.unread[-1]
            user.unread[-1] = events_before, now, size
        else:
            user.bookmark = now
        if events:
            # bounded_memory: at most the bound and one response.
            largest = self.stream.watcher(raw.watch_id).largest
            assert user.unread_events <= user.spec.max_buffered_events + largest

    def _check_confirmed(self, raw: RawResponse, owner: User | None) -> None:
        """replies_matched: a reply is for the oldest creation without one."""
        if owner is None or owner.error:
            return
        owner.created_revision = raw.header.revision
        if raw.header.revision < owner.reported and (
            owner.subscription.state is self.core.state.RESUMING
        ):
            # The member is behind: nothing is delivered before the proof.
            assert self.session.unproved
            return
        owner.reported = max(owner.reported, raw.header.revision)
        assert owner.subscription.live.watch_id == raw.watch_id
        assert owner.cluster is self.cluster
        owner.refused = 0

    def _check_error(self, user: User, error: WatchError, raw: RawResponse) -> None:
        assert self.stream
        match error:
            case CompactedError():
                assert error.compact_revision == raw.compact_revision > 0
                # The next revision is compacted, unless the server forgot the start.
                watcher = self.stream.watcher(raw.watch_id)
                assert (
                    user.next_revision < self.cluster.compacted()
                    or watcher.start_forgotten
                )
                # received_first: all that it sent before is delivered.
                # compacted_id_freed is checked in _check_settled.
                assert watcher.group is Group.COMPACTED
                user.check_owed([], user.next_revision, watcher.next_revision - 1)
            case ClusterChangedError():
                assert raw.created
                # same_cluster
                assert user.cluster is not None
                assert error.expected == user.cluster.cluster_id
                assert error.actual == self.cluster.cluster_id != error.expected
            case AuthenticationError():
                assert raw.created
                assert raw.cancel_reason == INVALID_TOKEN
                # refused_tokens_bounded
                patience = MAX_REFUSED_TOKENS if self.can_authenticate else 0
                assert user.refused == patience
            case PermissionDeniedError():
                assert raw.created
                assert raw.cancel_reason == PERMISSION_DENIED
            case WatchCanceledError():
                assert raw.created
                assert error.reason == raw.cancel_reason == DUPLICATE_ID
            case _:
                raise AssertionError(f"nothing here leads to {error!r}")

    def _check_expelled(
        self, raw: RawResponse, subscription: Subscription, owner: User | None
    ) -> None:
        assert owner
        assert owner.subscription is subscription
        assert self.can_authenticate
        owner.refused += 1
        # own_token_trouble, refused_tokens_bounded
        assert owner.refused <= MAX_REFUSED_TOKENS
        self.expelled.append(owner)
        assert raw.created
        assert raw.canceled
        if raw.cancel_reason != INVALID_TOKEN:
            assert raw.cancel_reason == PERMISSION_DENIED
            assert self.version.refuses_under_id_0

    @invariant()
    def unread_is_counted_and_bounded(self) -> None:
        state = self.core.state
        for user in self.users.values():
            subscription, bound = user.subscription, user.spec.max_buffered_events
            assert subscription.unread == user.unread_events
            assert subscription.unread_bytes == user.unread_bytes
            if subscription.state is state.PARKED:
                # woken_at_half
                assert subscription.unread * 2 > bound
            elif subscription.state is not state.ENDED:
                # parked_at_bound, also across streams.
                assert subscription.unread <= bound

    @invariant()
    def states_are_true(self) -> None:
        state = self.core.state
        wanted = {
            user.subscription
            for user in self.users.values()
            if not user.error and user not in self.expelled
        }
        assert set(self.session.subscriptions) == wanted
        for user in self.users.values():
            subscription = user.subscription
            assert (subscription.state is state.ENDED) == (user.error is not None)
            # unread_survives, resumable: the cursor is after what was received, whether
            # it was consumed or not.
            assert subscription.cursor.next_revision == user.next_revision
            assert user.bookmark <= user.next_revision
            if self.stream is None:
                assert subscription.state not in (state.CREATING, state.LIVE)
            elif subscription.state is state.RESUMING:
                assert user in self.expelled or self.session.unproved

    def _settle(self) -> None:
        for _ in range(300):
            if self.expelled and self.stream:
                self._disconnect()
            if self.stream is None:
                elsewhere = self.cluster is self.clusters[1]
                self._connect(self.version, 0, elsewhere=elsewhere, size=1)
            assert self.stream
            self.stream.refusals.clear()
            self.no_token_is_good = self.stream.token_expired = False
            self.stream.apply(self.cluster.revision)
            self._ask_all(races=False)
            self.stream.sync()
            self._receive_each(sys.maxsize)
            self._prove()
            for user in self.users.values():
                while user.unread:
                    self._consume(user, merge=True)
            at_rest = not (self.session.has_requests or self.outbox or self.awaiting)
            if at_rest and self.stream.idle and not self.expelled:
                return
        raise AssertionError("it never comes to rest")

    def _check_settled(self) -> None:
        assert self.stream
        newest = self.cluster.revision
        users = [user for user in self.users.values() if not user.error]
        live = self._live()
        assert sorted(map(id, live.values())) == sorted(map(id, users))
        for user in users:
            # All events, whatever next_revision says, and across every reopening.
            user.check_owed(user.log, user.first, newest)
        # stream_state_dies, compacted_id_freed, silenced_recreated: the server holds
        # these watchers and no others, and each lets it vouch for the stream.
        assert self.stream.watchers.keys() == live.keys()
        self.stream.tick()
        self._receive_each(sys.maxsize)
        for user in users:
            assert user.next_revision == newest + 1
        answers = [user.answers + 1 for user in users]
        self.session.request_progress()
        self._ask_all(races=False)
        self._receive_each(sys.maxsize)
        assert [user.answers for user in users] == answers
