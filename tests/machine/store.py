"""A store with its history: a range at each revision, and the events between them.

It keeps what is compacted, for tests to compare with. It can lose its newest revisions,
like a cluster that is restored from a backup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.wire import key_value_of
from trio_etcd_watch import Event, KeyValue, ResponseHeader
from trio_etcd_watch._face import LIBRARY, construct
from trio_etcd_watch._mapping import Snapshot
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._replica import Replica
from trio_etcd_watch._responses import decode


class Store:
    """All keys of a cluster; a replica covers the keys with a prefix.

    Attributes:
        compacted: the oldest revision that can still be read.
    """

    def __init__(self, prefix: bytes) -> None:
        self.compacted = 1
        self._prefix = prefix
        # The keys at each revision; revision 1 is the empty store.
        self._states: list[dict[bytes, pb.KeyValue]] = [{}]
        self._ranges: list[dict[bytes, KeyValue]] = [{}]
        self._events: list[list[pb.Event]] = [[]]
        self._lost: list[list[Any]] = []

    @property
    def revision(self) -> int:
        """The newest revision."""
        return len(self._states)

    def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Put the keys that have a value, delete the others, as one revision.

        Deleting a missing key changes nothing, and without a change there is no revision.
        """
        state = dict(self._states[-1])
        revision = self.revision + 1
        events = []
        for key, value in changes.items():
            old = state.pop(key, None)
            if value is not None:
                state[key] = pb.KeyValue(
                    key=key,
                    value=value,
                    mod_revision=revision,
                    version=old.version + 1 if old else 1,
                    create_revision=old.create_revision if old else revision,
                )
                events.append(pb.Event(type=pb.Event.PUT, kv=state[key]))
            elif old:
                gone = pb.KeyValue(key=key, mod_revision=revision)
                events.append(pb.Event(type=pb.Event.DELETE, kv=gone))
        if events:
            self._states.append(state)
            self._ranges.append(
                {
                    key: key_value_of(state[key])
                    for key in sorted(state)
                    if key.startswith(self._prefix)
                }
            )
            self._events.append(events)

    def forget(self, revision: int) -> None:
        """Lose all revisions after this one."""
        histories: list[list[Any]] = [self._states, self._ranges, self._events]
        self._lost = [history[revision:] for history in histories]
        for history in histories:
            del history[revision:]
        self.compacted = min(self.compacted, revision)

    def repeat(self) -> None:
        """Restore the revisions that were lost last, if none was added since."""
        histories: list[list[Any]] = [self._states, self._ranges, self._events]
        for history, lost in zip(histories, self._lost, strict=True):
            history += lost

    def range(self, revision: int) -> dict[bytes, KeyValue]:
        """The range at a revision, in key order."""
        return dict(self._ranges[revision - 1])

    def snapshot(self, revision: int = 0) -> Snapshot:
        """The snapshot that a read at this revision gives; 0 means the newest."""
        revision = revision or self.revision
        header, data = header_at(self.revision), self.range(revision)
        return construct(Snapshot, header, revision, data, LIBRARY)

    def rows(self, revision: int, since: int) -> dict[bytes, tuple[int, int]]:
        """The rows of a keys-only read of what changed after the revision `since`."""
        return {
            key: (kv.mod_revision, kv.version)
            for key, kv in self.range(revision).items()
            if kv.mod_revision > since
        }

    def events(self, first: int, last: int) -> list[pb.Event]:
        """The events of these revisions that a watch of the range should get."""
        return [
            event
            for events in self._events[first - 1 : last]
            for event in events
            if event.kv.key.startswith(self._prefix)
        ]


def header_at(revision: int) -> ResponseHeader:
    """The header of a response at this revision."""
    return ResponseHeader(cluster_id=1, member_id=1, revision=revision, raft_term=1)


def as_events(raw: Sequence[pb.Event]) -> Sequence[Event]:
    """The same events, as a watch delivers them."""
    return decode(pb.WatchResponse(events=raw).SerializeToString()).events


def store_of(**values: str) -> Store:
    """A store with these keys, all put at revision 2."""
    store = Store(b"")
    store.commit({key.encode(): value.encode() for key, value in values.items()})
    return store


def follow(replica: Replica, store: Store, *lost: int) -> bool:
    """Apply all new events as one response, without those at the positions `lost`."""
    raw = store.events(replica.revision + 1, store.revision)
    kept = [event for place, event in enumerate(raw) if place not in lost]
    return replica.apply(as_events(kept))
