"""Decodes the reply to a read into a `RangePage`, and puts its keys into a mapping.

Sans-IO.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ._grpc.status import StreamLost
from ._responses import KeyValue, ResponseHeader, twin


@dataclass(frozen=True, slots=True)
class RangePage:
    """The reply to a read. `decode_range()` of the twin modules returns its fields."""

    cluster_id: int
    member_id: int
    revision: int
    raft_term: int
    more: bool
    """Whether more keys of the range follow this page."""
    count: int
    """How many keys the range has."""
    size: int
    """How many keys this page has."""
    last_key: bytes
    """The last key of this page; empty if it has none."""
    keys: Any = field(repr=False)
    """The input of the twin's `put_range()`, which then does most of the work."""

    def put_into(self, mapping: dict[bytes, KeyValue]) -> None:
        """Put the keys of this page into a mapping, in their order."""
        twin.put_range(mapping, self.keys, KeyValue)

    def key_values(self) -> dict[bytes, KeyValue]:
        """Return the keys of this page, in their order."""
        kvs: dict[bytes, KeyValue] = {}
        self.put_into(kvs)
        return kvs

    @property
    def header(self) -> ResponseHeader:
        """The header."""
        return ResponseHeader(
            cluster_id=self.cluster_id,
            member_id=self.member_id,
            revision=self.revision,
            raft_term=self.raft_term,
        )


def decode_range(message: bytes) -> RangePage:
    """Decode the reply to a read.

    Raises:
        StreamLost: the message is no `RangeResponse`.
    """
    try:
        return RangePage(*twin.decode_range(message))
    except ValueError as exc:
        raise StreamLost(f"a reply is not a range response: {exc}") from exc
