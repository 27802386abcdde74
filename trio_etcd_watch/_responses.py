"""The way in: protobuf becomes `WatchResponse`, `Event`, `KeyValue`.

Sans-IO. The classes are views: an event is wrapped when it is looked at and not
before, because that is most of its price.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TypeAlias, final, overload

from google.protobuf.message import DecodeError

from ._grpc.status import StreamLost
from ._pb import watch_pb2 as pb
from ._verdicts import error_of_cancel

RawResponse: TypeAlias = pb.WatchResponse
"""One message of the stream, decoded: what `_session` works on."""


class EventType(enum.IntEnum):
    """What happened to the key."""

    PUT = 0
    DELETE = 1
    UNKNOWN = -1
    """A kind that this version does not know; no server has one."""

    @classmethod
    def _missing_(cls, value: object) -> EventType:
        return cls.UNKNOWN


@final
class KeyValue:
    """A key with its value at one revision. Immutable; made by the library only."""

    __slots__ = ("_key", "_mod_revision", "_pb", "_value")

    def __init__(self, raw: pb.KeyValue) -> None:
        self._pb = raw
        # What nearly everybody reads, at the price of one step less for each.
        self._key = raw.key
        self._value = raw.value
        self._mod_revision = raw.mod_revision

    @property
    def key(self) -> bytes:
        """The key."""
        return self._key

    @property
    def value(self) -> bytes:
        """The value; empty in the `kv` of a DELETE."""
        return self._value

    @property
    def create_revision(self) -> int:
        """The revision of the put that created the key; 0 in a DELETE."""
        return self._pb.create_revision

    @property
    def mod_revision(self) -> int:
        """The revision of this change."""
        return self._mod_revision

    @property
    def version(self) -> int:
        """How many puts since the key was created, this one included."""
        return self._pb.version

    @property
    def lease(self) -> int:
        """The id of the lease that the key is attached to; 0 for none."""
        return self._pb.lease

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeyValue):
            return NotImplemented
        return bool(self._pb == other._pb)

    def __hash__(self) -> int:
        return hash((self.key, self.mod_revision))

    def __repr__(self) -> str:
        return (
            f"KeyValue(key={self.key!r}, value={self.value!r}, "
            f"create_revision={self.create_revision}, "
            f"mod_revision={self.mod_revision}, version={self.version}, "
            f"lease={self.lease})"
        )


@final
class Event:
    """One change of one key. Immutable; made by the library only."""

    __slots__ = ("_kv", "_pb")

    def __init__(self, raw: pb.Event) -> None:
        self._pb = raw
        # Now, and not at each look: `event.kv.key, event.kv.value` is two of them.
        self._kv = KeyValue(raw.kv)

    @property
    def type(self) -> EventType:
        """Whether the key was put or deleted."""
        return EventType(self._pb.type)

    @property
    def kv(self) -> KeyValue:
        """The key as it is now; of a DELETE only key and mod_revision are set."""
        return self._kv

    @property
    def prev_kv(self) -> KeyValue | None:
        """The key before this change.

        None unless asked for with prev_kv=True, for a key that did not exist
        before, and where the earlier revision has been compacted.
        """
        raw = self._pb
        return KeyValue(raw.prev_kv) if raw.HasField("prev_kv") else None

    @property
    def is_create(self) -> bool:
        """Whether this put created the key."""
        kv = self._kv
        return self._pb.type == pb.Event.PUT and kv.create_revision == kv.mod_revision

    @property
    def is_modify(self) -> bool:
        """Whether this put gave a new value to a key that existed."""
        kv = self._kv
        return self._pb.type == pb.Event.PUT and kv.create_revision != kv.mod_revision

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return bool(self._pb == other._pb)

    def __hash__(self) -> int:
        return hash(self._kv)

    def __repr__(self) -> str:
        return f"Event(type={self.type.name}, kv={self.kv!r}, prev_kv={self.prev_kv!r})"


@final
class _Events(Sequence[Event]):
    """The events of some messages, each wrapped when it is looked at.

    Not a tuple: hundreds of objects that live together cost more in the garbage
    collector than in their making.
    """

    __slots__ = ("_parts", "_raw", "_start")

    def __init__(self, parts: Sequence[RawResponse], start: int = 0) -> None:
        self._parts = parts
        self._start = start
        # All of them in a row, once somebody wants them by index.
        self._raw: list[pb.Event] | None = None

    def __iter__(self) -> Iterator[Event]:
        return map(Event, self._walk())

    def __reversed__(self) -> Iterator[Event]:
        return map(Event, reversed(self._list()))

    def __len__(self) -> int:
        return sum([len(part.events) for part in self._parts]) - self._start

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        if isinstance(index, slice):
            return tuple(self)[index]
        return Event(self._list()[index])

    def _walk(self) -> Iterator[pb.Event]:
        raw = chain.from_iterable([part.events for part in self._parts])
        return islice(raw, self._start, None) if self._start else raw

    def _list(self) -> list[pb.Event]:
        if self._raw is None:
            self._raw = list(self._walk())
        return self._raw

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """Who answered, and how far that member was.

    The revision says nothing about what a watch has been given: a server that
    replays history sends its newest revision. `Watch.next_revision` says that.
    """

    cluster_id: int
    member_id: int
    revision: int
    raft_term: int


@final
class WatchResponse:
    """What the server said of one watch. Immutable; made by the library only.

    Responses that waited while the user was busy may come as one: their events in
    order, whole revisions only, with the header of the last.
    """

    __slots__ = ("_parts", "_start")

    def __init__(self, *parts: RawResponse, start: int = 0) -> None:
        self._parts = parts
        self._start = start

    @property
    def header(self) -> ResponseHeader:
        """The header; its revision is 0 in a cancel because of compaction."""
        raw = self._parts[-1].header
        return ResponseHeader(
            cluster_id=raw.cluster_id,
            member_id=raw.member_id,
            revision=raw.revision,
            raft_term=raw.raft_term,
        )

    @property
    def events(self) -> Sequence[Event]:
        """The events, by revision; those of one revision are never torn apart."""
        return _Events(self._parts, self._start)

    @property
    def compact_revision(self) -> int:
        """Not 0 if the watch ended because what it asked for is compacted."""
        return self._parts[-1].compact_revision

    @property
    def created(self) -> bool:
        """Whether this confirms (or, with canceled, refuses) the creation."""
        return self._parts[-1].created

    @property
    def canceled(self) -> bool:
        """Whether the server has ended the watch."""
        return self._parts[-1].canceled

    @property
    def cancel_reason(self) -> str:
        """Why, in the server's words; may be empty."""
        return self._parts[-1].cancel_reason

    @property
    def is_progress_notify(self) -> bool:
        """Whether this only tells how far the server is (Go's IsProgressNotify)."""
        raw = self._parts[-1]
        return not (
            raw.events or raw.canceled or raw.created or raw.compact_revision
        ) and bool(raw.header.revision)

    def raise_for_error(self) -> None:
        """Raise what a cancel means; do nothing for every other response.

        Raises:
            WatchCanceledError: or one of its kinds.
        """
        if self.canceled or self.compact_revision:
            raise error_of_cancel(self)

    def merged(self, others: Iterable[WatchResponse]) -> WatchResponse:
        """Return this and what followed it as one response."""
        parts = (part for other in others for part in other._parts)
        return WatchResponse(*self._parts, *parts, start=self._start)

    def after(self, events: int) -> WatchResponse:
        """Return what is left of this response after so many of its events."""
        return WatchResponse(*self._parts, start=self._start + events)

    def __repr__(self) -> str:
        return (
            f"WatchResponse(header={self.header!r}, events={self.events!r}, "
            f"compact_revision={self.compact_revision}, created={self.created}, "
            f"canceled={self.canceled}, cancel_reason={self.cancel_reason!r})"
        )


