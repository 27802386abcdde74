"""A snapshot as a mapping."""

from __future__ import annotations

from tests.machine.store import follow, store_of
from trio_etcd_watch import KeyValue
from trio_etcd_watch._replica import Replica


def test_a_copy_is_a_value() -> None:
    store = store_of(b="1", a="1")
    replica = Replica(store.snapshot())
    header = store.snapshot().header
    copy = replica.copy(header)
    store.commit({b"a": None})
    follow(replica, store)
    assert (copy.revision, copy.header, len(copy)) == (2, header, 2)
    assert list(copy) == [b"a", b"b"]
    assert list(reversed(copy)) == [b"b", b"a"]
    assert copy == store.range(2)
    assert isinstance(copy["a"], KeyValue)
    assert repr(copy) == "<Snapshot of 2 keys at revision 2>"
