"""The output of the command line for values."""

from __future__ import annotations

import json

from tests.machine.store import as_events, store_of
from trio_etcd_watch import Event, WatchResponse
from trio_etcd_watch._changes import Change, MirrorUpdate
from trio_etcd_watch._cli.printing import Human, Json, escaped
from trio_etcd_watch._face import construct
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._responses import decode


def response(*events: pb.Event, revision: int = 9) -> WatchResponse:
    raw = pb.WatchResponse(events=events)
    raw.header.revision = revision
    return construct(WatchResponse, decode(raw.SerializeToString()))


def put(key: bytes, value: bytes, before: bytes | None = None) -> pb.Event:
    event = pb.Event(kv=pb.KeyValue(key=key, value=value, mod_revision=5, version=1))
    if before is not None:
        event.prev_kv.key = key
        event.prev_kv.value = before
    return event


def delete(key: bytes) -> pb.Event:
    kv = pb.KeyValue(key=key, mod_revision=6)
    return pb.Event(type=pb.Event.DELETE, kv=kv)


def values(*raw: pb.Event) -> list[Event]:
    return list(as_events(raw))


ODD = b"\xff\n\x1b[2J\xe2\x80\xae"


def test_as_etcdctl() -> None:
    printed = Human().response(response(put(b"a", b"1"), delete(b"b"), put(ODD, ODD)))
    assert printed == b"PUT\na\n1\nDELETE\nb\n\nPUT\n" + ODD + b"\n" + ODD + b"\n"
    assert Human().response(response(put(b"a", b"2", b"1"))) == b"PUT\na\n1\na\n2\n"
    assert Human().response(response(revision=7)) == b"progress notify: 7\n"


def test_colours() -> None:
    human = Human(coloured=True)
    assert human.response(response(put(b"a", b"1"), delete(b"b"))) == (
        b"\x1b[32mPUT\x1b[0m\n\x1b[1ma\x1b[0m\n1\n"
        b"\x1b[31mDELETE\x1b[0m\n\x1b[1mb\x1b[0m\n\n"
    )
    assert human.response(response(revision=7)) == b"\x1b[2mprogress notify: 7\x1b[0m\n"


def test_a_terminal_is_given_no_commands() -> None:
    printed = Human(terminal=True).response(response(put(ODD, ODD)))
    # Neither is a character that changes the direction of writing printed.
    assert printed == b"PUT\n" + 2 * b"\\xff\\n\\x1b[2J\\u202e\n"
    assert escaped("käse 🧀".encode()) == "käse 🧀".encode()


def test_keys_of_a_snapshot() -> None:
    snapshot = store_of(b="2", a="1").snapshot()
    assert list(Human().keys(snapshot)) == [b"a\n1\n", b"b\n2\n"]
    first, _ = map(json.loads, Json().keys(snapshot))
    assert first["revision"] == 2
    assert first["kv"]["key_utf8"] == "a"


def test_changes_of_a_mirror() -> None:
    (old, new) = (event.kv for event in values(put(b"a", b"1"), put(b"a", b"2")))
    update = MirrorUpdate(
        8, (Change(b"a", old, new), Change(b"b", old, None)), resynced=True
    )
    assert Human().update(update) == b"PUT\na\n2\nDELETE\nb\n\n"
    put_line, delete_line = map(json.loads, Json().update(update).splitlines())
    assert (put_line["type"], delete_line["type"]) == ("PUT", "DELETE")
    assert put_line["prev_kv"]["value_utf8"] == "1"
    assert delete_line["kv"] == {"key": "Yg==", "key_utf8": "b"}
    assert put_line["resynced"] is delete_line["resynced"] is True
    assert put_line["revision"] == delete_line["revision"] == 8


def test_json() -> None:
    lines = Json().response(response(put(b"a", ODD), delete(b"b")))
    assert lines.isascii()
    first, second = map(json.loads, lines.splitlines())
    assert first == {
        "type": "PUT",
        "kv": {
            "key": "YQ==",
            "key_utf8": "a",
            "create_revision": 0,
            "mod_revision": 5,
            "version": 1,
            "value": "/wobWzJK4oCu",
            "lease": 0,
        },
    }
    assert second["type"] == "DELETE"
    assert json.loads(Json().response(response(revision=7))) == {
        "type": "PROGRESS",
        "revision": 7,
    }


def test_a_line_of_json() -> None:
    assert Json().response(response(put(b"a", b"2", b"1"))) == (
        b'{"type":"PUT","kv":{"key":"YQ==","key_utf8":"a","create_revision":0,'
        b'"mod_revision":5,"version":1,"value":"Mg==","value_utf8":"2","lease":0},'
        b'"prev_kv":{"key":"YQ==","key_utf8":"a","create_revision":0,'
        b'"mod_revision":0,"version":0,"value":"MQ==","value_utf8":"1","lease":0}}\n'
    )


def test_a_creation_prints_nothing() -> None:
    raw = pb.WatchResponse(created=True)
    created = construct(WatchResponse, decode(raw.SerializeToString()))
    assert Human().response(created) == Json().response(created) == b""
