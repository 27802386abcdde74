"""The paged read: a range at exactly one revision, however large it is.

Sans-IO: what makes the calls is an argument. The first page is linearizable and fixes the
revision; each later page begins after the last key of the page before.

etcd 3.7 also has KV.RangeStream. For 100,000 keys of 100 bytes, on a busy machine, it took
0.8 of the time of pages and 0.6 of their CPU on the server, which is not worth more code.
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
"""Keys in the first page: few, as one value may have 1.5 MB and a page is built whole."""

MAX_KEYS = 100_000
"""The most keys in a page, and those in the first page of a read without values: for each
page the server walks over all the keys that remain. This many are decoded in 50 ms,
without a checkpoint."""

PAGE_BYTES = (8 if SPEEDUPS else 4) * 2**20
"""The size that later pages aim at. For each page the server counts all keys that remain
(10 ms per 100,000), so small pages are slow: 100,000 keys of 100 bytes took 1.5 s in pages
of 1,000 keys, and 0.4 s in pages of 10,000 or in one. Larger pages would keep the event
loop from other tasks for longer than about 50 ms, and leave less to decode while the
server prepares the next page."""

MAX_GROWTH = 100
"""By what factor the limit of keys may grow from page to page: later keys may be larger."""

MAX_STARTS = 5
"""How often one read may begin, if its revision is compacted during each attempt."""

page_read: ContextVar[Callable[[int, int], None] | None] = ContextVar(
    "page_read", default=None
)
"""Called by the reads of this context after each page, except that of a range that was
asked for whole, with the number of keys received and the number of keys in the range. The
command line shows these."""

Reply: TypeAlias = bytes | Status | Oversized
"""The reply of the server to a read."""

T = TypeVar("T")

_SIZE = re.compile(r"\((\d+) vs\. \d+\)")
"""How gRPC reports the size of a message, and the size that is allowed."""

_COMPACTED = "etcdserver: mvcc: required revision has been compacted"
_FUTURE = "etcdserver: mvcc: required revision is a future revision"


@dataclass(frozen=True, slots=True)
class Range:
    """The keys from `key` up to `range_end`, as in etcd's API."""

    key: bytes
    range_end: bytes


