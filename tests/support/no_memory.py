"""Makes each allocation of the speedups fail in turn: a program.

    python -m tests.support.no_memory

For each function it prints after how many allocations a failure no longer matters. A
crash ends the program.
"""

from __future__ import annotations

from _testcapi import remove_mem_hooks, set_nomemory
from collections.abc import Callable
from typing import Any

from tests.unit.test_speedups import message, range_reply
from trio_etcd_watch import Event, EventType, KeyValue, _responses
from trio_etcd_watch._chain import put_again_fast
from trio_etcd_watch._grpc.messages import _take


def failures(work: Callable[[], object], most: int = 200) -> int:
    """Return how many allocations must succeed for `work` to succeed."""
    for count in range(most):
        failed = False
        set_nomemory(count, 0)
        try:
            work()
        except MemoryError:
            failed = True
        finally:
            remove_mem_hooks()
        if not failed:
            return count
    raise AssertionError("it never succeeds")


def main() -> None:
    """Try each function."""
    twin: Any = _responses.twin
    classes = _responses._CLASSES
    data, page = message(), range_reply()
    read = [b"\x0a\0\x10%c\x5a\0" % watch_id for watch_id in (1, 2, 1)]
    events = twin.decode((data, data), classes).events
    frames = (7 << 8).to_bytes(4) + bytes(6) + (2).to_bytes(4) + b"hi"
    kv = twin.make_key_value(KeyValue, b"k", b"v", 1, 2, 3, 4)
    next_kv = twin.make_key_value(KeyValue, b"k", b"v", 1, 3, 4, 4)
    event = twin.make_event(Event, EventType.PUT, next_kv, None)
    work: dict[str, Callable[[], object]] = {
        "decode": lambda: twin.decode((data, data), classes),
        "decode_range": lambda: twin.decode_range(page),
        "put_range": lambda: twin.put_range({}, page, KeyValue),
        "take_messages": lambda: _take(frames, 0, frames[4:10], 99),
        "split_batches": lambda: twin.split_batches([*read, data, None, *read]),
        "events": lambda: list(events),
        "slice": lambda: events[1:],
        "join": lambda: twin.join([events, events]),
        "make_key_value": lambda: twin.make_key_value(KeyValue, b"k", b"v", 1, 2, 3, 4),
        "put_again": lambda: put_again_fast(
            {b"k": kv}, iter([event]), 0, {}, EventType.PUT
        ),
        "make_event": lambda: twin.make_event(Event, EventType.PUT, kv, None),
    }
    for name, function in work.items():
        function()
        print(name, failures(function))


if __name__ == "__main__":
    main()
