"""A snapshot as a mapping."""

from __future__ import annotations

import pytest

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


def test_a_key_that_is_no_unicode_is_named() -> None:
    copy = store_of(a="1").snapshot()
    for look_up in (copy.__getitem__, copy.__contains__, copy.get):
        with pytest.raises(ValueError, match=r"^key cannot be encoded as UTF-8"):
            look_up("\ud800")