@final
class PagedRead(Generic[T]):
    """One read of a range: the next request, and what has been received.

    Attributes:
        data: the values by key, in key order. It is complete once `done`; until then the
            page received last is missing.
        header: the header of the first page.
        revision: the revision of `data`; 0 until the first page is received, unless a
            revision was given.
        count: the number of all keys in the range, including those that `above` excludes.
        received: how many keys have been received.
        done: whether the last page has been received.

    Args:
        keys: the range.
        put: adds to `data` what is to be kept of a page.
        revision: the revision to read at; 0 is the newest.
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
        # The key at which the next page begins.
        self._next = keys.key
        # The page received last, if it is not in `data` yet.
        self._page: RangePage | None = None

    @property
    def answered(self) -> ResponseHeader:
        """The header of the first page, once that has been received."""
        assert self.header is not None, "no page has come"
        return self.header

    def request(self, limit: int = 0) -> bytes:
        """Return the request for the next page; the same until a reply is received.

        Args:
            limit: ask for so many keys, whatever sizes have shown; 0 has no effect.
        """
        return pb.RangeRequest(
            key=self._next,
            range_end=self._keys.range_end,
            limit=limit or self._limit,
            revision=self.revision,
            keys_only=self._keys_only,
            min_mod_revision=self._above and self._above + 1,
        ).SerializeToString()

    def receive(self, reply: Reply) -> None:
        """Process the server's reply to the last request.

        Raises:
            StreamLost: a further attempt may succeed, perhaps at another endpoint.
            WatchError: no further attempt can succeed.
        """
        match reply:
            case bytes():
                self._add_page(reply)
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
        """Put the page received last into `data`, while the server prepares the next one.

        If this is not called, the page is put into `data` when the next one arrives.
        """
        if self._page is not None:
            page, self._page = self._page, None
            self._put(page, self.data)

    def _add_page(self, reply: bytes) -> None:
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
        # Not more keys than remain, so that the size of a page that is too large tells
        # how large its keys are.
        remaining = max(page.size, self.count - self.received)
        growing = min(self._limit * MAX_GROWTH, MAX_KEYS, remaining)
        self._limit = max(1, min(fitting, growing))

    def _check(self, page: RangePage) -> None:
        """Check that the page continues those before it."""
        # Without keys, its last key is empty, and comes before any other.
        if page.more and page.last_key < self._next:
            raise StreamLost("a page of a range does not advance")
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
        """Halve the limit of keys, or reduce it to what fits. A size of 0 is unknown."""
        if self._limit == 1:
            reason = f"{reason}; it has one key, from {shown(self._next)} on"
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, reason)
        fitting = self._limit // 2
        if size:
            # The bound is not known, but it is less than this size.
            self._page_bytes = min(self._page_bytes, size // 2)
            fitting = min(fitting, self._page_bytes * self._limit // size)
        self._limit = max(1, fitting)

    def _start_over(
        self,
        kind: type[CompactedError | FutureRevisionError],
        what: str,
        reason: str,
    ) -> None:
        """Start over at the newest revision, unless the user chose a revision.

        The revision that the first page fixed was compacted between two pages, or no
        longer exists because the cluster was restored from an older backup.
        """
        if self._wanted or self._starts == MAX_STARTS:
            raise _refusal(kind, f"revision {self.revision} {what}", reason)
        self._starts += 1
        self.data, self._page = {}, None
        self.header = None
        self.revision = self.count = self.received = 0
        self._next = self._keys.key


class Ask(Protocol):
    """Makes a unary call of `RANGE`, and retries it where that may help."""

    async def __call__(
        self,
        request: bytes,
        accept: Callable[[Reply], T],
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        """Return the result of `accept` for the reply. A checkpoint.

        A reply is a message, or a status that no further attempt can change.

        Args:
            request: the serialized request.
            accept: is given the reply; if it raises StreamLost, the call is retried.
            meanwhile: is called in each attempt, once the request has been sent.
        """


async def read_pages(ask: Ask, read: PagedRead[T]) -> None:
    """Read all pages. Cancellation leaves nothing behind.

    Raises:
        WatchError: the server refuses the read, or `ask` raises it.
    """
    show_progress = page_read.get()
    while not read.done:
        await ask(read.request(), read.receive, read.put)
        if show_progress is not None:
            show_progress(read.received, read.count)


def snapshot_of(read: PagedRead[KeyValue]) -> Snapshot:
    """Return what has been read, once it is done."""
    return construct(Snapshot, read.answered, read.revision, read.data, LIBRARY)


def put_key_values(page: RangePage, data: dict[bytes, KeyValue]) -> None:
    """Add what a snapshot keeps of a page."""
    page.put_into(data)


def put_rows(page: RangePage, data: dict[bytes, tuple[int, int]]) -> None:
    """Add what a proof compares; not the lease, which etcd 3.7 omits with keys_only."""
    data.update((key, row_of(kv)) for key, kv in page.key_values().items())


def count_request(keys: Range) -> bytes:
    """Return the cheap request for only the revision and the count."""
    return pb.RangeRequest(
        key=keys.key, range_end=keys.range_end, count_only=True
    ).SerializeToString()


def newest_request(keys: Range, since: int) -> bytes:
    """Return the request for the newest key put after `since`; the server walks for it."""
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
    """Return the result of a `count_request()` or a `newest_request()`.

    Args:
        reply: the reply of the server.
        since: the revision of the mapping when the request was sent.
        counted: whether it was a `count_request()`.

    Raises:
        StreamLost: a further attempt may succeed, perhaps at another endpoint.
        WatchError: no further attempt can succeed.
    """
    if isinstance(reply, Status):
        raise _error_of(reply)
    if isinstance(reply, Oversized):
        raise StreamLost(f"a reply of {reply.size} bytes is too large for a check")
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
    if not 0 < page.revision < MAX_REVISION:
        # No store has it, or the next event would have no revision.
        raise StreamLost(f"a read is answered at revision {page.revision}")
    return page


def _error_of(status: Status) -> Exception:
    if verdict_on(Call.READ, status) is not Verdict.FINAL:
        return StreamLost(f"the server answers a read with {status}")
    if status.code is StatusCode.PERMISSION_DENIED:
        return denial(status)
    return RpcError(status.code, status.message)


def denial(status: Status) -> Exception:
    """Return the error for a user who may not read the range."""
    return _refusal(PermissionDeniedError, status.message, status.message)


def is_too_large(reply: Status) -> bool:
    """Whether a server or proxy reports, in gRPC's own words, an oversized message."""
    return verdict_on(Call.READ, reply) is Verdict.TOO_LARGE


def _refusal(
    kind: type[CompactedError | FutureRevisionError | PermissionDeniedError],
    message: str,
    reason: str,
) -> Exception:
    """Return the error that a watch would raise for this reason."""
    response = WatchResponse._make(
        ResponseHeader(cluster_id=0, member_id=0, revision=0, raft_term=0),
        events=(),
        compact_revision=0,
        created=False,
        canceled=True,
        cancel_reason=reason,
    )
    if issubclass(kind, CompactedError):
        return kind(message, response=response, reason=reason, compact_revision=0)
    return kind(message, response=response, reason=reason)
