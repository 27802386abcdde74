"""The paged read: a range at exactly one revision, however large it is.

Sans-IO: who makes the calls is an argument. The first page is linearizable and fixes the
revision; each other begins behind the last key of the one before.

etcd 3.7 also has KV.RangeStream. Of 100,000 keys of 100 bytes, on a busy machine, it took
0.8 of the time of pages and 0.6 of their CPU on the server: not enough for a second way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar, final

from ._cursor import MAX_REVISION
from ._errors import (
    ClusterChangedError,
    CompactedError,
    FutureRevisionError,
    PermissionDeniedError,
    RpcError,
)
from ._face import LIBRARY, construct
from ._grpc.messages import Oversized
from ._grpc.status import Status, StatusCode, StreamLost
from ._mapping import Snapshot
from ._pages import RangePage, decode_range
from ._pb import watch_pb2 as pb
from ._replica import Check, row_of, shown
from ._responses import SPEEDUPS, KeyValue, ResponseHeader, WatchResponse
from ._verdicts import Call, Verdict, verdict_on

RANGE = "/etcdserverpb.KV/Range"

FIRST_PAGE = 1_000
"""Keys of the first page: the server makes it up whole, and values may be 1.5 MB each."""

MAX_KEYS = 100_000
"""Keys of a page, and of the first page of a read of keys alone: each page is a walk of
the server over all that are left. So many are decoded in 50 ms, without a checkpoint."""

PAGE_BYTES = (8 if SPEEDUPS else 4) * 2**20
"""What the other pages should have. For each page the server counts all keys that are
left (10 ms per 100,000), so small ones cost more than they bring: 100,000 keys of 100
bytes took 1.5 s in pages of 1,000 keys, and 0.4 s in pages of 10,000 or in one. Larger
ones would keep the loop from other tasks for longer than some 50 ms, and leave less to be
decoded while the server makes up the next."""

MAX_GROWTH = 100
"""How many times as many keys as the last the next page may have: they may be larger."""

MAX_STARTS = 5
"""How often one read begins, if each time what it reads is compacted meanwhile."""

page_read: ContextVar[Callable[[int, int], None] | None] = ContextVar(
    "page_read", default=None
)
"""Told after each page how many keys have come, and how many there are in all: by the
reads of this context. For the command line, which shows it."""

Reply: TypeAlias = bytes | Status | Oversized
"""What the server says to a read."""

T = TypeVar("T")

_SIZE = re.compile(r"\((\d+) vs\. \d+\)")
"""As gRPC says that a message has so many bytes, and what it may have."""

_COMPACTED = "etcdserver: mvcc: required revision has been compacted"
_FUTURE = "etcdserver: mvcc: required revision is a future revision"


@dataclass(frozen=True, slots=True)
class Range:
    """The keys from `key` up to `range_end`, as etcd's API has them."""

    key: bytes
    range_end: bytes


