"""The keys of a scripted etcd; other tests compare it with real ones."""

from __future__ import annotations

from typing import Any

import pytest

from trio_etcd_watch._grpc.status import Status, StatusCode
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch.testing import delete_event, key_value, put_event
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
    assert not read(store).more
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


def test_keys_come_in_their_order_unless_another_is_asked_for() -> None:
    store = Store(7)
    for key in (b"b", b"c", b"a"):
        store.commit({key: b""})
    orders: list[dict[str, Any]] = [
        {},
        {"sort_order": pb.RangeRequest.DESCEND, "sort_target": pb.RangeRequest.MOD},
        {"sort_order": pb.RangeRequest.ASCEND, "sort_target": pb.RangeRequest.MOD},
    ]
    assert [b"".join(kv.key for kv in read(store, **each).kvs) for each in orders] == [
        b"abc",
        b"acb",
        b"bca",
    ]


def test_a_read_of_what_was_put_since_a_revision_includes_that_revision() -> None:
    store = filled()
    store.commit({b"c": b"1"})
    assert [kv.key for kv in read(store, min_mod_revision=5).kvs] == [b"c"]
    assert not read(store, min_mod_revision=6).kvs


def test_refusals() -> None:
    store = filled()
    assert refused(store, b"a", revision=5) == (
        "OUT_OF_RANGE: etcdserver: mvcc: required revision is a future revision"
    )
    assert store.compacted == 0
    store.compacted = 3
    for revision in (1, 2):
        assert refused(store, b"a", revision=revision) == (
            "OUT_OF_RANGE: etcdserver: mvcc: required revision has been compacted"
        )
    assert read(store, revision=3).count == 2
    assert read(store).count == 1


def test_the_keys_with_a_prefix() -> None:
    store = filled()
    store.commit({b"cb": b"", b"ca": b"", b"d": b""})
    assert store.keys_from(b"c") == [b"ca", b"cb"]
    assert store.keys_from(b"") == [b"b", b"ca", b"cb", b"d"]


def test_the_size_is_that_of_the_history() -> None:
    store = filled()
    before = store.status()
    store.commit({b"c": bytes(1000)})
    store.commit({b"c": None})
    after = store.status()
    assert after.dbSizeInUse > before.dbSizeInUse + 1000
    assert (before.header.revision, after.header) == (4, store.header())


def watched(
    store: Store,
    first: int,
    *,
    key: bytes = b"\0",
    range_end: bytes = b"\0",
    **more: Any,  # noqa: ANN401  # any field of the request
) -> list[tuple[int, bytes, int, bytes]]:
    """Return type, key, revision and value before of the events that a watch gets."""
    request = pb.WatchCreateRequest(key=key, range_end=range_end, **more)
    return [
        (each.type, each.kv.key, each.kv.mod_revision, each.prev_kv.value)
        for each in store.events(request, first)
    ]


PUT, DELETE = pb.Event.PUT, pb.Event.DELETE


def test_a_watch_gets_the_events_from_a_revision_on() -> None:
    store = filled()
    assert watched(store, 3) == [
        (PUT, b"a", 3, b""),
        (PUT, b"b", 3, b""),
        (DELETE, b"a", 4, b""),
    ]
    assert watched(store, 5) == []


def test_a_watch_gets_the_events_of_its_range() -> None:
    store = filled()
    assert [revision for _, _, revision, _ in watched(store, 1, key=b"b")] == [3]
    one = watched(store, 1, key=b"a", range_end=b"")
    assert [revision for _, _, revision, _ in one] == [2, 3, 4]


def test_a_watch_may_filter_events() -> None:
    store = filled()
    no_put = watched(store, 1, filters=[pb.WatchCreateRequest.NOPUT])
    assert no_put == [(DELETE, b"a", 4, b"")]
    no_delete = watched(store, 1, filters=[pb.WatchCreateRequest.NODELETE])
    assert [kind for kind, *_ in no_delete] == [PUT, PUT, PUT]


def test_a_watch_may_ask_for_the_key_as_it_was_before() -> None:
    assert watched(filled(), 1, prev_kv=True) == [
        (PUT, b"a", 2, b""),
        (PUT, b"a", 3, b"1"),
        (PUT, b"b", 3, b""),
        (DELETE, b"a", 4, b"2"),
    ]


def test_added_events_say_what_was_before_or_the_store_does() -> None:
    store = filled()
    told = key_value(b"b", b"told", mod_revision=3)
    store.add([put_event(b"b", b"new", mod_revision=5, prev_kv=told)], 5)
    store.add([delete_event(b"b", mod_revision=7)], 8)
    assert store.revision == 8
    assert watched(store, 5, prev_kv=True) == [
        (PUT, b"b", 5, b"told"),
        (DELETE, b"b", 7, b"new"),
    ]
    assert store.keys_from(b"") == []


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
    assert watched(store, 1) == [(PUT, b"a", 2, b""), (PUT, b"a", 3, b"")]


def test_ranges() -> None:
    assert covers(b"a", b"", b"a")
    assert not covers(b"a", b"", b"aa")
    assert covers(b"a", b"c", b"a")
    assert covers(b"a", b"c", b"b")
    assert not covers(b"a", b"c", b"c")
    assert covers(b"b", b"\0", b"\xff")
    assert not covers(b"b", b"\0", b"a")
