"""The updates of consumers, and what is kept for them."""

from __future__ import annotations

import gc

from tests.machine.store import Store, follow, store_of
from trio_etcd_watch._changes import Position
from trio_etcd_watch._replica import Replica
from trio_etcd_watch._views import Consumer


def next_changes(consumer: Consumer) -> list[tuple[bytes, bytes | None, bytes | None]]:
    """Return the changes of one update, as values; empty if there is none."""
    update = consumer.take()
    return [
        (change.key, change.old and change.old.value, change.new and change.new.value)
        for change in (update.changes if update else ())
    ]


def test_the_first_update_is_everything_even_nothing() -> None:
    consumer = Consumer(Replica(store_of(b="1", a="1").snapshot()), initial=True)
    assert next_changes(consumer) == [(b"a", None, b"1"), (b"b", None, b"1")]
    assert consumer.take() is None
    empty = Consumer(Replica(Store(b"").snapshot()), initial=True).take()
    assert empty is not None
    assert (empty.revision, empty.changes, empty.resynced) == (1, (), False)


def test_a_slow_consumer_is_told_the_difference_alone() -> None:
    store = store_of(a="1", b="1", d="1")
    replica = Replica(store.snapshot())
    consumer = Consumer(replica, initial=False)
    for changes in (
        {b"a": b"2"},
        {b"a": b"3"},
        {b"b": None},
        {b"c": b"1"},
        {b"c": None},  # created and deleted
        {b"d": b"1"},  # the same value again
    ):
        store.commit(changes)
        follow(replica, store)
    assert next_changes(consumer) == [
        (b"a", b"1", b"3"),
        (b"b", b"1", None),
        (b"d", b"1", b"1"),
    ]
    assert consumer.take() is None


def test_what_comes_and_goes_in_one_response_is_nothing() -> None:
    store = store_of(a="1")
    replica = Replica(store.snapshot())
    consumer = Consumer(replica, initial=False)
    store.commit({b"b": b"1"})
    store.commit({b"b": None})
    assert not follow(replica, store)
    assert replica.revision == 4
    assert consumer.take() is None


def test_a_change_is_told_with_what_follows_it() -> None:
    store = store_of(a="1")
    replica = Replica(store.snapshot())
    consumer = Consumer(replica, initial=False)
    changes: tuple[dict[bytes, bytes | None], ...] = (
        {b"a": b"2", b"b": b"1"},
        {b"a": None, b"b": b"2"},
    )
    for each in changes:
        store.commit(each)
        follow(replica, store)
    assert next_changes(consumer) == [(b"a", b"1", None), (b"b", None, b"2")]


def test_what_comes_and_goes_is_forgotten_with_how_it_came() -> None:
    position = Position()
    (kv,) = store_of(a="1").range(2).values()
    position.note({b"a": None}, {b"a": kv}, resynced=True)
    assert position.resynced
    position.note({b"a": kv}, {}, resynced=False)
    assert position.unseen == {}
    assert not position.resynced


def test_a_resync_is_told_with_what_is_conflated_with_it() -> None:
    store = store_of(a="1")
    replica = Replica(store.snapshot())
    early = Consumer(replica, initial=False)
    store.commit({b"b": b"1"})
    follow(replica, store)
    store.commit({b"a": b"2"})
    replica.replace(store.snapshot())
    store.commit({b"c": b"1"})
    late = Consumer(replica, initial=False)
    follow(replica, store)
    updates = early.take(), late.take()
    assert [update and update.resynced for update in updates] == [True, False]


def test_sleeping_consumers_cost_one_state_and_dropped_ones_nothing() -> None:
    store = store_of(a="1")
    replica = Replica(store.snapshot())
    consumers = [Consumer(replica, initial=False) for _ in range(100)]
    for count in range(1_000):
        store.commit({b"k%d" % (count % 10): None if count % 3 else b"1"})
    follow(replica, store)
    assert len(replica._positions) == 1
    assert max(len(position.unseen) for position in replica._positions) <= 10
    assert all(next_changes(consumer) for consumer in consumers)
    del consumers
    gc.collect()
    store.commit({b"a": b"2"})
    follow(replica, store)
    assert len(replica._positions) == 0
