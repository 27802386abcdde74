"""Defines the calls of a watcher that take a range, and checks their arguments.

A wrong argument raises here, at the call; `_watcher` does the rest.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import Literal, Unpack, overload

import trio

from ._arguments import check_int, key_range
from ._channel import MetadataLike, metadata_pairs
from ._cursor import MAX_REVISION
from ._face import NoPublicConstructor
from ._grpc.metadata import Metadata
from ._mapping import Snapshot
from ._mirror import Mirror
from ._options import WatchOptions
from ._requests import (
    DEFAULT_MAX_BUFFERED_BYTES,
    WatchSpec,
    watch_spec,
)
from ._snapshot import Range
from ._watch import Watch


class RangeCalls(metaclass=NoPublicConstructor):
    """The base of `Watcher`: opens watches and mirrors, and reads snapshots.

    The overloads of a call differ only in the range: at most one of `prefix`,
    `range_end` and `from_key` may be given.
    """

    @abstractmethod
    def _open_watch(
        self, spec: WatchSpec, metadata: Metadata, require_leader: bool
    ) -> AbstractAsyncContextManager[Watch]:
        """Return the context manager of a watch."""

    @abstractmethod
    async def _read(self, keys: Range, revision: int, metadata: Metadata) -> Snapshot:
        """Read a range at a revision; 0 is the newest."""

    @abstractmethod
    def _open_mirror(
        self, keys: Range, metadata: Metadata
    ) -> AbstractAsyncContextManager[Mirror]:
        """Return the context manager of a mirror."""

    @overload
    def watch(
        self,
        key: str | bytes,
        *,
        prefix: bool = False,
        range_end: None = None,
        from_key: Literal[False] = False,
        **options: Unpack[WatchOptions],
    ) -> AbstractAsyncContextManager[Watch]: ...

    @overload
    def watch(
        self,
        key: str | bytes,
        *,
        prefix: Literal[False] = False,
        range_end: str | bytes | None = None,
        from_key: Literal[False] = False,
        **options: Unpack[WatchOptions],
    ) -> AbstractAsyncContextManager[Watch]: ...

    @overload
    def watch(
        self,
        key: str | bytes,
        *,
        prefix: Literal[False] = False,
        range_end: None = None,
        from_key: bool = False,
        **options: Unpack[WatchOptions],
    ) -> AbstractAsyncContextManager[Watch]: ...

    def watch(
        self,
        key: str | bytes,
        *,
        prefix: bool = False,
        range_end: str | bytes | None = None,
        from_key: bool = False,
        start_revision: int = 0,
        prev_kv: bool = False,
        no_put: bool = False,
        no_delete: bool = False,
        progress_notify: bool = False,
        created_notify: bool = False,
        require_leader: bool = False,
        metadata: MetadataLike = None,
        max_buffered_events: int = 10_000,
        max_buffered_bytes: int = DEFAULT_MAX_BUFFERED_BYTES,
    ) -> AbstractAsyncContextManager[Watch]:
        """Subscribe to a key, a prefix or a range.

        Entering returns once the server has confirmed the watch; while no endpoint
        answers it waits and retries, so bound it with `trio.fail_after()`. Leaving
        cancels the watch on the server, too. If entering or leaving is cancelled,
        nothing of the watch remains.

        Args:
            key: the key, or the start of the prefix or range; a str is encoded as
                UTF-8.
            prefix: watch every key that begins with `key`; with an empty `key`, all.
            range_end: watch every key from `key` up to, not including, this one.
            from_key: watch every key from `key` on; with an empty `key`, all.
            start_revision: the first revision wanted, in the past or the future; 0
                starts now, which means exactly after `created.header.revision`.
            prev_kv: fill in `Event.prev_kv`, the key before each change.
            no_put: leave out puts.
            no_delete: leave out deletes.
            progress_notify: deliver the server's progress notifications: after one at
                revision R, no event of R or below follows.
            created_notify: deliver the creation response as the first response.
            require_leader: fail with `NoLeaderError` when the member loses its leader;
                otherwise the watch continues on another member.
            metadata: metadata to send with the stream, in addition to the channel's.
                Watches with equal metadata and `require_leader` share a stream.
            max_buffered_events: how many events may wait for the user. Beyond this the
                watch is canceled on the server, and is created again where it stopped
                once half of them have been consumed.
            max_buffered_bytes: the same bound in bytes, as the server sent them.

        Raises:
            TypeError, ValueError: An argument is wrong; raised by the call, and the
                text names the argument.
            trio.ClosedResourceError: From entering: the watcher is closed.
            WatchCanceledError: From entering: the server refuses the watch; a subclass
                says why.
            RpcError: From entering: the server refuses the stream or the credentials.

        Recovery:
            A lost stream is opened again on the next endpoint, after growing delays of
            at most 3 s, and the watch resumes after the last event that it received. If
            the next revision has been compacted meanwhile, the watch delivers what it
            has received, and then raises `CompactedError`. If another cluster answers,
            it raises `ClusterChangedError`; if the cluster is behind what it has
            reported to the watch, `HistoryLostError`.
        """
        spec = watch_spec(
            key,
            prefix=prefix,
            range_end=range_end,
            from_key=from_key,
            start_revision=start_revision,
            prev_kv=prev_kv,
            no_put=no_put,
            no_delete=no_delete,
            progress_notify=progress_notify,
            created_notify=created_notify,
            max_buffered_events=max_buffered_events,
            max_buffered_bytes=max_buffered_bytes,
        )
        return self._open_watch(spec, metadata_pairs(metadata), bool(require_leader))

    @overload
    async def snapshot(
        self,
        key: str | bytes,
        *,
        prefix: bool = False,
        range_end: None = None,
        from_key: Literal[False] = False,
        revision: int = 0,
        metadata: MetadataLike = None,
    ) -> Snapshot: ...

    @overload
    async def snapshot(
        self,
        key: str | bytes,
        *,
        prefix: Literal[False] = False,
        range_end: str | bytes | None = None,
        from_key: Literal[False] = False,
        revision: int = 0,
        metadata: MetadataLike = None,
    ) -> Snapshot: ...

    @overload
    async def snapshot(
        self,
        key: str | bytes,
        *,
        prefix: Literal[False] = False,
        range_end: None = None,
        from_key: bool = False,
        revision: int = 0,
        metadata: MetadataLike = None,
    ) -> Snapshot: ...

    async def snapshot(
        self,
        key: str | bytes,
        *,
        prefix: bool = False,
        range_end: str | bytes | None = None,
        from_key: bool = False,
        revision: int = 0,
        metadata: MetadataLike = None,
    ) -> Snapshot:
        """Read a key, a prefix or a range as it was at exactly one revision.

        A watch with `start_revision=snapshot.revision + 1` continues it exactly. While
        no endpoint answers this waits and retries, so bound it with
        `trio.fail_after()`. A checkpoint; if it is cancelled, nothing of it remains.

        If the whole database of the server has at most 32 MiB (4 MiB without
        speedups), the range is read in one page of up to 100,000 keys; otherwise in
        pages of about 8 MiB (4 MiB), all of them at the revision of the first.

        Args:
            key: the key, or the start of the prefix or range; a str is encoded as
                UTF-8.
            prefix: read every key that begins with `key`; with an empty `key`, all.
            range_end: read every key from `key` up to, not including, this one.
            from_key: read every key from `key` on; with an empty `key`, all.
            revision: a past revision; 0 is the newest (linearizable: everything that
                was committed before the call is in it).
            metadata: metadata to send with the requests, in addition to the channel's.

        Raises:
            TypeError, ValueError: An argument is wrong; the text names it.
            trio.ClosedResourceError: The watcher is closed.
            CompactedError: The given revision has been compacted; or the newest one
                was, several times in a row, before all of its pages had come.
            FutureRevisionError: The given revision is ahead of the store.
            PermissionDeniedError: The user may not read the range.
            AuthenticationError: The credentials are refused.
            ClusterChangedError: Two clusters answered.
            RpcError: The server refuses the read; or a key with its value is larger
                than `max_message_size` (RESOURCE_EXHAUSTED).
        """
        keys = Range(
            *key_range(key, prefix=prefix, range_end=range_end, from_key=from_key)
        )
        check_int("revision", revision, low=0, high=MAX_REVISION)
        pairs = metadata_pairs(metadata)
        await trio.lowlevel.checkpoint()
        return await self._read(keys, revision, pairs)

    @overload
    def mirror(
        self,
        key: str | bytes,
        *,
        prefix: bool = False,
        range_end: None = None,
        from_key: Literal[False] = False,
        metadata: MetadataLike = None,
    ) -> AbstractAsyncContextManager[Mirror]: ...

    @overload
    def mirror(
        self,
        key: str | bytes,
        *,
        prefix: Literal[False] = False,
        range_end: str | bytes | None = None,
        from_key: Literal[False] = False,
        metadata: MetadataLike = None,
    ) -> AbstractAsyncContextManager[Mirror]: ...

    @overload
    def mirror(
        self,
        key: str | bytes,
        *,
        prefix: Literal[False] = False,
        range_end: None = None,
        from_key: bool = False,
        metadata: MetadataLike = None,
    ) -> AbstractAsyncContextManager[Mirror]: ...

    def mirror(
        self,
        key: str | bytes,
        *,
        prefix: bool = False,
        range_end: str | bytes | None = None,
        from_key: bool = False,
        metadata: MetadataLike = None,
    ) -> AbstractAsyncContextManager[Mirror]:
        """Keep a live copy of a key, a prefix or a range.

        Entering returns once the range has been read and its watch is confirmed; while
        no endpoint answers it waits and retries, so bound it with `trio.fail_after()`.
        If entering or leaving is cancelled, nothing of the mirror remains.

        Args:
            key: the key, or the start of the prefix or range; a str is encoded as
                UTF-8.
            prefix: mirror every key that begins with `key`; with an empty `key`, all.
            range_end: mirror every key from `key` up to, not including, this one.
            from_key: mirror every key from `key` on; with an empty `key`, all.
            metadata: metadata to send with the stream and the reads, in addition to the
                channel's.

        Raises:
            TypeError, ValueError: An argument is wrong; raised by the call, and the
                text names the argument.
            trio.ClosedResourceError: From entering: the watcher is closed.
            PermissionDeniedError, AuthenticationError, ClusterChangedError, RpcError:
                From the block, which is cancelled: an error that a retry cannot change.
                If the block raises as well, its exception is raised, with this one as
                its `__context__`.

        Recovery:
            A lost stream is handled as by `watch()`. If a watch would fail because
            history is compacted or lost, or if an event or a comparison shows that the
            copy is wrong, the range is read again, and consumers get the difference as
            one update with `resynced=True`.
        """
        keys = Range(
            *key_range(key, prefix=prefix, range_end=range_end, from_key=from_key)
        )
        return self._open_mirror(keys, metadata_pairs(metadata))
