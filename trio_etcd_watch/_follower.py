"""Keeps a replica right: reads the range, follows it by a watch, and proves it.

One task reads the range, then follows it, and reads it again when the watch ends or the
copy is shown to be wrong (goes_on, read_again_if_in_doubt). It applies events as they
come and never waits for consumers. A second task proves the copy after each creation of
the watch that has history to catch up with (proof), since servers lose events there.
"""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import final

import trio

from ._backoff import MAX_DELAY, delays
from ._errors import (
    ClusterChangedError,
    CompactedError,
    FutureRevisionError,
    HistoryLostError,
    PermissionDeniedError,
    WatchCanceledError,
    WatchError,
)
from ._log import printable
from ._mapping import Snapshot
from ._outage import LineBudget
from ._reads import Reads
from ._replica import Check, Diverged, Replica, shown
from ._responses import ResponseHeader, WatchResponse
from ._snapshot import (
    MAX_KEYS,
    PagedRead,
    Range,
    check_of,
    count_request,
    newest_request,
    put_rows,
    read_pages,
)
from ._watch import Watch

logger = logging.getLogger("trio_etcd_watch")

PATIENCE = 1.0
"""Seconds that `sync()` waits for the events of a live watch before the range is read
again, which is always right."""

MAX_PATIENCE = 10.0
"""The bound of that wait in seconds if the watch is created again and again, and each
creation gives it more time."""

HURRY = 0.02
"""Seconds that `sync()` waits for events before it makes a read that costs more than a
count."""

MAX_PROOFS = 5
"""How many proofs `verify()` begins if the revision of each is compacted meanwhile."""

OpenWatch = Callable[[int], AbstractAsyncContextManager[Watch]]
"""Opens the watch of the range from a revision on. It delivers creation responses."""


