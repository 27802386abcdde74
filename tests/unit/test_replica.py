"""The replica by itself: an example of each of its promises."""

from __future__ import annotations

import pytest

from tests.machine.store import Store, as_events, follow, header_at, store_of
from trio_etcd_watch._face import construct
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._replica import Check, Diverged, Replica, shown
from trio_etcd_watch._views import Consumer, PrefixView


def prove(replica: Replica, store: Store) -> bool:
    proof = replica.proof()
    rows = store.rows(proof.revision, proof.since)
    return replica.prove(proof, rows, len(store.range(proof.revision)))


# Events and progress


def test_a_transaction_shows_whole() -> None:
    store = store_of(a="1", b="1")
    replica = Replica(store.snapshot())
    store.commit({b"a": b"2", b"b": None, b"c": b"2"})
    assert follow(replica, store)
    assert dict(replica.mapping) == store.range(3)
    assert replica.revision == 3


@pytest.mark.parametrize(
    ("lost", "why"),
    [
        (
            0,
            "b'a' before revision 4 .* PUT of version 3 follows version 1 of revision 2",
        ),
        (2, "b'b' before revision 6 .* DELETE of version 0 follows absent"),
        (
            4,
            "b'a' before revision 8 .* PUT of version 1 follows version 3 of revision 4",
        ),
    ],
)
def test_an_event_that_continues_nothing_means_a_lost_one(lost: int, why: str) -> None:
    store = store_of(a="1")
    replica = Replica(store.snapshot())
    for changes in ({b"a": b"2"}, {b"a": b"3"}, {b"b": b"1"}, {b"b": None}):
        store.commit(changes)
    store.commit({b"a": None})
    store.commit({b"a": b"4"})
    raw = store.events(3, 8)
    assert len(raw) == 6
    with pytest.raises(Diverged, match=f"{why}$"):
        follow(replica, store, lost)
    # No event of that response was applied.
    assert dict(replica.mapping) == store.range(2)
    assert replica.revision == 2


def test_a_key_of_a_broken_response_is_not_left_behind() -> None:
    store = store_of(a="1")
    replica = Replica(store.snapshot())
    for changes in ({b"b": b"1"}, {b"a": b"2"}, {b"a": b"3"}):
        store.commit(changes)
    with pytest.raises(Diverged):
        follow(replica, store, 1)
    assert list(replica.mapping) == [b"a"]


def test_a_key_of_another_creation_does_not_continue() -> None:
    store = store_of(a="1")
    replica = Replica(store.snapshot())
    for value in (None, b"1", b"2"):
        store.commit({b"a": value})
    # Version 2 follows version 1 of the key, but of another creation.
    with pytest.raises(Diverged):
        follow(replica, store, 0, 1)


def test_an_event_of_an_unknown_kind_means_a_relist() -> None:
    replica = Replica(store_of(a="1").snapshot())
    event = pb.Event(kv=pb.KeyValue(key=b"a", mod_revision=3, version=2))
    event.kv.create_revision = 2
    event.MergeFromString(b"\x08\x07")
    with pytest.raises(Diverged, match="UNKNOWN"):
        replica.apply(as_events([event]))


def test_progress_moves_the_revision_and_never_back() -> None:
    replica = Replica(store_of(a="1").snapshot())
    replica.progressed(9)
    replica.progressed(4)
    assert replica.revision == 9


def test_a_fresh_snapshot_replaces_all_in_one_step() -> None:
    store = store_of(a="1", b="1", c="1")
    replica = Replica(store.snapshot())
    consumer = Consumer(replica, initial=False)
    store.commit({b"a": b"2", b"b": None, b"d": b"2"})
    assert sorted(replica.replace(store.snapshot())) == [b"a", b"b", b"d"]
    assert dict(replica.mapping) == store.range(3)
    update = consumer.take()
    assert update is not None
    assert (update.revision, update.resynced) == (3, True)
    assert [change.key for change in update.changes] == [b"a", b"b", b"d"]


def test_a_fresh_snapshot_without_a_difference_is_no_update() -> None:
    store = store_of(a="1")
    replica = Replica(store.snapshot())
    consumer = Consumer(replica, initial=False)
    assert replica.replace(store.snapshot()) == []
    assert consumer.take() is None
    store.commit({b"a": b"2"})
    follow(replica, store)
    update = consumer.take()
    assert update is not None
    assert not update.resynced


