"""The fast path of decoding: small responses of one watch are parsed as one.

Sans-IO. A server that sends an event a message would cost us a parse and a walk
through the session for each. But protobuf messages that stand one behind another parse
as their merge (protobuf.dev, "Encoding", "Last One Wins"): repeated fields append, and
the last header stays. So of the messages of one socket read those of one watch make a
batch, and a batch is one parse and one step of the session.

Such a message has its watch id right after the header, and events right after that.
Anything else (a creation, a cancel, progress, a fragment, fields in another order) is a
batch of its own, which what came before it precedes and what came after it follows. It
takes the slow path, message by message, which is the oracle in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ._grpc.messages import Oversized
from ._grpc.status import StreamLost
from ._responses import RawResponse, decode

MAX_SIZE = 4096
"""Of a message that joins a batch, in bytes: in larger ones the events are what costs."""

_HEADER = 0x0A
"""The tag of WatchResponse's field 1."""
_ID_AND_EVENTS = re.compile(rb"(?:\x10[\x80-\xff]*[\x00-\x7f])?\x5a")
"""Field 2 (a varint, left out if 0) and the tag of field 11."""


def split_batches(
    messages: Sequence[bytes | Oversized],
) -> Iterator[list[bytes] | Oversized]:
    """Cut what one read brought into batches; what is said of one watch stays in order."""
    batches: dict[bytes, list[bytes]] = {}
    batch: list[bytes] = []
    mark: bytes | None = None
    for message in messages:
        if isinstance(message, Oversized):
            yield from batches.values()
            batches, mark = {}, None
            yield message
        elif (
            # Nearly always of the same watch as the one before.
            mark is not None
            and 1 < len(message) <= MAX_SIZE
            and message[0] == _HEADER
            and message.startswith(mark, message[1] + 2)
        ):
            batch.append(message)
        elif (mark := _mark(message)) is not None:
            batch = batches.setdefault(mark, [])
            batch.append(message)
        else:
            yield from batches.values()
            batches = {}
            yield [message]
    yield from batches.values()


def merge_batch(batch: Sequence[bytes]) -> RawResponse | None:
    """Decode a batch as one response; None if that is not the same as one by one."""
    try:
        # Where a response is a transaction, its neighbours probably are as well.
        if not decode(batch[0]).rising:
            return None
        merged = decode(*batch)
    except StreamLost:
        # What came before the one that cannot be decoded is good.
        return None
    # What a later message of the batch says in any field stays set.
    if (
        merged.created
        or merged.canceled
        or merged.compact_revision
        or merged.cancel_reason
        or merged.fragment
    ):
        return None
    # What a server repeats, the session drops response by response. Here that shows as
    # a revision that does not rise; so does a transaction, and pays the slow path.
    return merged if merged.rising else None


def _mark(message: bytes) -> bytes | None:
    """Return the watch id and the tag of the first event, as they stand in message.

    None if it is no plain response with events, or large.
    """
    if not 2 < len(message) <= MAX_SIZE or message[0] != _HEADER or message[1] > 127:
        return None
    found = _ID_AND_EVENTS.match(message, message[1] + 2)
    return found and found[0]
