"""Makes values that a server would send, for unit tests of code that handles them.

Sans-IO. The factories fill in what a test does not specify, and refuse values that no
server sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trio_etcd_watch._arguments import as_bytes
from trio_etcd_watch._errors import CompactedError, PermissionDeniedError
from trio_etcd_watch._face import LIBRARY, construct
from trio_etcd_watch._mapping import Snapshot
from trio_etcd_watch._responses import (
    Event,
    EventType,
    KeyValue,
    ResponseHeader,
    WatchResponse,
)
from trio_etcd_watch._verdicts import error_of_cancel


def key_value(
    key: str | bytes,
    value: str | bytes = b"",
    *,
    mod_revision: int,
    create_revision: int | None = None,
    version: int | None = None,
    lease: int = 0,
) -> KeyValue:
    """Make a key with its value; by default one that was just created.

    Args:
        key: the key; a str is encoded as UTF-8.
        value: its value; a str is encoded as UTF-8.
        mod_revision: the revision of its last put.
        create_revision: the revision of its first put; by default the same.
        version: how many puts there were from the first to the last; by default 1, or 2
            if the two revisions differ.
        lease: the id of its lease; 0 is none.

    Raises:
        TypeError, ValueError: there can be no such key.
    """
    created = mod_revision if create_revision is None else create_revision
    puts = (1 if created == mod_revision else 2) if version is None else version
    _check_numbers(created, mod_revision, puts)
    return KeyValue._make(
        as_bytes("key", key),
        as_bytes("value", value),
        created,
        mod_revision,
        puts,
        lease,
    )


def put_event(
    key: str | bytes,
    value: str | bytes = b"",
    *,
    mod_revision: int,
    create_revision: int | None = None,
    version: int | None = None,
    lease: int = 0,
    prev_kv: KeyValue | None = None,
) -> Event:
    """Make the event of a put.

    Args:
        key: the key; a str is encoded as UTF-8.
        value: its value; a str is encoded as UTF-8.
        mod_revision: the revision of the put.
        create_revision: by default that of `prev_kv`; without one, this put creates the
            key.
        version: by default that of `prev_kv` plus one.
        lease: the id of its lease; 0 is none.
        prev_kv: the key before the put.

    Raises:
        TypeError, ValueError: there can be no such event.
    """
    if prev_kv is not None:
        _check_before(prev_kv, key, mod_revision)
        if create_revision is None:
            create_revision = prev_kv.create_revision
        if version is None and create_revision == prev_kv.create_revision:
            version = prev_kv.version + 1
    kv = key_value(
        key,
        value,
        mod_revision=mod_revision,
        create_revision=create_revision,
        version=version,
        lease=lease,
    )
    return Event._make(EventType.PUT, kv, prev_kv)


def delete_event(
    key: str | bytes, *, mod_revision: int, prev_kv: KeyValue | None = None
) -> Event:
    """Make the event of a deletion; its `kv` has only a key and a mod_revision.

    Raises:
        TypeError, ValueError: there can be no such event.
    """
    if prev_kv is not None:
        _check_before(prev_kv, key, mod_revision)
    kv = KeyValue._make(as_bytes("key", key), b"", 0, mod_revision, 0, 0)
    return Event._make(EventType.DELETE, kv, prev_kv)


def watch_response(
    *events: Event,
    revision: int | None = None,
    cluster_id: int = 1,
    member_id: int = 1,
    raft_term: int = 1,
    created: bool = False,
    canceled: bool = False,
    cancel_reason: str = "",
    compact_revision: int = 0,
) -> WatchResponse:
    """Make a response: with events, or a progress notification at `revision`.

    Args:
        events: the events, in order of revision.
        revision: the revision of the header; by default that of the last event, or 1
            without events, and 0 where the watch ends because of compaction.
        cluster_id: the cluster in the header.
        member_id: the member in the header.
        raft_term: the raft term in the header.
        created: whether the response confirms the creation of the watch.
        canceled: whether the response ends the watch.
        cancel_reason: the server's text.
        compact_revision: if not 0, the response ends the watch, because history now
            begins at this revision.

    Raises:
        ValueError: the events are not in order, or are newer than the header.
    """
    if revision is None and compact_revision:
        revision = 0
    newest = _revision_past(events, revision)
    return WatchResponse._make(
        ResponseHeader(cluster_id, member_id, newest, raft_term),
        events=events,
        compact_revision=compact_revision,
        created=created,
        canceled=canceled or bool(compact_revision),
        cancel_reason=cancel_reason,
    )


def snapshot(keys: Iterable[KeyValue], *, revision: int | None = None) -> Snapshot:
    """Make a snapshot of these keys.

    Args:
        keys: in any order, each once.
        revision: the snapshot's; by default the newest of the keys, or 1.

    Raises:
        ValueError: a key occurs twice, or is newer than the snapshot.
    """
    ordered = sorted(keys, key=lambda kv: kv.key)
    data = {kv.key: kv for kv in ordered}
    if len(data) < len(ordered):
        raise ValueError("keys must not contain a key twice")
    newest = max((kv.mod_revision for kv in data.values()), default=1)
    revision = newest if revision is None else revision
    if newest > revision:
        raise ValueError(f"revision must not be below {newest}, got {revision}")
    header = ResponseHeader(cluster_id=1, member_id=1, revision=revision, raft_term=1)
    return construct(Snapshot, header, revision, data, LIBRARY)


def compacted_error(compact_revision: int) -> CompactedError:
    """Make the error of a watch whose next revision is compacted."""
    error = error_of_cancel(watch_response(compact_revision=compact_revision))
    assert isinstance(error, CompactedError)
    return error


def permission_denied_error() -> PermissionDeniedError:
    """Make the error of a watch whose user may not read its range."""
    error = error_of_cancel(watch_response(canceled=True, cancel_reason=DENIED))
    assert isinstance(error, PermissionDeniedError)
    return error


DENIED = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
"""The cancel reason that etcd sends."""


def _check_numbers(created: int, mod_revision: int, puts: int) -> None:
    if not 0 < created <= mod_revision:
        raise ValueError(
            f"create_revision must be from 1 to mod_revision, got {created!r} for "
            f"{mod_revision!r}"
        )
    if puts < 1 or (puts == 1) != (created == mod_revision):
        raise ValueError(
            f"version must be 1 in the put that creates a key, and only there; got "
            f"{puts!r} for revisions {created} to {mod_revision}"
        )


def _revision_past(events: Sequence[Event], revision: int | None) -> int:
    revisions = [event.kv.mod_revision for event in events]
    if revisions != sorted(revisions):
        raise ValueError(f"events must be ordered by revision, got {revisions}")
    newest = revisions[-1] if revisions else 0
    if revision is None:
        return newest or 1
    if revision < newest:
        raise ValueError(
            f"revision must not be below that of an event, got {revision} for {newest}"
        )
    return revision


def _check_before(prev_kv: KeyValue, key: str | bytes, mod_revision: int) -> None:
    if prev_kv.key != as_bytes("key", key):
        raise ValueError(f"prev_kv must be of the same key, got {prev_kv.key!r}")
    if prev_kv.mod_revision >= mod_revision:
        raise ValueError(
            f"mod_revision must be above that of prev_kv, got {mod_revision} for "
            f"{prev_kv.mod_revision}"
        )
