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


def test_no_references_leak() -> None:
    good = message()
    bad = good + b"\x5a\x02\x0a\x00\x5a\x7f"
    no_text = good + b"\x32\x01\xff"
    page = range_reply()
    small = [b"\x0a\0\x10%c\x5a" % watch_id for watch_id in (1, 2, 2, 1, 1)]

    def work(times: int) -> None:
        for _ in range(times):
            raw = decode(good, good)
            repr(raw.events[0])
            twin().join([raw.events, raw.events])
            split_batches_fast([good, page, good[:8], *small, good])
            decode_range(page).key_values()
            mapping = {b"key": version_of(1)}
            following = [put_of(version_of(2)), put_of(version_of(4))]
            put_again_fast(mapping, iter(following), 0, {}, EventType.PUT)
            with pytest.raises(StreamLost):
                decode_range(page[:-1])
            for data in (bad, no_text):
                with pytest.raises(StreamLost):
                    decode(data)

    counted = (EventType.PUT, EventType.DELETE, KeyValue, Event, _responses.RawResponse)
    work(100)
    tracemalloc.start()
    try:
        memory, _ = tracemalloc.get_traced_memory()
        references = [sys.getrefcount(thing) for thing in counted]
        work(3000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - memory
        after = [sys.getrefcount(thing) for thing in counted]
    finally:
        tracemalloc.stop()
    assert grown < 20_000
    assert all(now - then < 10 for now, then in zip(after, references, strict=True))


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
    assert int(failures["decode"]) > 15
    assert int(failures["decode_range"]) > 1
    assert int(failures["put_range"]) > 5
    assert int(failures["join"]) > 2
    assert int(failures["take_messages"]) > 2
    assert int(failures["split_batches"]) > 8
    assert int(failures["put_again"]) > 1
    assert int(failures["make_key_value"]) > 0
    assert int(failures["make_event"]) > 0
