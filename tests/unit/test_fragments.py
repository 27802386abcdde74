"""A response in parts: whole revisions are handed on, the rest waits."""

from __future__ import annotations

from tests.support.replies import events
from trio_etcd_watch._fragments import Fragments
from trio_etcd_watch._responses import RawResponse, decode


def part(*revisions: int, fragment: bool = True) -> RawResponse:
    message = events(0, *revisions, fragment=fragment)
    return decode(message.SerializeToString())


def add(fragments: Fragments, response: RawResponse) -> list[int]:
    return [event.kv.mod_revision for event in fragments.add(response)]


def test_a_revision_waits_for_its_last_event() -> None:
    fragments = Fragments()
    for count, (revisions, complete) in enumerate(
        [
            ((11, 12), [11]),
            ((12, 12), []),
            ((12, 13), [12, 12, 12, 12]),
            ((), []),
            ((14,), [13]),
            ((14, 15, 15), [14, 14]),
            ((16, 17), [15, 15, 16]),
        ],
        start=1,
    ):
        assert add(fragments, part(*revisions)) == complete
        assert fragments.count == count
    assert add(fragments, part(17, 18, fragment=False)) == [17, 17, 18]
    assert (fragments.count, fragments.size) == (0, 0)
    assert add(fragments, part(19, fragment=False)) == [19]


def test_the_size_is_that_of_what_waits() -> None:
    fragments = Fragments()
    sizes = []
    for revisions in ((11, 12, 12, 12), (12, 12), (12, 13), (), (14,)):
        fragments.add(part(*revisions))
        sizes.append(fragments.size)
    four, two, one = (
        part(*revisions).size for revisions in ((11, 12, 12, 12), (12, 12), (14,))
    )
    assert sizes == [
        four * 3 // 4,
        four * 3 // 4 + two,
        two // 2,
        two // 2,
        one,
    ]


def test_what_is_cleared_is_asked_for_again() -> None:
    fragments = Fragments()
    add(fragments, part(11, 12))
    fragments.clear()
    assert (fragments.count, fragments.size) == (0, 0)
    assert add(fragments, part(12, 13)) == [12]
    assert add(fragments, part(fragment=False)) == [13]
