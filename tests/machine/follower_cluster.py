"""A cluster in memory, as a `Follower` sees it: it answers reads, and serves watches.

A test decides what a watch delivers and when, so each fault is one line of the test.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import trio

from tests.machine.store import Store
from trio_etcd_watch import (
    CompactedError,
    KeyValue,
    Mirror,
    PermissionDeniedError,
    StatusCode,
    WatchResponse,
    WatchState,
)
from trio_etcd_watch._face import construct
from trio_etcd_watch._follower import Follower
from trio_etcd_watch._grpc.status import Status
from trio_etcd_watch._mapping import Snapshot
from trio_etcd_watch._outage import LineBudget
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._responses import decode
from trio_etcd_watch._snapshot import (
    PagedRead,
    Range,
    Reply,
    put_key_values,
    read_pages,
    snapshot_of,
)
from trio_etcd_watch._watch import WatchStatistics

T = TypeVar("T")

MAX_READS = 300
"""The number of reads from which on the code under test counts as looping."""

COMPACTED = Status(
    StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"
)
FUTURE = Status(
    StatusCode.OUT_OF_RANGE,
    "etcdserver: mvcc: required revision is a future revision",
)
DENIED = Status(StatusCode.PERMISSION_DENIED, "etcdserver: permission denied")


OpenMirror = Callable[[Follower], AbstractAsyncContextManager[Mirror]]


@dataclass(frozen=True, slots=True)
class Core:
    """The names that the scenarios use, from the real package or from a mutant."""

    follower: type[Follower]
    open_mirror: OpenMirror


class FakeWatch:
    """One watch of the range, as `Watch` shows it to a follower.

    Attributes:
        start: the revision at which it begins.
        state: the state that its statistics report.
        lost_at: the `disconnected_since` that its statistics report.
        closed: whether its block has ended.
    """

    def __init__(self, cluster: Cluster, start: int, header: pb.ResponseHeader) -> None:
        self.start = self.next_revision = start
        self.state: WatchState = "live"
        self.lost_at: float | None = None
        self.closed = False
        self._cluster = cluster
        # The first revision that has not been sent.
        self._unsent = start
        self._send, self._receive = trio.open_memory_channel[
            tuple[WatchResponse | Exception, int]
        ](math.inf)
        self.created = self._say(pb.WatchResponse(header=header, created=True), start)

    def __aiter__(self) -> FakeWatch:
        return self

    async def __anext__(self) -> WatchResponse:
        item, next_revision = await self._receive.receive()
        if isinstance(item, Exception):
            raise item
        self.next_revision = next_revision
        return item

    def statistics(self) -> WatchStatistics:
        return WatchStatistics(
            state=self.state,
            events_received=0,
            events_delivered=0,
            unread_events=0,
            lag=0,
            last_loss=None,
            disconnected_since=self.lost_at,
        )

    # What tests make it do

    def deliver(self, *lost: bytes, first: int = 0, last: int = 0) -> None:
        """Send the events of all unsent or these revisions, without the lost keys."""
        last = last or self._cluster.store.revision
        events = self._cluster.store.events(first or self._unsent, last)
        events = [event for event in events if event.kv.key not in lost]
        self._unsent = last + 1
        response = pb.WatchResponse(header=self._cluster.header(), events=events)
        self._say(response, events[-1].kv.mod_revision + 1)

    def progress(self, revision: int = 0) -> None:
        """Send a progress notification at this revision, or at the newest."""
        header = self._cluster.header(revision)
        self._unsent = header.revision + 1
        self._say(pb.WatchResponse(header=header), self._unsent)

    def resume(self, revision: int) -> None:
        """Deliver another creation, by a member that is at this revision."""
        header = self._cluster.header(revision)
        self._say(
            pb.WatchResponse(header=header, created=True), max(self._unsent, self.start)
        )

    def fail(self, error: Exception) -> None:
        """End the watch with this error."""
        self._send.send_nowait((error, 0))

    def _say(self, response: pb.WatchResponse, next_revision: int) -> WatchResponse:
        made = construct(WatchResponse, decode(response.SerializeToString()))
        self._send.send_nowait((made, next_revision))
        return made


Answer = Callable[[Reply], Awaitable[Reply]]


class Hold:
    """Holds the first reply back until it is released; later replies pass.

    Attributes:
        held: set once a reply is held back.
        release: set by the test to let it pass.
        error: raised in place of each reply, if not None.
    """

    def __init__(self) -> None:
        self.held = trio.Event()
        self.release = trio.Event()
        self.error: Exception | None = None

    async def __call__(self, reply: Reply) -> Reply:
        if not self.held.is_set():
            self.held.set()
            await self.release.wait()
        if self.error is not None:
            raise self.error
        return reply


def always(reply: Reply) -> Answer:
    """Make an answer that gives this reply to every read."""

    async def answer(_: Reply) -> Reply:
        await trio.lowlevel.checkpoint()
        return reply

    return answer


class Cluster(logging.Handler):
    """A store, the member that serves it, and a handler of the log.

    Attributes:
        answers: by the kind of a read, the function that its reply passes through.
        reads: the reads that were made: the time, the kind, and the request.
        watches: the watches that were opened.
        may_watch: an event; until it is set, opening a watch waits.
        member: the revision in the header of creations; 0 for the newest.
        made_up: whether creations have the empty header that a proxy makes up.
        lines: the lines that were logged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(b"b")
        self.cluster_id = self.raft_term = 1
        self.answers: dict[str, Answer] = {}
        self.reads: list[tuple[float, str, pb.RangeRequest]] = []
        self.watches: list[FakeWatch] = []
        self.refusals: list[Exception] = []
        self.may_watch = trio.Event()
        self.may_watch.set()
        self.member = 0
        self.made_up = False
        self.lines: list[str] = []
        self._budget = LineBudget()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def commit(self, **values: str | None) -> None:
        self.store.commit(
            {
                key.encode(): None if value is None else value.encode()
                for key, value in values.items()
            }
        )

    def header(self, revision: int = 0) -> pb.ResponseHeader:
        return pb.ResponseHeader(
            cluster_id=self.cluster_id,
            member_id=1,
            revision=revision or self.store.revision,
            raft_term=self.raft_term,
        )

    @property
    def watch(self) -> FakeWatch:
        """The watch that was opened last."""
        return self.watches[-1]

    @property
    def kinds(self) -> list[str]:
        """The kinds of the reads that were made, in order."""
        return [kind for _, kind, _ in self.reads]

    def follower(self, core: Core) -> Follower:
        return core.follower(
            Range(b"b", b"c"),
            cast("Any", self),
            cast("Any", self.open_watch),
            self._budget,
        )

    @asynccontextmanager
    async def mirror(self, core: Core) -> AsyncGenerator[Mirror]:
        async with core.open_mirror(self.follower(core)) as mirror:
            yield mirror

    async def ask(
        self,
        request: bytes,
        accept: Callable[[Reply], T],
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        """Make a read, as `Reads.ask()` does."""
        wanted = pb.RangeRequest.FromString(request)
        kind = kind_of(wanted)
        self.reads.append((trio.current_time(), kind, wanted))
        assert len(self.reads) <= MAX_READS, "it reads without end"
        await trio.lowlevel.checkpoint()
        if meanwhile is not None:
            meanwhile()
        reply = self._reply(wanted)
        if kind in self.answers:
            reply = await self.answers[kind](reply)
        return accept(reply)

    async def snapshot(self, keys: Range, revision: int = 0) -> Snapshot:
        """Read a range, as `Reads.snapshot()` does."""
        read = PagedRead(keys, put_key_values, revision=revision)
        await read_pages(self.ask, read)
        return snapshot_of(read)

    def _reply(self, request: pb.RangeRequest) -> Reply:
        revision = request.revision or self.store.revision
        if revision < self.store.compacted:
            return COMPACTED
        if revision > self.store.revision:
            return FUTURE
        kvs = [
            kv for kv in self.store.range(revision).values() if kv.key >= request.key
        ]
        response = pb.RangeResponse(header=self.header(), count=len(kvs))
        if request.sort_order == pb.RangeRequest.DESCEND:
            kvs.sort(key=lambda kv: kv.mod_revision, reverse=True)
        kvs = [kv for kv in kvs if kv.mod_revision >= request.min_mod_revision]
        if not request.count_only:
            response.more = 0 < request.limit < len(kvs)
            kvs = kvs[: request.limit or None]
            response.kvs.extend(as_message(kv, request.keys_only) for kv in kvs)
        return response.SerializeToString()

    @asynccontextmanager
    async def open_watch(self, start: int) -> AsyncGenerator[FakeWatch]:
        await self.may_watch.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        if start < self.store.compacted:
            raise compacted()
        header = self.header(self.member)
        if self.made_up:
            header = pb.ResponseHeader()
        watch = FakeWatch(self, start, header)
        self.watches.append(watch)
        try:
            yield watch
        finally:
            watch.closed = True


def kind_of(request: pb.RangeRequest) -> str:
    """The kind of a read: `list`, `proof`, `count` or `newest`."""
    if request.count_only:
        return "count"
    if request.sort_order:
        return "newest"
    return "proof" if request.revision else "list"


def as_message(kv: KeyValue, keys_only: bool) -> pb.KeyValue:
    return pb.KeyValue(
        key=kv.key,
        value=b"" if keys_only else kv.value,
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        version=kv.version,
    )


def canceled(reason: str) -> WatchResponse:
    """The response with which a server cancels a watch for this reason."""
    message = pb.WatchResponse(canceled=True, cancel_reason=reason)
    return construct(WatchResponse, decode(message.SerializeToString()))


def compacted() -> CompactedError:
    """The error of a watch whose start has been compacted."""
    reason = COMPACTED.message
    return CompactedError(
        "the required revision has been compacted",
        response=canceled(reason),
        reason=reason,
        compact_revision=9,
    )


def denied() -> PermissionDeniedError:
    """The error of a watch whose user may no longer read its range."""
    reason = DENIED.message
    return PermissionDeniedError(reason, response=canceled(reason), reason=reason)
