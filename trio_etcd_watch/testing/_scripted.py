"""Provides an etcd in memory that does what a test commands, and watchers on it.

It needs no server, socket or clock, so it works with `autojump_clock`, too. The watcher
is the library's own; only the server is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, cast, final

import trio

from trio_etcd_watch._arguments import as_bytes
from trio_etcd_watch._grpc.status import Status, StatusCode, StreamLost
from trio_etcd_watch._opening import WatcherManager
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._responses import WatchResponse
from trio_etcd_watch._watcher import Watcher

from ._gateway import Delete, EtcdRequestError, Put
from ._memory import Link, MemoryCall, MemoryConnector
from ._store import Store

if TYPE_CHECKING:
    from trio_etcd_watch._connector import Connector

_FIRST_CLUSTER = 1


@final
class ScriptedEtcd:
    """An etcd in memory: like `Etcd`, but without a process, and with more commands.

    Its watchers are the library's own `Watcher`; only the server is simulated::

        etcd = ScriptedEtcd({"/config/limit": "5"})
        async with etcd.open_watcher() as watcher:
            ...  # run the code under test
            await etcd.put("/config/limit", "7")
            await etcd.compact(await etcd.revision())
            await etcd.kill()
            await etcd.start()

    Methods that both classes have do the same, so a test may change from one to the
    other. Nothing happens by itself: no progress notification comes unless the test
    sends it. A client that has lost its connection waits and tries again, as it does
    with a real server, so a test of that should use `autojump_clock`.
    `trio.testing.wait_all_tasks_blocked()` returns once watchers have handled all that
    was done here.

    There are no users, leases or members; `deny()` refuses reading, and `end_streams()`
    simulates any other failure.

    Args:
        keys: the keys at the beginning, each put in a revision of its own, from 2 on.
    """

    def __init__(self, keys: Mapping[str, str | bytes] | None = None) -> None:
        self._store = Store(_FIRST_CLUSTER)
        self._links: list[Link] = []
        self._down = False
        self._moved = trio.lowlevel.ParkingLot()
        for key, value in (keys or {}).items():
            self._store.commit({as_bytes("key", key): as_bytes("value", value)})

    def open_watcher(self) -> AbstractAsyncContextManager[Watcher]:
        """Open a watcher on this etcd, as `trio_etcd_watch.open_watcher()` does."""

        def connector_in(nursery: trio.Nursery) -> Connector:
            # It has all that a watcher uses of a connector; tests run with both.
            return cast("Connector", MemoryConnector(self._dial, nursery))

        return WatcherManager(connector_in)

    # Methods that `Etcd` has, too

    async def put(self, key: str | bytes, value: str | bytes) -> int:
        """Set a key, and return the revision of the put."""
        return await self.txn(Put(key, value))

    async def delete(self, key: str | bytes, *, prefix: bool = False) -> int:
        """Delete a key, or all that start with it; return the revision afterwards."""
        return await self.txn(Delete(key, prefix))

    async def txn(self, *operations: Put | Delete) -> int:
        """Do all operations in one revision, and return it; no key may occur twice."""
        await self._reach()
        changes: dict[bytes, bytes | None] = {}
        for each in operations:
            key = as_bytes("key", each.key)
            if isinstance(each, Put):
                fresh: dict[bytes, bytes | None] = {key: as_bytes("value", each.value)}
            else:
                keys = self._store.keys_from(key) if each.prefix else [key]
                fresh = dict.fromkeys(keys)
            if changes.keys() & fresh.keys():
                raise EtcdRequestError(
                    "etcdserver: duplicate key given in txn request",
                    StatusCode.INVALID_ARGUMENT,
                )
            changes |= fresh
        revision = self._store.commit(changes)
        self._push()
        return revision

    async def compact(self, revision: int, *, physical: bool = True) -> None:
        """Compact the history below a revision."""
        await self._reach()
        store = self._store
        if revision > store.revision:
            raise EtcdRequestError(
                "etcdserver: mvcc: required revision is a future revision",
                StatusCode.OUT_OF_RANGE,
            )
        if revision <= store.compacted:
            raise EtcdRequestError(
                "etcdserver: mvcc: required revision has been compacted",
                StatusCode.OUT_OF_RANGE,
            )
        store.compacted = revision

    async def revision(self) -> int:
        """Return the newest revision."""
        await self._reach()
        return self._store.revision

    async def kill(self) -> None:
        """Break every connection, and refuse new ones until `start()`."""
        await trio.lowlevel.checkpoint()
        self._down = True
        self.disconnect()

    async def start(self) -> None:
        """Serve again, with the same data."""
        await trio.lowlevel.checkpoint()
        if not self._down:
            raise RuntimeError("etcd is running")
        self._down = False

    # Methods that `Etcd` does not have

    def disconnect(self) -> None:
        """Break every connection; clients may reconnect at once."""
        links, self._links = self._links, []
        for link in links:
            link.lose("the scripted etcd broke the connection")

    def respond(self, response: WatchResponse) -> None:
        """Send a response that the test has made, and add its events to the history.

        Each watch gets the events that it has asked for. A response without events is a
        progress notification, or ends every watch if it is canceled.

        Raises:
            ValueError: the events are not newer than the newest revision.
        """
        store, events = self._store, response.events
        oldest = min((event.kv.mod_revision for event in events), default=None)
        if oldest is not None and oldest <= store.revision:
            raise ValueError(
                f"events must be above revision {store.revision}, got {oldest}"
            )
        if response.canceled or response.compact_revision:
            self._cancel(response)
            return
        store.add(events, max(store.revision, response.header.revision))
        self._push()
        if not events:
            self.notify_progress()

    def notify_progress(self) -> None:
        """Send a progress notification to each watch that asked for them."""
        for call in self._calls():
            for watch in call.watches.values():
                if watch.request.progress_notify and (
                    watch.next == self._store.revision + 1
                ):
                    call.respond(pb.WatchResponse(watch_id=watch.watch_id))

    def deny(self, prefix: str | bytes = "") -> None:
        """Refuse new watches and reads of any key with this prefix (no permission)."""
        self._store.deny(as_bytes("prefix", prefix))

    def allow(self) -> None:
        """Refuse nothing any more."""
        self._store.allow()

    def end_streams(self, code: StatusCode, message: str = "") -> None:
        """End all streams with a status like `etcdserver: no leader` (UNAVAILABLE)."""
        for call in self._calls():
            call.end(Status(code, message))

    def lose_history(self, revision: int) -> None:
        """Return to this revision, as a cluster that was restored from a backup."""
        self._store.forget(revision)
        self.disconnect()

    def change_cluster(self) -> None:
        """Become another cluster, without keys."""
        self._store = Store(self._store.cluster_id + 1)
        self.disconnect()

    @property
    def watches(self) -> int:
        """How many watches this etcd serves, including those of mirrors."""
        return sum(len(call.watches) for call in self._calls())

    async def wait_watched(self, count: int = 1) -> None:
        """Return once this etcd serves this many watches, or more. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while self.watches < count:
            await self._moved.park()

    # Internal

    async def _reach(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._down:
            raise ConnectionRefusedError("the scripted etcd is down")

    def _dial(self) -> Link:
        if self._down:
            raise StreamLost("the scripted etcd is down")
        self._links = [link for link in self._links if link.lost is None]
        link = Link(self._store, self._note_watches)
        self._links.append(link)
        return link

    def _calls(self) -> list[MemoryCall]:
        return [call for link in self._links for call in link.calls]

    def _note_watches(self) -> None:
        self._moved.unpark_all()

    def _push(self) -> None:
        for call in self._calls():
            call.push()

    def _cancel(self, response: WatchResponse) -> None:
        for call in self._calls():
            for watch_id in list(call.watches):
                message = pb.WatchResponse(
                    watch_id=watch_id,
                    canceled=True,
                    cancel_reason=response.cancel_reason,
                    compact_revision=response.compact_revision,
                )
                if response.compact_revision:
                    message.header.cluster_id = self._store.cluster_id
                del call.watches[watch_id]
                call.respond(message)
        self._note_watches()