def decode(message: bytes) -> RawResponse:
    """Decode one message of a Watch stream.

    Raises:
        StreamLost: it is no `WatchResponse`; nothing on this stream can be trusted.
    """
    try:
        return pb.WatchResponse.FromString(message)
    except DecodeError as exc:
        raise StreamLost(
            f"a message of {len(message)} bytes is no watch response"
        ) from exc


def watch_id_of_head(head: bytes) -> int:
    """Return the watch id of a response of which only the first bytes are known.

    The header and the id stand first and fill at most 59 bytes, so the longest start
    that decodes, cut between two fields, has both.
    """
    for length in range(min(len(head), 64), -1, -1):
        try:
            return pb.WatchResponse.FromString(head[:length]).watch_id
        except DecodeError:
            continue
    raise AssertionError("an empty message always decodes")


def changes_of(parts: Iterable[RawResponse]) -> list[pb.Event]:
    """Return the events of keys that existed, and so have an earlier key to tell."""
    return [
        event
        for part in parts
        for event in part.events
        if event.type == pb.Event.DELETE
        or event.kv.create_revision != event.kv.mod_revision
    ]


def drop_seen(parts: list[RawResponse], is_new: Callable[[int], bool]) -> None:
    """Drop the first events, of revisions that are not new, and parts of no others."""
    while parts and not is_new(parts[0].events[0].kv.mod_revision):
        events = parts[0].events
        seen = 1
        while seen < len(events) and not is_new(events[seen].kv.mod_revision):
            seen += 1
        del events[:seen]
        if not events:
            del parts[0]


def split_last_revision(
    parts: list[RawResponse],
) -> tuple[list[RawResponse], list[RawResponse]]:
    """Return the parts before the last revision in them, and those of that revision.

    More of it may follow in the next fragment.
    """
    held: list[RawResponse] = []
    if not parts:
        return [], held
    last = parts[-1].events[-1].kv.mod_revision
    while parts:
        events = parts[-1].events
        start = len(events)
        while start and events[start - 1].kv.mod_revision == last:
            start -= 1
        if start == 0:
            held.insert(0, parts.pop())
            continue
        if start < len(events):
            tail = RawResponse(header=parts[-1].header, watch_id=parts[-1].watch_id)
            tail.events.extend(events[start:])
            del events[start:]
            held.insert(0, tail)
        break
    return parts, held