@final
class Follower:
    """A replica, and the tasks that keep it right.

    Attributes:
        ready: set once there is a replica, and a watch that continues it.
        moved: where tasks wait for another state.
        resyncs: how often the range was read again.
        header: the header of the newest response.
        failure: the final error that ended the tasks; None before that.

    Args:
        keys: the range.
        reads: makes the reads.
        open_watch: opens the watch.
        lines: the watcher's budget of lines in the log.
    """

    def __init__(
        self, keys: Range, reads: Reads, open_watch: OpenWatch, lines: LineBudget
    ) -> None:
        self.ready: trio.Event = trio.Event()
        self.moved: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        self.resyncs: int = 0
        self.failure: Exception | None = None
        self._keys = keys
        self._reads = reads
        self._open_watch = open_watch
        self._lines = lines
        self._replica: Replica | None = None
        self._header: ResponseHeader | None = None
        self._proof_wanted = trio.Event()
        # The present watch, its scope, and why the last watch was given up.
        self._watch: Watch | None = None
        self._watching: trio.CancelScope | None = None
        self._doubt = ""
        # When the last watch ended, or lost its stream before that. It is used only
        # while there is no watch.
        self._unwatched_since = 0.0

    @property
    def replica(self) -> Replica:
        """The replica, once there is one."""
        assert self._replica is not None, "looked at before it is ready"
        return self._replica

    @property
    def header(self) -> ResponseHeader:
        """The header of the newest response, once there is one."""
        assert self._header is not None, "looked at before it is ready"
        return self._header

    @property
    def disconnected_since(self) -> float | None:
        """Since when there is no live watch; None while there is one."""
        if self._watch is None:
            return self._unwatched_since
        return self._watch.statistics().disconnected_since

    # The tasks

    async def follow(self, ended: Callable[[], None]) -> None:
        """Keep the replica right until a final error; then call `ended`.

        ends_in_the_error: the block raises `failure`.
        """
        waits = delays(random.random)
        next(waits)
        try:
            while True:
                lasted = False
                try:
                    await self._read()
                    began = trio.current_time()
                    why = await self._watch_once()
                    lasted = trio.current_time() - began > MAX_DELAY
                except (CompactedError, FutureRevisionError) as exc:
                    # This was raised by the read, after several tries.
                    why = str(exc)
                # paced
                self._warn("a mirror is read again: %s", printable(why))
                await trio.sleep(waits.send(lasted))
        except (WatchError, trio.ClosedResourceError) as exc:
            self.failure = exc
            ended()

    async def keep_proved(self) -> None:
        """Prove the replica whenever the watch has caught up with history."""
        while True:
            await self._proof_wanted.wait()
            self._proof_wanted = trio.Event()
            try:
                await self.sync()
                await self.verify()
            except WatchError as exc:
                # If it is final for the range, too, the other task gets it and fails.
                self._distrust(str(exc))
            except trio.ClosedResourceError:
                return

    async def _read(self) -> None:
        """Read the range, and replace the replica with it in one step."""
        self._take_over(await self._reads.snapshot(self._keys))

    @trio.lowlevel.enable_ki_protection
    def _take_over(self, snapshot: Snapshot) -> None:
        if self._header is not None:
            _check_cluster(self._header, snapshot.header)
        self._header = snapshot.header
        if self._replica is None:
            self._replica = Replica(snapshot)
            return
        self.resyncs += 1
        if changed := self._replica.replace(snapshot):
            key = shown(min(changed))
            self._warn("a mirror differed in %d keys, such as %s", len(changed), key)
        self.moved.unpark_all()

    async def _watch_once(self) -> str:
        """Apply the responses of one watch; return why the range must be read again."""
        try:
            with trio.CancelScope() as self._watching:
                # watch_continues
                start = self.replica.revision + 1
                async with self._open_watch(start) as watch:
                    self._watch = watch
                    async for response in watch:
                        self._take(watch, response)
        except PermissionDeniedError:
            # ends_in_the_error: a read would be denied, too.
            raise
        except (Diverged, WatchCanceledError, HistoryLostError) as exc:
            return str(exc)
        finally:
            # says_since_when
            since = self.disconnected_since
            self._unwatched_since = trio.current_time() if since is None else since
            self._watching = self._watch = None
        return self._doubt

    # A KeyboardInterrupt in between would leave a part of a response in the mapping.
    @trio.lowlevel.enable_ki_protection
    def _take(self, watch: Watch, response: WatchResponse) -> None:
        header, known = response.header, self.header
        _check_cluster(known, header)
        if not header.cluster_id:
            # made_up_headers_ignored: etcd's grpc-proxy makes up the header for a watch
            # that joins another one.
            header = known
        _check_term(known, header)
        if response.created and header.revision != self.replica.revision:
            # The server has history to send, and servers lose events there; or it lags,
            # or has lost history, which the read before the proof tells apart.
            self._proof_wanted.set()
        self.replica.apply(response.events)
        # Both events and progress move the resume point of the watch.
        self.replica.progressed(watch.next_revision - 1)
        self._header = header
        # entered_when_watched
        self.ready.set()
        self.moved.unpark_all()

    def _distrust(self, why: str) -> None:
        """Give up the present watch; without one, the range will be read anyway."""
        if self._watching is not None and not self._watching.cancel_called:
            self._doubt = why
            self._watching.cancel(reason=why)

    def _warn(self, line: str, *values: object) -> None:
        if self._lines.take(trio.current_time()):
            logger.warning(line, *values)

    # What users ask for

    async def sync(self) -> None:
        """Return once all that was committed before the call is applied: own_writes."""
        while not await self._sync_once():
            # The range was read again meanwhile, perhaps in another history.
            pass

    async def _sync_once(self) -> bool:
        resyncs = self.resyncs
        check = await self._check(count_request(self._keys), counted=True)
        with trio.move_on_after(HURRY):
            while self.resyncs == resyncs:
                if self._settle(check):
                    return True
                await self.moved.park()
        if self.resyncs == resyncs:
            request = newest_request(self._keys, self.replica.revision)
            check = await self._check(request, counted=False)
        revision, since = self.replica.revision, trio.current_time()
        while self.resyncs == resyncs:
            if self._settle(check):
                return True
            now = trio.current_time()
            if self.replica.revision > revision:
                revision, since = self.replica.revision, now
            with trio.move_on_at(min(now + PATIENCE, since + MAX_PATIENCE)) as scope:
                await self.moved.park()
            if scope.cancelled_caught:
                since = trio.current_time()
                if self._is_living():
                    self._distrust("the watch did not deliver what a read shows")
        return False

    async def _check(self, request: bytes, *, counted: bool) -> Check | None:
        """Make a read; return None if it does not continue the replica's history."""
        known = self.header
        accept = functools.partial(
            check_of, since=self.replica.revision, counted=counted
        )
        check = await self._reads.ask(request, accept)
        return check if self._continues(known, check.header) else None

    def _continues(self, known: ResponseHeader, header: ResponseHeader) -> bool:
        """Whether a read continues the history known before it: one_history."""
        try:
            _check_cluster(known, header)
            _check_term(known, header)
        except (ClusterChangedError, Diverged) as exc:
            # If it persists, the next read of the range raises it.
            self._distrust(str(exc))
            return False
        return True

    def _is_living(self) -> bool:
        """Whether the watch is live, so that events can come."""
        return self._watch is not None and self._watch.statistics().state == "live"

    def _settle(self, check: Check | None) -> bool:
        if check is None:
            return False
        behind = self.replica.revision < check.revision
        try:
            settled = self.replica.settle(check)
        except Diverged as exc:
            self._distrust(str(exc))
            return False
        if settled and behind:
            self._header = check.header
        return settled

    async def verify(self) -> bool:
        """Prove the replica right, or have the range read again.

        Returns:
            Whether the replica was right.
        """
        for _ in range(MAX_PROOFS):
            resyncs = self.resyncs
            right = await self._prove()
            if right:
                return True
            if right is False:
                break
            # The revision of the proof was compacted; continue with a newer one.
            await self.sync()
        else:
            self._distrust("the revision of the proof was compacted several times")
        while self.resyncs == resyncs:
            await self.moved.park()
        return False

    async def _prove(self) -> bool | None:
        """Return whether the replica is right; None if the proof does not count."""
        known, proof = self.header, self.replica.proof()
        read = PagedRead(
            self._keys,
            put_rows,
            revision=proof.revision,
            keys_only=True,
            above=proof.since,
            first_page=MAX_KEYS,
        )
        try:
            await read_pages(self._reads.ask, read)
            if not self._continues(known, read.answered):
                return False
            return self.replica.prove(proof, read.data, read.count) or None
        except CompactedError:
            return None
        except (ClusterChangedError, Diverged, FutureRevisionError) as exc:
            self._distrust(str(exc))
            return False


def _check_term(known: ResponseHeader, now: ResponseHeader) -> None:
    if now.raft_term < known.raft_term:
        raise Diverged(
            f"the raft term fell from {known.raft_term} to {now.raft_term}: the member "
            f"lags, or history was lost"
        )


def _check_cluster(known: ResponseHeader, now: ResponseHeader) -> None:
    if known.cluster_id and now.cluster_id and known.cluster_id != now.cluster_id:
        raise ClusterChangedError(known.cluster_id, now.cluster_id)