def test_lost_history_sets_it_back() -> None:
    store = store_of(a="1")
    store.commit({b"a": b"2"})
    store.commit({b"b": b"1"})
    replica = Replica(store.snapshot())
    store.forget(2)
    with pytest.raises(Diverged, match="is at revision 2, and was at 4"):
        replica.settle(Check(replica.revision, 1, header_at(2), newest=0))
    replica.replace(store.snapshot())
    assert (replica.revision, replica.proved) == (2, 2)
    assert dict(replica.mapping) == store.range(2)


# Proofs and checks


@pytest.mark.parametrize(
    ("lost", "why"),
    [
        (
            [0],
            "b'a' is version 2 of revision 3 on .*, and version 1 of revision 2 here",
        ),
        ([1, 2], "b'd' is version 1 of revision 5 on the server, and absent here"),
        ([1], "there are 4 keys on the server, and 5 here"),
    ],
    ids=["a put", "a deletion and a creation", "a deletion"],
)
def test_a_proof_finds_what_events_hide(lost: list[int], why: str) -> None:
    store = store_of(a="1", b="1", c="1")
    replica = Replica(store.snapshot())
    for changes in ({b"a": b"2"}, {b"b": None}, {b"d": b"1"}, {b"e": b"1"}):
        store.commit(changes)
    # No chain is broken, and the newest change was applied.
    assert follow(replica, store, *lost)
    assert replica.revision == store.revision
    with pytest.raises(Diverged, match=why):
        prove(replica, store)
    assert replica.proved == 2
    replica.replace(store.snapshot())
    assert prove(replica, store)


def test_a_proof_finds_a_lost_deletion_of_a_key_that_was_new() -> None:
    store = store_of(a="1")
    replica = Replica(store.snapshot())
    for changes in ({b"b": b"1"}, {b"b": None}, {b"c": b"1"}):
        store.commit(changes)
    assert follow(replica, store, 1)
    why = "b'b' is not put after revision 2 on the server, and version 1 of revision 3"
    with pytest.raises(Diverged, match=why):
        prove(replica, store)


def test_a_proof_is_of_its_own_revision_while_events_come() -> None:
    store = store_of(a="1", b="1")
    replica = Replica(store.snapshot())
    store.commit({b"a": b"2"})
    follow(replica, store)
    proof = replica.proof()
    for changes in ({b"a": b"3"}, {b"b": None}, {b"c": b"1"}, {b"c": None}):
        store.commit(changes)
        follow(replica, store)
    assert (proof.revision, proof.since) == (3, 2)
    assert replica.prove(proof, store.rows(3, since=2), count=2)
    assert replica.proved == 3


def test_a_proof_of_before_a_fresh_snapshot_says_nothing() -> None:
    store = store_of(a="1")
    replica = Replica(store.snapshot())
    store.commit({b"b": b"1"})
    replica.progressed(3)
    proof = replica.proof()
    replica.replace(store.snapshot())
    assert not replica.prove(proof, store.rows(3, since=2), count=2)


def test_a_check_settles_what_no_event_will() -> None:
    store = store_of(a="1")
    replica = Replica(store.snapshot())
    store.commit({b"b": b"1"})
    store.commit({b"b": None})
    # No key is newer, and the count is that of the replica.
    assert replica.settle(Check(2, 1, header_at(4), newest=0))
    assert replica.revision == 4
    # The events come later, and change nothing.
    assert not replica.apply(as_events(store.events(3, 4)))
    assert dict(replica.mapping) == store.range(4)


def test_a_check_waits_for_a_put_and_for_a_deletion() -> None:
    store = store_of(a="1", b="1")
    replica = Replica(store.snapshot())
    store.commit({b"a": b"2"})
    store.commit({b"b": None})
    check = Check(2, 1, header_at(6), newest=3)
    assert not replica.settle(check)
    replica.apply(as_events(store.events(3, 3)))
    # The replica has one key too many until its deletion comes.
    assert not replica.settle(check)
    replica.apply(as_events(store.events(4, 4)))
    assert replica.settle(check)
    assert replica.revision == 6


def test_a_put_is_waited_for_though_the_number_of_keys_stays() -> None:
    store = store_of(a="1")
    replica = Replica(store.snapshot())
    store.commit({b"a": b"2"})
    check = Check(2, 1, header_at(5), newest=3)
    assert not replica.settle(check)
    follow(replica, store)
    assert replica.settle(check)
    assert replica.revision == 5


