"""The fast path of decoding: small responses of one watch are parsed as one.

Sans-IO. A server that sends an event a message would cost us a parse and a walk
through the session for each. But protobuf messages that stand one behind another parse
as their merge (protobuf.dev, "Encoding", "Last One Wins"): repeated fields append, and
the last header stays. So the messages of one socket read are cut into runs of
responses that are alike, and such a run is one parse and one step of the session.

Alike means: the header is followed by the same watch id, and that by events. Anything
else (a creation, a cancel, progress, a fragment, fields in another order) is a run of
its own and takes the slow path, message by message, which is the oracle in the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import lt

from ._frames import Oversized
from ._responses import RawResponse, decode

MAX_SIZE = 512
"""Of a message that joins a run, in bytes: in larger ones the events are what costs."""

_HEADER, _WATCH_ID, _EVENTS = 0x0A, 0x10, 0x5A
"""Tags of WatchResponse's fields 1, 2 and 11."""


def split_runs(
    messages: Sequence[bytes | Oversized],
) -> Iterator[list[bytes] | Oversized]:
    """Cut what one read brought into runs, in order."""
    run: list[bytes] = []
    mark: bytes | None = None
    for message in messages:
        if isinstance(message, Oversized):
            if run:
                yield run
            run, mark = [], None
            yield message
        elif (
            mark is not None
            and 1 < len(message) <= MAX_SIZE
            and message[0] == _HEADER
            and message.startswith(mark, message[1] + 2)
        ):
            run.append(message)
        else:
            if run:
                yield run
            run, mark = [message], _mark(message)
    if run:
        yield run


def merge_run(run: Sequence[bytes]) -> RawResponse | None:
    """Parse a run as one response; None if that is not the same as one by one.

    Raises:
        StreamLost: it cannot be parsed.
    """
    merged = decode(b"".join(run))
    # What a later message of the run says in any field stays set.
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
    revisions = [event.kv.mod_revision for event in merged.events]
    return merged if all(map(lt, revisions, revisions[1:])) else None


def _mark(message: bytes) -> bytes | None:
    """Return the watch id and the tag of the first event, as they stand in message.

    None if it is no plain response with events, or large.
    """
    if not 2 < len(message) <= MAX_SIZE or message[0] != _HEADER or message[1] > 127:
        return None
    start = end = message[1] + 2
    if message[end : end + 1] == bytes([_WATCH_ID]):
        end += 1
        # A varint goes on while its bytes have the top bit.
        while end < len(message) and message[end] > 127:
            end += 1
        end += 1
    if message[end : end + 1] != bytes([_EVENTS]):
        return None
    return message[start : end + 1]
