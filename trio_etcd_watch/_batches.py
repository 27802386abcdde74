"""The fast path of decoding: parses several small responses of one watch as one.

Sans-IO. If a server sends each event in a message of its own, each would cost a parse
and a step of the session. But concatenated protobuf messages parse as their merge
(protobuf.dev, "Encoding", "Last One Wins"): repeated fields append, and of other fields
the last value stays. So the messages of one watch in one socket read form a batch, and
a batch costs one parse and one step of the session.

A small message joins a batch if it has a header, a watch id and events, in this order,
and nothing else. Any other message (a creation, a cancel, progress, a fragment, fields
in another order) is a batch of its own, after all messages before it and before all
that follow. It takes the slow path, message by message, which the tests use as the
oracle.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from ._grpc.messages import Oversized
from ._grpc.status import StreamLost
from ._responses import RawResponse, decode
from ._twins import speedups

MAX_SIZE = 4096
"""Bytes of a message that may join a batch; in larger ones the events are the cost."""

_HEADER = 0x0A
"""The tag of field 1 of WatchResponse, the header."""
_MAX_HEADER = 127
"""Up to here the length of a header takes one byte; etcd's headers are shorter."""
_EVENT = 0x5A
"""The tag of field 11, an event."""
_ID_AND_EVENT = re.compile(rb"(?:\x10[\x80-\xff]{0,8}[\x01-\x7f])?\x5a")
"""Field 2, the watch id, and the tag of the first event. The id is a varint of 63 bits,
left out if 0, without superfluous bytes, so that equal ids have equal bytes."""


Batch: TypeAlias = "bytes | list[bytes] | Oversized"
"""What is processed in one step: one message, or several that may be merged."""


def split_batches(messages: Iterable[bytes | Oversized]) -> list[Batch]:
    """Split the messages of one read into batches; those of one watch stay in order."""
    batches: list[Batch] = []
    places: dict[bytes, int] = {}
    head, mark, index, place, after = b"", None, 0, 0, 0
    for message in messages:
        if not isinstance(message, bytes):
            places, mark = {}, None
            batches.append(message)
        elif (
            # Nearly always it is of the same watch as the one before, and its header has
            # the same length.
            mark is not None
            and len(message) <= MAX_SIZE
            and message.startswith(head)
            and message.startswith(mark, place)
            and _are_events(message, after)
        ):
            _add(batches, index, message)
        elif (mark := _mark(message)) is None:
            places = {}
            batches.append(message)
        else:
            head, place = message[:2], message[1] + 2
            after = place + len(mark)
            index = places.setdefault(mark, len(batches))
            _add(batches, index, message)
    return batches


split_batches_fast = split_batches if speedups is None else speedups.split_batches


def _add(batches: list[Batch], index: int, message: bytes) -> None:
    """Add a message to the batch at this index, which may be the end."""
    if index == len(batches):
        batches.append(message)
        return
    batch = batches[index]
    if isinstance(batch, list):
        batch.append(message)
    else:
        assert isinstance(batch, bytes)
        batches[index] = [batch, message]


def merge_batch(batch: Sequence[bytes]) -> RawResponse | None:
    """Decode a batch as one response; None if it must be decoded message by message."""
    try:
        # If one response is a transaction, the others probably are, too.
        merged = decode(*batch) if decode(batch[0]).rising else None
    except StreamLost:
        # The messages before the one that cannot be decoded are valid.
        return None
    # Events that a server repeats must be dropped response by response. They show as a
    # revision that does not rise. A transaction does so, too, and takes the slow path.
    return merged if merged is not None and merged.rising else None


def _mark(message: bytes) -> bytes | None:
    """Return the bytes of the watch id and of the tag of the first event in a message.

    None if the message may not join a batch.
    """
    if not (
        1 < len(message) <= MAX_SIZE
        and message[0] == _HEADER
        and message[1] <= _MAX_HEADER
    ):
        return None
    found = _ID_AND_EVENT.match(message, message[1] + 2)
    if found is None or not _are_events(message, found.end()):
        return None
    return found[0]


def _are_events(message: bytes, place: int) -> bool:
    """Whether only events follow, from the length of one on, of one or two bytes each."""
    end = len(message)
    try:
        while True:
            size = message[place]
            place += 1
            if size > 127:
                # If a third byte follows, this exceeds MAX_SIZE.
                size += (message[place] << 7) - 128
                place += 1
            place += size
            if place >= end or message[place] != _EVENT:
                return place == end
            place += 1
    except IndexError:
        # The message ends within a length.
        return False
