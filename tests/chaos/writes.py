"""What chaos writes: keys, values and transactions, and the watched ranges."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeAlias

from tests.support.robustness import NO_END, Write, in_range
from trio_etcd_watch.testing import Delete, Etcd, Put

Where: TypeAlias = tuple[dict[str, Any], tuple[bytes, bytes]]
"""The arguments of watch(), and the range of etcd's API that they must become."""

KEYS = (*(f"/k/{i:02}".encode() for i in range(16)), b"\0", b"\xff\xff")

RANGES: tuple[Where, ...] = (
    ({"key": "/k/00"}, (b"/k/00", b"")),
    ({"key": "/k/", "prefix": True}, (b"/k/", b"/k0")),
    ({"key": b"/k/03", "range_end": "/k/12"}, (b"/k/03", b"/k/12")),
    ({"key": "/k/08", "from_key": True}, (b"/k/08", NO_END)),
    ({"key": "", "prefix": True}, (b"\0", NO_END)),
    ({"key": "/k/0", "prefix": True}, (b"/k/0", b"/k/1")),
    ({"key": b"/k/15"}, (b"/k/15", b"")),
    ({"key": b"\xff", "prefix": True}, (b"\xff", NO_END)),
    ({"key": "", "from_key": True}, (b"\0", NO_END)),
)


def breadth(where: Where) -> int:
    return sum(in_range(key, *where[1]) for key in KEYS)


def draw_operations(rng: random.Random, number: int) -> list[Put | Delete]:
    def put(key: bytes) -> Put:
        size = rng.choice([0, 8, 64, 64, 512, 4_096])
        return Put(key, (b"%d " % number + rng.randbytes(size))[:size])

    kind = rng.random()
    if kind < 0.60:
        return [put(rng.choice(KEYS))]
    if kind < 0.75:
        return [Delete(rng.choice(KEYS))]
    if kind < 0.80:
        return [Delete(rng.choice(["/k/0", "/k/1", "/k/15"]), prefix=True)]
    keys = rng.sample(KEYS, rng.choice([2, 3, 6, len(KEYS)]))
    return [put(key) if rng.random() < 0.8 else Delete(key) for key in keys]


async def transact(member: Etcd, operations: Sequence[Put | Delete]) -> int:
    """Write, and return the revision; 0 if it changed nothing."""
    match operations:
        case [Put() as put]:
            return await member.put(put.key, put.value)
        case [Delete() as delete]:
            reply = await member.request("/v3/kv/deleterange", delete.to_json())
            changes = "deleted" in reply
        case _:
            success = [{each.field: each.to_json()} for each in operations]
            reply = await member.request("/v3/kv/txn", {"success": success})
            changes = any(
                "response_put" in each
                or "deleted" in each.get("response_delete_range", {})
                for each in reply["responses"]
            )
    return int(reply["header"]["revision"]) if changes else 0


def as_write(operations: Sequence[Put | Delete], revision: int | None) -> Write:
    """Return the attempt for the check of the history; None if no answer came."""
    puts = [each for each in operations if isinstance(each, Put)]
    deletes = [each for each in operations if isinstance(each, Delete)]
    return Write(
        {_bytes(each.key): _bytes(each.value) for each in puts},
        tuple(_range(each) for each in deletes),
        revision,
    )


def _range(delete: Delete) -> tuple[bytes, bytes]:
    key = _bytes(delete.key)
    # Prefixes of writers end in an ordinary byte.
    return key, key[:-1] + bytes([key[-1] + 1]) if delete.prefix else b""


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
