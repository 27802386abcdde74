"""A store with its history: what a range was at each revision, and what led there.

It never forgets, so that tests can compare. It can lose its newest revisions, as a
cluster does that is restored from a backup.
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
    """All keys; the range that a replica covers are those with a prefix.

    Attributes:
        compacted: the oldest revision that can still be read.
    """

    def __init__(self, prefix: bytes) -> None:
        self.compacted = 1
        self._prefix = prefix
        # By revision, from 1 on, which is an empty store.
        self._states: list[dict[bytes, pb.KeyValue]] = [{}]
        self._ranges: list[dict[bytes, KeyValue]] = [{}]
        self._events: list[list[pb.Event]] = [[]]
        self._lost: list[list[Any]] = []

    @property
    def revision(self) -> int:
        """The newest."""
        return len(self._states)

    def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Put the keys that have a value, delete the others, as one revision.

        Deleting what is not there changes nothing; nothing at all is no revision.
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
        """Lose what came after this revision."""
        histories: list[list[Any]] = [self._states, self._ranges, self._events]
        self._lost = [history[revision:] for history in histories]
        for history in histories:
            del history[revision:]
        self.compacted = min(self.compacted, revision)

    def repeat(self) -> None:
        """Do again what was lost last, if nothing was done since: just the same."""
        histories: list[list[Any]] = [self._states, self._ranges, self._events]
        for history, lost in zip(histories, self._lost, strict=True):
            history += lost

    def range(self, revision: int) -> dict[bytes, KeyValue]:
        """The range at a revision, in key order."""
        return dict(self._ranges[revision - 1])

    def snapshot(self, revision: int = 0) -> Snapshot:
        """The range at a revision, or at the newest, as it is read."""
        revision = revision or self.revision
        header, data = header_at(self.revision), self.range(revision)
        return construct(Snapshot, header, revision, data, LIBRARY)

    def rows(self, revision: int, since: int) -> dict[bytes, tuple[int, int]]:
        """What a keys-only read gives that leaves out what was put at `since`."""
        return {
            key: (kv.mod_revision, kv.version)
            for key, kv in self.range(revision).items()
            if kv.mod_revision > since
        }

    def events(self, first: int, last: int) -> list[pb.Event]:
        """What a watch of the range is owed, of the revisions given."""
        return [
            event
            for events in self._events[first - 1 : last]
            for event in events
            if event.kv.key.startswith(self._prefix)
        ]


def header_at(revision: int) -> ResponseHeader:
    """Of an answer of the member that there is."""
    return ResponseHeader(cluster_id=1, member_id=1, revision=revision, raft_term=1)


def as_events(raw: Sequence[pb.Event]) -> Sequence[Event]:
    """The same as a watch hands them over."""
    return decode(pb.WatchResponse(events=raw).SerializeToString()).events


def store_of(**values: str) -> Store:
    """A store that has these keys since one revision, which is 2."""
    store = Store(b"")
    store.commit({key.encode(): value.encode() for key, value in values.items()})
    return store


def follow(replica: Replica, store: Store, *lost: int) -> bool:
    """Apply all that is new as one response, without the events at some places."""
    raw = store.events(replica.revision + 1, store.revision)
    kept = [event for place, event in enumerate(raw) if place not in lost]
    return replica.apply(as_events(kept))
