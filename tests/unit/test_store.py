"""The keys of a scripted etcd; other tests compare it with real ones."""

from __future__ import annotations

from typing import Any

import pytest

from trio_etcd_watch._grpc.status import Status, StatusCode
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch.testing._store import Store, covers


def filled() -> Store:
    store = Store(7)
    store.commit({b"a": b"1"})
    store.commit({b"a": b"2", b"b": b"1"})
    store.commit({b"a": None})
    return store


def read(store: Store, key: bytes = b"\0", **more: Any) -> pb.RangeResponse:  # noqa: ANN401  # of a message
    answer = store.range(pb.RangeRequest(key=key, range_end=b"\0", **more))
    assert isinstance(answer, pb.RangeResponse)
    return answer


def refused(store: Store, key: bytes, range_end: bytes = b"", revision: int = 0) -> str:
    request = pb.RangeRequest(key=key, range_end=range_end, revision=revision)
    answer = store.range(request)
    assert isinstance(answer, Status)
    return str(answer)


def test_each_revision_is_kept() -> None:
    store = filled()
    states = [
        {kv.key: kv.value for kv in read(store, revision=at).kvs} for at in (1, 2, 3, 4)
    ]
    assert states == [{}, {b"a": b"1"}, {b"a": b"2", b"b": b"1"}, {b"b": b"1"}]
    assert read(store).header == pb.ResponseHeader(
        cluster_id=7, member_id=1, revision=4, raft_term=1
    )


def test_nothing_is_no_revision() -> None:
    store = filled()
    assert store.commit({b"a": None, b"absent": None}) == 4
    assert store.commit({}) == 4


def test_pages_and_counts() -> None:
    store = filled()
    store.commit({b"c": b"1"})
    page = read(store, limit=1)
    assert ([kv.key for kv in page.kvs], page.more, page.count) == ([b"b"], True, 2)
    assert not read(store, limit=2).more
    count = read(store, count_only=True)
    assert (list(count.kvs), count.count) == ([], 2)
    # The count includes keys that are left out.
    newest = read(store, min_mod_revision=4)
    assert ([kv.key for kv in newest.kvs], newest.count) == ([b"c"], 2)
    (keys_only, _) = read(store, keys_only=True).kvs
    assert (keys_only.value, keys_only.version) == (b"", 1)
    by_revision = read(
        store,
        sort_target=pb.RangeRequest.MOD,
        sort_order=pb.RangeRequest.DESCEND,
        limit=1,
    )
    assert [kv.key for kv in by_revision.kvs] == [b"c"]


def test_refusals() -> None:
    store = filled()
    assert "future revision" in refused(store, b"a", revision=5)
    store.compacted = 3
    assert "compacted" in refused(store, b"a", revision=2)
    assert read(store, revision=3).count == 2


@pytest.mark.parametrize(
    ("key", "range_end", "denied"),
    [
        (b"s", b"", True),
        (b"st", b"", True),
        (b"r", b"", False),
        (b"a", b"s", False),
        (b"a", b"t", True),
        (b"sa", b"sb", True),
        (b"t", b"\0", False),
        (b"\0", b"\0", True),
    ],
)
def test_denied_ranges(key: bytes, range_end: bytes, denied: bool) -> None:
    store = filled()
    store.deny(b"s")
    assert store.is_denied(key, range_end) == denied
    if denied:
        text = f"{StatusCode.PERMISSION_DENIED.name}: etcdserver: permission denied"
        assert refused(store, key, range_end) == text
    store.allow()
    assert not store.is_denied(key, range_end)


def test_everything_may_be_denied() -> None:
    store = filled()
    store.deny(b"")
    for key, range_end in ((b"a", b""), (b"\0", b"\0"), (b"a", b"b")):
        assert store.is_denied(key, range_end)


def test_history_that_is_forgotten() -> None:
    store = filled()
    store.compacted = 4
    store.forget(2)
    assert (store.revision, store.compacted) == (2, 2)
    assert [kv.value for kv in read(store).kvs] == [b"1"]
    store.commit({b"a": b"other"})
    (kv,) = read(store).kvs
    assert (kv.value, kv.version, kv.mod_revision) == (b"other", 2, 3)


def test_ranges() -> None:
    assert covers(b"a", b"", b"a")
    assert not covers(b"a", b"", b"aa")
    assert covers(b"a", b"c", b"b")
    assert not covers(b"a", b"c", b"c")
    assert covers(b"b", b"\0", b"\xff")
    assert not covers(b"b", b"\0", b"a")