def test_a_check_says_nothing_of_what_came_before_it() -> None:
    store = store_of(a="1")
    store.commit({b"a": b"2"})
    store.commit({b"a": b"3"})
    replica = Replica(store.snapshot())
    # Nothing was put after revision 4, but this replica is set back to revision 2.
    check = Check(4, 1, header_at(6), newest=0)
    store.forget(2)
    replica.replace(store.snapshot())
    assert not replica.settle(check)


def test_a_check_at_the_revision_of_the_replica_settles_at_once() -> None:
    replica = Replica(store_of(a="1").snapshot())
    assert replica.settle(Check(2, 1, header_at(2)))


def test_a_count_settles_by_revision_alone() -> None:
    replica = Replica(store_of(a="1").snapshot())
    check = Check(2, 1, header_at(3))
    assert not replica.settle(check)
    replica.progressed(3)
    assert replica.settle(check)


# The mapping and its views


def test_a_prefix_is_a_live_view() -> None:
    store = store_of(a="1", b1="1", b2="1", c="1")
    replica = Replica(store.snapshot())
    view = construct(PrefixView, lambda: replica, "b")
    assert dict(view) == {key: store.range(2)[key] for key in (b"b1", b"b2")}
    looked_up: list[object] = ["b1", b"b1", "a", b"c", 5]
    assert [key in view for key in looked_up] == [True, True, False, False, False]
    store.commit({b"b1": None, b"b3": b"1"})
    follow(replica, store)
    assert list(view) == [b"b2", b"b3"]
    assert len(view) == 2
    assert view["b3"].value == b"1"
    assert view.get("b1") is None
    assert view.get("b1", "none") == "none"
    with pytest.raises(KeyError, match="b1"):
        view["b1"]
    # The prefix itself is a key of its view, and that of "" has all keys.
    assert list(construct(PrefixView, lambda: replica, "b2")) == [b"b2"]
    assert construct(PrefixView, lambda: replica, "b2").get("b2")
    assert construct(PrefixView, lambda: replica, "").get("c")


def test_a_copy_is_a_snapshot_at_the_revision_of_the_replica() -> None:
    store = store_of(a="1")
    replica = Replica(store.snapshot())
    store.commit({b"b": b"1"})
    follow(replica, store)
    copy = replica.copy(header_at(9))
    store.commit({b"a": None})
    follow(replica, store)
    assert dict(copy) == store.range(3)
    assert (copy.revision, copy.header) == (3, header_at(9))


def test_iteration_goes_on_while_nothing_changes() -> None:
    store = store_of(a="1", b="1")
    replica = Replica(store.snapshot())
    keys = []
    for key in construct(PrefixView, lambda: replica, ""):
        keys.append(key)
        replica.apply([])
        replica.progressed(9)
        replica.replace(store.snapshot())
    assert keys == [b"a", b"b"]


def test_iteration_does_not_mix_two_states() -> None:
    store = store_of(a="1", b="1", c="1")
    replica = Replica(store.snapshot())
    with pytest.raises(RuntimeError, match="has changed during iteration"):
        for _ in construct(PrefixView, lambda: replica, ""):
            store.commit({b"c": b"2"})
            follow(replica, store)


@pytest.mark.parametrize("broken", [False, True])
def test_iteration_notices_changes_that_are_undone(broken: bool) -> None:
    """A key created and deleted, or a response undone, may move the keys around it."""
    store = store_of(**{f"k{i:04}": "1" for i in range(2_100)})
    replica = Replica(store.snapshot())
    before = dict(replica.mapping)
    keys = replica.keys(b"", b"\0")
    next(keys)
    if broken:
        for i in range(600):
            store.commit({b"k%04d" % i: None})
        store.commit({b"k2000": b"2"})
        store.commit({b"k2000": b"3"})
        with pytest.raises(Diverged):
            follow(replica, store, 600)
    else:
        store.commit({b"z": b"1"})
        store.commit({b"z": None})
        assert not follow(replica, store)
    assert dict(replica.mapping) == before
    with pytest.raises(RuntimeError, match="changed"):
        list(keys)


@pytest.mark.parametrize(("size", "text"), [(100, "b'%s'"), (101, "b'%s'...")])
def test_a_key_is_shown_up_to_a_hundred_bytes(size: int, text: str) -> None:
    assert shown(b"k" * size) == text % ("k" * 100)


def test_a_long_key_is_cut_in_a_message() -> None:
    store = Store(b"")
    replica = Replica(store.snapshot())
    store.commit({b"\n" * 1000: b"1"})
    store.commit({b"\n" * 1000: b"2"})
    with pytest.raises(Diverged) as caught:
        follow(replica, store, 0)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
