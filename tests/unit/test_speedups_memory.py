"""The decoder in C leaks nothing, and survives each allocation that fails."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from tests.unit.test_speedups import (
    in_c,
    message,
    put_of,
    range_reply,
    twin,
    version_of,
)
from trio_etcd_watch import Event, EventType, KeyValue, _responses
from trio_etcd_watch._batches import split_batches_fast
from trio_etcd_watch._chain import put_again_fast
from trio_etcd_watch._grpc.status import StreamLost
from trio_etcd_watch._pages import decode_range
from trio_etcd_watch._responses import decode

GOOD = message()
BAD = [GOOD + b"\x5a\x02\x0a\x00\x5a\x7f", GOOD + b"\x32\x01\xff"]
PAGE = range_reply()
READ = [b"\x0a\0\x10%c\x5a\0" % watch_id for watch_id in (1, 2, 2, 1, 1)]
COUNTED = (
    *(EventType.PUT, EventType.DELETE, KeyValue, Event, _responses.RawResponse),
    *(GOOD, PAGE, *READ),
)


def work(times: int) -> None:
    """Call each function of the decoder."""
    for _ in range(times):
        raw = decode(GOOD, GOOD)
        repr(raw.events[0])
        list(twin().join([raw.events, raw.events[1:], raw.events[:0]]))
        next(iter(raw.events))
        split_batches_fast([*READ, GOOD, PAGE, GOOD[:8], *READ])
        decode_range(PAGE).key_values()
        mapping = {b"key": version_of(1)}
        following = [put_of(version_of(2)), put_of(version_of(4))]
        put_again_fast(mapping, iter(following), 0, {}, EventType.PUT)
        with pytest.raises(StreamLost):
            decode_range(PAGE[:-1])
        for data in BAD:
            with pytest.raises(StreamLost):
                decode(data)


def test_no_references_leak() -> None:
    work(100)
    tracemalloc.start()
    try:
        memory, _ = tracemalloc.get_traced_memory()
        references = [sys.getrefcount(thing) for thing in COUNTED]
        work(3000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - memory
        after = [sys.getrefcount(thing) for thing in COUNTED]
    finally:
        tracemalloc.stop()
    assert grown < 20_000
    assert all(
        abs(now - then) < 10 for now, then in zip(after, references, strict=True)
    )


@in_c
def test_memory_that_runs_out() -> None:
    """If each allocation fails in turn, there is a MemoryError, and never a crash."""
    pytest.importorskip("_testcapi", reason="CPython's own tests are not installed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.no_memory"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    # The number of failures of each function before its first success.
    failures = dict(line.split() for line in done.stdout.splitlines())
    assert int(failures["decode"]) > 5
    assert int(failures["events"]) > 12
    assert int(failures["slice"]) > 1
    assert int(failures["decode_range"]) > 1
    assert int(failures["put_range"]) > 5
    assert int(failures["join"]) > 2
    assert int(failures["take_messages"]) > 2
    assert int(failures["split_batches"]) > 8
    assert int(failures["put_again"]) > 1
    assert int(failures["make_key_value"]) > 0
    assert int(failures["make_event"]) > 0
