"""Stores the keys of a scripted etcd and their history, and answers watches and reads.

Sans-IO. It answers as etcd does (`server/storage/mvcc`), for the requests that this
library makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import final

from trio_etcd_watch._grpc.status import Status, StatusCode
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._responses import Event, EventType, KeyValue

from ._factories import delete_event, put_event

_COMPACTED = "etcdserver: mvcc: required revision has been compacted"
_FUTURE = "etcdserver: mvcc: required revision is a future revision"
_DENIED = "etcdserver: permission denied"


@final
class Store:
    """All keys, and their history.

    Attributes:
        cluster_id: the cluster in every header.
        revision: the newest revision.
        compacted: the oldest revision that can be read or watched; 0 if all can.
    """

    def __init__(self, cluster_id: int) -> None:
        self.cluster_id = cluster_id
        self.revision = 1
        self.compacted = 0
        self._denied: list[bytes] = []
        # By revision. Compacted events stay: later states are computed from them.
        self._events: list[Event] = []
        self._latest: dict[bytes, KeyValue] = {}

    # Writing

    def commit(self, changes: Mapping[bytes, bytes | None]) -> int:
        """Put the keys that have a value, delete the others, in one revision.

        Deleting an absent key changes nothing; without a change there is no revision.
        """
        revision = self.revision + 1
        events = []
        for key, value in changes.items():
            before = self._latest.get(key)
            if value is not None:
                events.append(
                    put_event(key, value, mod_revision=revision, prev_kv=before)
                )
            elif before is not None:
                events.append(delete_event(key, mod_revision=revision, prev_kv=before))
        if events:
            self.add(events, revision)
        return self.revision

    def add(self, events: Iterable[Event], revision: int) -> None:
        """Append these events to the history, up to this revision."""
        for event in events:
            kv = event.kv
            before = event.prev_kv or self._latest.get(kv.key)
            self._events.append(Event._make(event.type, kv, before))
            if event.type is EventType.PUT:
                self._latest[kv.key] = kv
            else:
                self._latest.pop(kv.key, None)
        self.revision = revision

    def keys_from(self, prefix: bytes) -> list[bytes]:
        """Return the keys with this prefix, in order."""
        return sorted(key for key in self._latest if key.startswith(prefix))

    def forget(self, revision: int) -> None:
        """Return to the state at this revision, as a cluster from an older backup."""
        self._latest = self._at(revision)
        self._events = [e for e in self._events if e.kv.mod_revision <= revision]
        self.revision = revision
        self.compacted = min(self.compacted, revision)

    def deny(self, prefix: bytes) -> None:
        """Refuse every range that has a key with this prefix."""
        self._denied.append(prefix)

    def allow(self) -> None:
        """Refuse nothing any more."""
        self._denied.clear()

    # Reading

    def header(self) -> pb.ResponseHeader:
        """Return a header with the current revision."""
        return pb.ResponseHeader(
            cluster_id=self.cluster_id,
            member_id=1,
            revision=self.revision,
            raft_term=1,
        )

    def is_denied(self, key: bytes, range_end: bytes) -> bool:
        """Whether a key with a denied prefix may be in this range."""
        return any(
            covers(key, range_end, prefix) or key.startswith(prefix)
            for prefix in self._denied
        )

    def events(self, request: pb.WatchCreateRequest, first: int) -> list[pb.Event]:
        """Return the events that a watch has asked for, from a revision on."""
        unwanted = {
            EventType.PUT if each == pb.WatchCreateRequest.NOPUT else EventType.DELETE
            for each in request.filters
        }
        return [
            _wire_event(event, prev_kv=request.prev_kv)
            for event in self._events
            if event.kv.mod_revision >= first
            and event.type not in unwanted
            and covers(request.key, request.range_end, event.kv.key)
        ]

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse | Status:
        """Answer a read."""
        if self.is_denied(request.key, request.range_end):
            return Status(StatusCode.PERMISSION_DENIED, _DENIED)
        if request.revision > self.revision:
            return Status(StatusCode.OUT_OF_RANGE, _FUTURE)
        if 0 < request.revision < self.compacted:
            return Status(StatusCode.OUT_OF_RANGE, _COMPACTED)
        response = pb.RangeResponse(header=self.header())
        found = [
            kv
            for key, kv in sorted(self._at(request.revision or self.revision).items())
            if covers(request.key, request.range_end, key)
        ]
        response.count = len(found)
        if request.count_only:
            return response
        found = [kv for kv in found if kv.mod_revision >= request.min_mod_revision]
        if request.sort_target == pb.RangeRequest.MOD:
            found.sort(
                key=lambda kv: kv.mod_revision,
                reverse=request.sort_order == pb.RangeRequest.DESCEND,
            )
        response.more = 0 < request.limit < len(found)
        for kv in found[: request.limit or None]:
            response.kvs.append(_wire(kv, keys_only=request.keys_only))
        return response

    def status(self) -> pb.StatusResponse:
        """Return the state of the only member."""
        size = sum(len(event.kv.key) + len(event.kv.value) for event in self._events)
        return pb.StatusResponse(header=self.header(), dbSizeInUse=size)

    def _at(self, revision: int) -> dict[bytes, KeyValue]:
        keys: dict[bytes, KeyValue] = {}
        for event in self._events:
            if event.kv.mod_revision > revision:
                break
            if event.type is EventType.PUT:
                keys[event.kv.key] = event.kv
            else:
                keys.pop(event.kv.key, None)
        return keys


def covers(key: bytes, range_end: bytes, candidate: bytes) -> bool:
    """Whether a key is in a range (etcd's rpc.proto, RangeRequest)."""
    if not range_end:
        return candidate == key
    return key <= candidate and (range_end == b"\0" or candidate < range_end)


def _wire(kv: KeyValue, *, keys_only: bool = False) -> pb.KeyValue:
    return pb.KeyValue(
        key=kv.key,
        value=b"" if keys_only else kv.value,
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        version=kv.version,
        lease=kv.lease,
    )


def _wire_event(event: Event, *, prev_kv: bool) -> pb.Event:
    wire = pb.Event(
        type=pb.Event.PUT if event.type is EventType.PUT else pb.Event.DELETE,
        kv=_wire(event.kv),
    )
    if prev_kv and event.prev_kv is not None:
        wire.prev_kv.CopyFrom(_wire(event.prev_kv))
    return wire
