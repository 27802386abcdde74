"""The bookmark of the command line is stored whole or not at all, for one range."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trio_etcd_watch._cli.bookmark import Bookmark, BookmarkError, load, parse, store

MARK = Bookmark(key=b"k\xff", range_end=b"\0", cluster_id=2**64 - 1, next_revision=9)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    assert load(path, b"k\xff", b"\0") is None
    store(path, MARK)
    assert load(path, b"k\xff", b"\0") == MARK
    store(path, Bookmark(b"k\xff", b"\0", 1, 10))
    loaded = load(path, b"k\xff", b"\0")
    assert loaded is not None
    assert loaded.next_revision == 10
    assert os.listdir(tmp_path) == ["mark"]


def test_a_cluster_that_is_not_known_yet() -> None:
    early = Bookmark(b"k", b"", cluster_id=0, next_revision=1)
    assert parse(early.dump(), b"k", b"") == early


def test_a_file_of_today_can_be_read_by_later_versions() -> None:
    assert MARK.dump() == (
        b'{"format": "trio-etcd-watch bookmark 1", "cluster_id": 18446744073709551615, '
        b'"key": "a/8=", "range_end": "AA==", "next_revision": 9}\n'
    )


def test_every_part_of_one_is_refused() -> None:
    whole = MARK.dump()
    for length in range(len(whole) - 1):
        with pytest.raises(
            BookmarkError, match="is empty" if not length else "incomplete"
        ):
            parse(whole[:length], b"k\xff", b"\0")
    # The last byte is a line feed.
    assert parse(whole[:-1], b"k\xff", b"\0") == MARK


@pytest.mark.parametrize(
    "change",
    [
        {"format": "trio-etcd-watch bookmark 2"},
        {"next_revision": -1},
        {"next_revision": True},
        {"next_revision": "9"},
        {"cluster_id": None},
        {"key": "no base64"},
        {"range_end": "no base64"},
        {"key": 7},
    ],
)
def test_what_is_none(change: dict[str, object]) -> None:
    content = json.dumps(json.loads(MARK.dump()) | change).encode()
    with pytest.raises(BookmarkError, match="is not a bookmark"):
        parse(content, b"k\xff", b"\0")


@pytest.mark.parametrize("content", [b"[]", b"null", b"\xff", b'{"format": 1}'])
def test_what_is_not_even_an_object_of_ours(content: bytes) -> None:
    with pytest.raises(BookmarkError, match="is not a bookmark"):
        parse(content, b"k", b"")


def test_another_range(tmp_path: Path) -> None:
    store(tmp_path / "mark", MARK)
    for key, range_end in ((b"k", b"\0"), (b"k\xff", b"")):
        with pytest.raises(BookmarkError, match="of another range: b'k"):
            load(tmp_path / "mark", key, range_end)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BookmarkError, match="cannot be read: Is a directory"):
        load(tmp_path, b"k", b"")


def test_a_crash_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever step fails."""
    path = tmp_path / "mark"
    store(path, MARK)
    newer = Bookmark(b"k\xff", b"\0", 1, 10)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    for owner, name in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, crash)
            with pytest.raises(KeyboardInterrupt):
                store(path, newer)
        assert load(path, b"k\xff", b"\0") == MARK
    # A file that the crash left does not prevent the next one.
    assert sorted(os.listdir(tmp_path)) == ["mark", "mark.new"]
    store(path, newer)
    assert os.listdir(tmp_path) == ["mark"]
    assert load(path, b"k\xff", b"\0") == newer


def test_it_is_on_the_disk_before_it_takes_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str | int] = []
    replace = Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: steps.append(os.fstat(file).st_size))

    def noted(self: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    store(tmp_path / "mark", MARK)
    assert steps == [len(MARK.dump()), "replace"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    path, target = tmp_path / "mark", tmp_path / "elsewhere"
    path.symlink_to(target)
    store(path, MARK)
    assert path.is_symlink()
    assert load(target, b"k\xff", b"\0") == MARK
