"""The arguments of a watch: which are refused, and the request that they become."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trio_etcd_watch._arguments import check_int, check_seconds, key_range
from trio_etcd_watch._cursor import MAX_REVISION
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._requests import (
    WatchSpec,
    create_request,
    mirror_spec,
    watch_spec,
)

ALL: dict[str, Any] = {"prefix": True, "range_end": "z", "from_key": True}


@pytest.mark.parametrize(
    ("key", "options", "expected"),
    [
        ("k", {}, (b"k", b"")),
        (b"\xff", {}, (b"\xff", b"")),
        ("é", {}, ("é".encode(), b"")),
        ("k", {"prefix": True}, (b"k", b"l")),
        ("ab", {"prefix": True}, (b"ab", b"ac")),
        (b"a\xff\xff", {"prefix": True}, (b"a\xff\xff", b"b")),
        ("aX", {"prefix": True}, (b"aX", b"aY")),
        # No key is above all keys with this prefix, so there is no end.
        (b"\xff\xff", {"prefix": True}, (b"\xff\xff", b"\0")),
        # etcd has no empty key, and refuses it in a request.
        ("", {"prefix": True}, (b"\0", b"\0")),
        ("k", {"from_key": True}, (b"k", b"\0")),
        ("", {"from_key": True}, (b"\0", b"\0")),
        ("k", {"range_end": "l"}, (b"k", b"l")),
        ("k", {"range_end": b"k\0"}, (b"k", b"k\0")),
        ("", {"range_end": "l"}, (b"\0", b"l")),
        ("k", {"range_end": b"\0"}, (b"k", b"\0")),
    ],
)
def test_ranges(
    key: str | bytes, options: dict[str, Any], expected: tuple[bytes, bytes]
) -> None:
    assert key_range(key, **options) == expected
    spec = watch_spec(key, **options)
    assert (spec.key, spec.range_end) == expected


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"key": 5}, TypeError, "key must be str or bytes, got 5"),
        (
            {"key": "\ud800"},
            ValueError,
            r"key cannot be encoded as UTF-8: '\ud800'",
        ),
        (
            {"key": ""},
            ValueError,
            "key must not be empty, got ''; prefix=True with it is every key",
        ),
        (
            {"key": "k", "range_end": 5},
            TypeError,
            "range_end must be str or bytes, got 5",
        ),
        (
            {"key": "k", "range_end": "k"},
            ValueError,
            "range_end must be above key, got b'k' for b'k'",
        ),
        (
            {"key": "k", "range_end": ""},
            ValueError,
            "range_end must be above key, got b'' for b'k'",
        ),
    ],
)
def test_ranges_that_are_refused(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        watch_spec(**options)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "names",
    [("prefix", "range_end"), ("prefix", "from_key"), ("range_end", "from_key")],
)
def test_only_one_way_to_give_a_range(names: tuple[str, str]) -> None:
    options = {name: ALL[name] for name in names}
    with pytest.raises(ValueError, match="exclude each other") as caught:
        watch_spec("k", **options)
    assert (
        str(caught.value) == f"{names[0]} and {names[1]} exclude each other; give one"
    )


def test_a_watch_without_options() -> None:
    assert watch_spec("k") == WatchSpec(key=b"k", range_end=b"")
    assert watch_spec("k") == WatchSpec(
        key=b"k",
        range_end=b"",
        start_revision=0,
        prev_kv=False,
        no_put=False,
        no_delete=False,
        progress_notify=False,
        created_notify=False,
        resume_notify=False,
        max_buffered_events=10_000,
        max_buffered_bytes=67_108_864,
    )


def test_a_watch_with_every_option() -> None:
    options: dict[str, Any] = {
        "start_revision": MAX_REVISION,
        "prev_kv": True,
        "no_put": True,
        "progress_notify": True,
        "created_notify": True,
        "max_buffered_events": 1,
        "max_buffered_bytes": 1,
    }
    expected = WatchSpec(key=b"k", range_end=b"", **options)
    assert watch_spec("k", **options) == expected
    assert watch_spec("k", no_delete=True).no_delete


@pytest.mark.parametrize(
    ("name", "low"),
    [("start_revision", 0), ("max_buffered_events", 1), ("max_buffered_bytes", 1)],
)
def test_numbers_have_bounds(name: str, low: int) -> None:
    for good in (low, MAX_REVISION):
        options: dict[str, Any] = {name: good}
        assert getattr(watch_spec("k", **options), name) == good
    for bad in (low - 1, MAX_REVISION + 1):
        options = {name: bad}
        with pytest.raises(ValueError, match=f"^{name} must be between {low} and"):
            watch_spec("k", **options)
    options = {name: "1"}
    with pytest.raises(TypeError, match=f"^{name} must be an int, got '1'$"):
        watch_spec("k", **options)


def test_a_bool_is_no_number() -> None:
    with pytest.raises(TypeError, match="revision must be an int, got True"):
        check_int("revision", True, low=0, high=1)
    with pytest.raises(TypeError, match="timeout must be a number of seconds"):
        check_seconds({"timeout": True})


def test_seconds_are_above_zero() -> None:
    check_seconds({"timeout": 1e-9, "other": math.inf})
    for bad in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="timeout must be above 0 seconds, got"):
            check_seconds({"timeout": bad})


def test_a_watch_that_excludes_everything() -> None:
    with pytest.raises(ValueError, match="no_put and no_delete exclude each other"):
        watch_spec("k", no_put=True, no_delete=True)


def test_the_watch_of_a_mirror() -> None:
    assert mirror_spec(b"k", b"l", 7) == WatchSpec(
        key=b"k",
        range_end=b"l",
        start_revision=7,
        progress_notify=True,
        created_notify=True,
        resume_notify=True,
        max_buffered_events=MAX_REVISION,
        max_buffered_bytes=MAX_REVISION,
    )


@pytest.mark.parametrize("prev_kv", [False, True])
@pytest.mark.parametrize("fragment", [False, True])
@pytest.mark.parametrize(
    ("filters", "names"),
    [([], []), (["no_put"], ["NOPUT"]), (["no_delete"], ["NODELETE"])],
)
def test_a_request_has_what_was_asked_for(
    prev_kv: bool, fragment: bool, filters: list[str], names: list[str]
) -> None:
    options: dict[str, Any] = dict.fromkeys(filters, True)
    spec = watch_spec("k", prefix=True, prev_kv=prev_kv, **options)
    request = pb.WatchRequest.FromString(create_request(spec, 7, fragment=fragment))
    assert request.create_request == pb.WatchCreateRequest(
        key=b"k",
        range_end=b"l",
        start_revision=7,
        prev_kv=prev_kv,
        # progress_always
        progress_notify=True,
        fragment=fragment,
        filters=names,
    )


def test_fragments_come_only_on_demand() -> None:
    request = pb.WatchRequest.FromString(create_request(watch_spec("k"), 1))
    assert not request.create_request.fragment