@final
class PagedRead(Generic[T]):
    """One read of a range: what to ask for next, and what has come.

    Attributes:
        data: by key, in key order; whole once `done`, and without the last page before.
        header: of the first page.
        revision: that `data` is of; 0 until the first page has come.
        count: of all keys in the range, also where `above` leaves some out.
        received: how many keys have come.
        done: whether the last page has come.

    Args:
        keys: the range.
        put: puts what `data` holds of a page into it.
        revision: to read at; 0 is the newest.
        keys_only: leave out the values.
        above: leave out keys that were last put at this revision or before.
        first_page: how many keys to ask for first.
    """

    def __init__(
        self,
        keys: Range,
        put: Callable[[RangePage, dict[bytes, T]], None],
        *,
        revision: int = 0,
        keys_only: bool = False,
        above: int = 0,
        first_page: int = FIRST_PAGE,
    ) -> None:
        self.data: dict[bytes, T] = {}
        self.header: ResponseHeader | None = None
        self.revision = revision
        self.count = 0
        self.received = 0
        self.done = False
        self._keys = keys
        self._put = put
        self._wanted = revision
        self._keys_only = keys_only
        self._above = above
        self._limit = first_page
        self._page_bytes = PAGE_BYTES
        self._starts = 1
        # Where the next page begins.
        self._next = keys.key
        # The page that is not in `data` yet.
        self._page: RangePage | None = None

    @property
    def answered(self) -> ResponseHeader:
        """The header of the first page, once it has come."""
        assert self.header is not None, "no page has come"
        return self.header

    def request(self) -> bytes:
        """Return the request for the next page; the same until a page has come."""
        return pb.RangeRequest(
            key=self._next,
            range_end=self._keys.range_end,
            limit=self._limit,
            revision=self.revision,
            keys_only=self._keys_only,
            min_mod_revision=self._above and self._above + 1,
        ).SerializeToString()

    def receive(self, reply: Reply) -> None:
        """Take what the server says to the last request.

        Raises:
            StreamLost: ask again, perhaps elsewhere.
            WatchError: asking again, anywhere, cannot help.
        """
        match reply:
            case bytes():
                self._take(reply)
            case Oversized(size):
                self._shrink(
                    f"a response of {size} bytes is over max_message_size", size
                )
            case Status(_, message) if is_too_large(reply):
                found = _SIZE.search(message)
                self._shrink(message, int(found[1]) if found else 0)
            case Status(_, message) if message == _COMPACTED:
                self._start_over(CompactedError, "has been compacted", message)
            case Status(_, message) if message == _FUTURE:
                self._start_over(FutureRevisionError, "is in the future", message)
            case Status():
                raise _error_of(reply)

    def put(self) -> None:
        """Put the page that came last into `data`: while the server makes up the next.

        Else it is done when that comes.
        """
        if self._page is not None:
            page, self._page = self._page, None
            self._put(page, self.data)

    def _take(self, reply: bytes) -> None:
        page = _page_of(reply)
        self._check(page)
        self.put()
        if self.header is None:
            self.header = page.header
            self.revision = self.revision or page.revision
            self.count = page.count
        self._page = page
        self.received += page.size
        self.done = not page.more
        if self.done:
            self.put()
            return
        self._next = page.last_key + b"\0"
        fitting = self._page_bytes * page.size // len(reply)
        # Not more than are left, so that one page too large tells how large they are.
        left = max(page.size, self.count - self.received)
        growing = min(self._limit * MAX_GROWTH, MAX_KEYS, left)
        self._limit = max(1, min(fitting, growing))

    def _check(self, page: RangePage) -> None:
        """See that the page belongs to those before it."""
        if page.more and (not page.size or page.last_key < self._next):
            raise StreamLost("a page of a range leads nowhere")
        if self.header is None:
            return
        known, actual = self.header.cluster_id, page.cluster_id
        if known and actual and known != actual:
            raise ClusterChangedError(known, actual)
        if page.revision < self.revision:
            raise StreamLost(
                f"a page is of revision {page.revision}, and not {self.revision}"
            )

    def _shrink(self, reason: str, size: int) -> None:
        """Ask for half as many keys, or for as many as fit; a size of 0 is not known."""
        if self._limit == 1:
            reason = f"{reason}; it has one key, from {shown(self._next)} on"
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, reason)
        fitting = self._limit // 2
        if size:
            # Whatever the bound may be, it is less than this.
            self._page_bytes = min(self._page_bytes, size // 2)
            fitting = min(fitting, self._page_bytes * self._limit // size)
        self._limit = max(1, fitting)

    def _start_over(
        self,
        kind: type[CompactedError | FutureRevisionError],
        what: str,
        reason: str,
    ) -> None:
        """Begin anew at the newest revision, unless the user chose one.

        Of a revision that the server gave itself: it was compacted between two pages,
        or is gone with the history of a cluster that was set back.
        """
        if self._wanted or self._starts == MAX_STARTS:
            raise _refusal(kind, f"revision {self.revision} {what}", reason)
        self._starts += 1
        self.data, self._page = {}, None
        self.header = None
        self.revision = self.count = self.received = 0
        self._next = self._keys.key


class Ask(Protocol):
    """Makes a unary call of `RANGE`, and tries again what can be mended so."""

    async def __call__(
        self,
        request: bytes,
        accept: Callable[[Reply], T],
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        """Return what `accept` makes of the reply; its StreamLost means another try.

        `meanwhile` is called once the request is on its way; at each try.

        A checkpoint. A reply is a message, or a status that no other try can mend.
        """


async def read_pages(ask: Ask, read: PagedRead[T]) -> None:
    """Read all pages. Cancellation leaves nothing behind.

    Raises:
        WatchError: the server refuses it, or what `ask` raises.
    """
    told = page_read.get()
    while not read.done:
        await ask(read.request(), read.receive, read.put)
        if told is not None:
            told(read.received, read.count)


def snapshot_of(read: PagedRead[KeyValue]) -> Snapshot:
    """Return what has been read, once it is done."""
    return construct(Snapshot, read.answered, read.revision, read.data, LIBRARY)


def put_key_values(page: RangePage, data: dict[bytes, KeyValue]) -> None:
    """Put what a snapshot holds."""
    page.put_into(data)


def put_rows(page: RangePage, data: dict[bytes, tuple[int, int]]) -> None:
    """Put what a proof compares. Not the lease: etcd 3.7 leaves it out of keys_only."""
    data.update((key, row_of(kv)) for key, kv in page.key_values().items())


def count_request(keys: Range) -> bytes:
    """Return the request that tells the revision and the count, and is cheap."""
    return pb.RangeRequest(
        key=keys.key, range_end=keys.range_end, count_only=True
    ).SerializeToString()


def newest_request(keys: Range, since: int) -> bytes:
    """Return the request for the newest key put after `since`; a walk of the server."""
    return pb.RangeRequest(
        key=keys.key,
        range_end=keys.range_end,
        min_mod_revision=since + 1,
        limit=1,
        keys_only=True,
        sort_order=pb.RangeRequest.DESCEND,
        sort_target=pb.RangeRequest.MOD,
    ).SerializeToString()


def check_of(reply: Reply, since: int, *, counted: bool) -> Check:
    """Return what the reply to one of these requests tells.

    Args:
        reply: as it came.
        since: the revision of the mapping when it was sent.
        counted: whether the request was for the count alone.

    Raises:
        StreamLost: ask again, perhaps elsewhere.
        WatchError: asking again, anywhere, cannot help.
    """
    if isinstance(reply, Status):
        raise _error_of(reply)
    if isinstance(reply, Oversized):
        raise StreamLost(f"{reply.size} bytes are no answer to a check")
    page = _page_of(reply)
    return Check(
        since=since,
        header=page.header,
        count=page.count,
        newest=None if counted else _newest(page),
    )


def _newest(page: RangePage) -> int:
    return max((kv.mod_revision for kv in page.key_values().values()), default=0)


def _page_of(reply: bytes) -> RangePage:
    page = decode_range(reply)
    if not 0 <= page.revision < MAX_REVISION:
        # There would be no revision for the next event.
        raise StreamLost(f"a read is answered at revision {page.revision}")
    return page


def _error_of(status: Status) -> Exception:
    if verdict_on(Call.READ, status) is not Verdict.FINAL:
        return StreamLost(f"the server answers a read with {status}")
    if status.code is StatusCode.PERMISSION_DENIED:
        return denial(status)
    return RpcError(status.code, status.message)


def denial(status: Status) -> Exception:
    """Return the error of who may not read the range."""
    return _refusal(PermissionDeniedError, status.message, status.message)


def is_too_large(reply: Status) -> bool:
    """Whether a server or proxy says, in gRPC's own words, that a message is too large."""
    return verdict_on(Call.READ, reply) is Verdict.TOO_LARGE


def _refusal(
    kind: type[CompactedError | FutureRevisionError | PermissionDeniedError],
    message: str,
    reason: str,
) -> Exception:
    """Return the error that a watch raises for the same reason."""
    response = WatchResponse._make(
        ResponseHeader(cluster_id=0, member_id=0, revision=0, raft_term=0),
        canceled=True,
        cancel_reason=reason,
    )
    if issubclass(kind, CompactedError):
        return kind(message, response=response, reason=reason, compact_revision=0)
    return kind(message, response=response, reason=reason)
