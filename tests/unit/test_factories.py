"""Factories of values: their defaults, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trio_etcd_watch import (
    CompactedError,
    EventType,
    KeyValue,
    PermissionDeniedError,
    ResponseHeader,
    WatchCanceledError,
    WatchError,
)
from trio_etcd_watch.testing import (
    compacted_error,
    delete_event,
    key_value,
    permission_denied_error,
    put_event,
    snapshot,
    watch_response,
)


def test_a_put() -> None:
    event = put_event("ä", "1", mod_revision=5, lease=7)
    assert event.type is EventType.PUT
    assert event.is_create
    kv = event.kv
    assert (kv.key, kv.value) == ("ä".encode(), b"1")
    assert (kv.create_revision, kv.mod_revision, kv.version, kv.lease) == (5, 5, 1, 7)
    assert event == put_event(b"\xc3\xa4", b"1", mod_revision=5, lease=7)


def test_what_is_filled_in() -> None:
    filled = KeyValue._make(b"a", b"", 5, 5, 1, 0)
    assert key_value("a", mod_revision=5) == filled
    assert put_event("a", mod_revision=5).kv == filled
    assert put_event("a", mod_revision=5).prev_kv is None
    deleted = KeyValue._make(b"a", b"", 0, 5, 0, 0)
    assert delete_event("a", mod_revision=5).kv == deleted
    assert delete_event("a", mod_revision=5).prev_kv is None
    response = watch_response()
    assert response.header == ResponseHeader(
        cluster_id=1, member_id=1, revision=1, raft_term=1
    )
    assert (response.created, response.canceled) == (False, False)
    assert (response.cancel_reason, response.compact_revision) == ("", 0)
    assert snapshot([]).header == response.header


def test_a_put_on_another() -> None:
    before = put_event("a", "1", mod_revision=5).kv
    event = put_event("a", "2", mod_revision=6, prev_kv=before)
    assert event.is_modify
    assert event.prev_kv == before
    assert (event.kv.create_revision, event.kv.version) == (5, 2)
    assert put_event("a", mod_revision=7, prev_kv=event.kv).kv.version == 3
    # A deletion that this consumer did not get comes in between.
    recreated = put_event("a", mod_revision=9, create_revision=9, prev_kv=event.kv)
    assert recreated.kv.version == 1
    assert put_event("a", mod_revision=9, create_revision=2).kv.version == 2
    later = put_event("a", mod_revision=9, version=5, prev_kv=event.kv)
    assert later.kv.version == 5


def test_a_deletion() -> None:
    before = key_value("a", "1", mod_revision=5)
    event = delete_event("a", mod_revision=6, prev_kv=before)
    assert event.type is EventType.DELETE
    assert (event.is_create, event.is_modify) == (False, False)
    assert event.prev_kv == before
    kv = event.kv
    assert (kv.key, kv.value, kv.mod_revision) == (b"a", b"", 6)
    assert (kv.create_revision, kv.version, kv.lease) == (0, 0, 0)


def test_a_response() -> None:
    events = (put_event("a", mod_revision=5), delete_event("a", mod_revision=6))
    response = watch_response(*events)
    assert tuple(response.events) == events
    assert response.header == ResponseHeader(
        cluster_id=1, member_id=1, revision=6, raft_term=1
    )
    assert not response.is_progress_notify
    assert watch_response(*events, revision=9, cluster_id=3).header.revision == 9
    response.raise_for_error()


def test_other_responses() -> None:
    assert watch_response(revision=7).is_progress_notify
    created = watch_response(revision=7, created=True)
    assert created.created
    assert not created.is_progress_notify
    with pytest.raises(WatchCanceledError, match="because"):
        watch_response(canceled=True, cancel_reason="because").raise_for_error()
    with pytest.raises(CompactedError) as info:
        watch_response(compact_revision=9).raise_for_error()
    # In etcd's words.
    assert info.value.response.canceled
    assert info.value.response.header.revision == 0
    given = watch_response(compact_revision=9, revision=12)
    assert given.header.revision == 12


def test_a_snapshot() -> None:
    kvs = [key_value(name, mod_revision=at) for name, at in (("b", 3), ("a", 7))]
    made = snapshot(kvs)
    assert list(made) == [b"a", b"b"]
    assert made.revision == made.header.revision == 7
    assert made["b"] is kvs[0]
    assert snapshot(kvs, revision=9).revision == 9
    assert snapshot([]).revision == 1


def test_errors() -> None:
    compacted = compacted_error(9)
    assert compacted.compact_revision == 9
    assert "compacted" in str(compacted)
    denied = permission_denied_error()
    assert isinstance(denied, PermissionDeniedError)
    assert denied.reason == "etcdserver: permission denied"
    assert denied.response.canceled
    assert isinstance(denied, WatchError)


A = key_value("a", mod_revision=5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: key_value("a", mod_revision=0), "create_revision must be from 1"),
        (lambda: put_event("a", mod_revision=2, create_revision=3), "got 3 for 2"),
        (lambda: put_event("a", mod_revision=2, version=2), "version must be 1"),
        (
            lambda: put_event("a", mod_revision=2, create_revision=1, version=1),
            "version must be 1",
        ),
        (
            lambda: put_event("a", mod_revision=2, create_revision=1, version=0),
            "version must be 1",
        ),
        (lambda: put_event("b", mod_revision=6, prev_kv=A), "of the same key"),
        (lambda: put_event("a", mod_revision=5, prev_kv=A), "above that of prev_kv"),
        (lambda: delete_event("a", mod_revision=5, prev_kv=A), "above that of prev"),
        (
            lambda: watch_response(
                put_event("a", mod_revision=6), put_event("b", mod_revision=5)
            ),
            r"ordered by revision, got \[6, 5\]",
        ),
        (
            lambda: watch_response(put_event("a", mod_revision=6), revision=5),
            "got 5 for 6",
        ),
        (lambda: snapshot([A], revision=4), "must not be below 5, got 4"),
        (lambda: snapshot([A, A]), "twice"),
    ],
)
def test_what_no_server_sends(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


WRONG: Any = 7


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: key_value(WRONG, mod_revision=1), "key"),
        (lambda: key_value("a", WRONG, mod_revision=1), "value"),
        (lambda: put_event(WRONG, mod_revision=1), "key"),
        (lambda: put_event("a", WRONG, mod_revision=1), "value"),
        (lambda: put_event(WRONG, mod_revision=6, prev_kv=A), "key"),
        (lambda: delete_event(WRONG, mod_revision=1), "key"),
        (lambda: delete_event(WRONG, mod_revision=6, prev_kv=A), "key"),
    ],
)
def test_keys_and_values_are_str_or_bytes(
    make: Callable[[], object], what: str
) -> None:
    with pytest.raises(TypeError, match=f"^{what} must be str or bytes, got 7$"):
        make()
