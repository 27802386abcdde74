"""Each check of `robustness` finds its kind of violation, and passes what is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.support.robustness import (
    CHECKS,
    DELETE,
    NO_END,
    PUT,
    Event,
    History,
    KeyValue,
    Kind,
    Record,
    Request,
    Response,
    Session,
    Write,
    check_history,
    in_range,
    is_silently_compacted,
    violations,
)


def change(type_: str, key: bytes, revision: int, value: bytes = b"") -> Event:
    """Return a change for `History`: the event of etcd without prev_kv."""
    return Event(type_, KeyValue(key, value, 0, revision, 0), None, is_create=False)


def history(*changes: Event, compacted: int = 0) -> History:
    """Return the history of these changes, with the fields that etcd computes."""
    filled = History(changes).events
    return History(
        (e._replace(prev_kv=None, is_create=False) for e in filled), compacted
    )


TRUTH = history(
    change(PUT, b"a", 2, b"1"),
    change(PUT, b"a", 3, b"2"),
    change(PUT, b"b", 3, b"3"),
    change(DELETE, b"a", 4),
    change(PUT, b"c", 5, b"out of range"),
    change(PUT, b"a", 6, b"4"),
    change(PUT, b"a", 7, b"5"),
    change(PUT, b"b", 7, b"6"),
    change(PUT, b"b", 8, b"7"),
)

REQUEST = Request(b"a", b"c", prev_kv=True, progress_notify=True)


def events(*revisions: int) -> tuple[Event, ...]:
    return tuple(
        event for revision in revisions for event in TRUTH.at(REQUEST, revision)
    )


def response(*revisions: int) -> Response:
    return Response(Kind.EVENTS, events(*revisions), 8, revisions[-1] + 1)


def one(event: Event, bookmark: int) -> Response:
    return Response(Kind.ONE_EVENT, (event,), 0, bookmark)


def progress(revision: int) -> Response:
    return Response(Kind.PROGRESS, (), revision, revision + 1)


def right() -> Record:
    """Return two sessions with all kinds of responses, and no violations."""
    a7, b7 = events(7)
    first = [response(2, 3), progress(3), response(4), progress(5)]
    second = [one(events(6)[0], 7), one(a7, 7), one(b7, 8), response(8)]
    return Record(
        "watch",
        REQUEST,
        [Session(2, first, bookmark=6), Session(6, second, bookmark=9)],
    )


def names(record: Record, truth: History = TRUTH) -> set[str]:
    return {text.split(":")[0] for text in violations(record, truth)}


def test_nothing_is_wrong_with_a_right_record() -> None:
    assert violations(right(), TRUTH) == []


def test_nothing_is_wrong_with_a_watch_that_got_nothing() -> None:
    record = Record("idle", REQUEST, [Session(9, [progress(8)], bookmark=9)])
    assert violations(record, TRUTH) == []
    assert violations(Record("not even created", REQUEST), TRUTH) == []


# Each makes one error, and names exactly the checks that must find it.

Doctor = Callable[[Record], None]
FAULTS: list[tuple[set[str], Doctor]] = []


def caught_by(*checks: str) -> Callable[[Doctor], Doctor]:
    def register(doctor: Doctor) -> Doctor:
        FAULTS.append((set(checks), doctor))
        return doctor

    return register


def doctored(
    record: Record, index: int, change: Callable[[Response], Response], session: int = 0
) -> None:
    responses = record.sessions[session].responses
    responses[index] = change(responses[index])


@caught_by("filter")
def key_out_of_range(record: Record) -> None:
    # The other checks also use the request.
    record.request = replace(REQUEST, key=b"b")


@caught_by("filter", "reliable")
def event_of_another_key(record: Record) -> None:
    # In place of a progress notification, so that nothing is missing.
    stray = TRUTH.matching(Request(b"c"))[0]
    stray = stray._replace(prev_kv=None)
    doctored(record, 3, lambda _: Response(Kind.EVENTS, (stray,), 5, 6))


@caught_by("filter")
def event_filtered_out(record: Record) -> None:
    record.request = replace(REQUEST, no_delete=True)


@caught_by("filter")
def progress_not_asked_for(record: Record) -> None:
    record.request = replace(REQUEST, progress_notify=False)


@caught_by("filter")
def creation_not_asked_for(record: Record) -> None:
    record.sessions[0].responses.insert(0, Response(Kind.CREATED, (), 1, 2))


@caught_by("filter")
def response_without_events(record: Record) -> None:
    record.sessions[0].responses.append(Response(Kind.EVENTS, (), 8, 6))


@caught_by("ordered", "resumable", "reliable")
def events_reordered_in_a_response(record: Record) -> None:
    swapped = (*events(3), *events(2))
    doctored(record, 0, lambda each: each._replace(events=swapped))


@caught_by("ordered", "resumable", "reliable", "bookmarkable")
def responses_reordered(record: Record) -> None:
    responses = record.sessions[0].responses
    responses[0], responses[2] = responses[2], responses[0]


@caught_by("reliable")
def reordered_within_a_revision(record: Record) -> None:
    a3, b3 = events(3)
    doctored(record, 0, lambda each: each._replace(events=(*events(2), b3, a3)))


@caught_by("unique", "reliable")
def event_repeated_in_a_response(record: Record) -> None:
    doctored(record, 2, lambda each: each._replace(events=events(4, 4)))


@caught_by("unique", "atomic", "bookmarkable", "reliable")
def response_repeated(record: Record) -> None:
    responses = record.sessions[0].responses
    responses.insert(3, responses[2])


@caught_by("unique", "ordered", "bookmarkable", "resumable", "reliable")
def repeated_by_the_next_session(record: Record) -> None:
    record.sessions[1].responses.insert(0, response(2))


@caught_by("atomic", "bookmarkable", "resumable")
def revision_torn(record: Record) -> None:
    a3, b3 = events(3)
    record.sessions[0].responses[:1] = [
        Response(Kind.EVENTS, (*events(2), a3), 8, 4),
        Response(Kind.EVENTS, (b3,), 8, 4),
    ]


@caught_by("atomic")
def revision_torn_with_honest_bookmarks(record: Record) -> None:
    a3, b3 = events(3)
    record.sessions[0].responses[:1] = [
        Response(Kind.EVENTS, (*events(2), a3), 8, 3),
        Response(Kind.EVENTS, (b3,), 8, 4),
    ]


@caught_by("atomic", "resumable", "reliable")
def half_a_revision_lost(record: Record) -> None:
    doctored(record, 0, lambda each: each._replace(events=each.events[:-1]))


@caught_by("bookmarkable")
def event_below_a_progress_notification(record: Record) -> None:
    doctored(record, 1, lambda each: each._replace(header_revision=4))


@caught_by("bookmarkable")
def progress_does_not_move_the_bookmark(record: Record) -> None:
    doctored(record, 3, lambda each: each._replace(bookmark=5))
    record.sessions[0].bookmark = record.sessions[1].start = 5


@caught_by("bookmarkable", "resumable")
def bookmark_falls(record: Record) -> None:
    doctored(record, 3, lambda each: each._replace(bookmark=4))


@caught_by("bookmarkable", "resumable")
def bookmark_falls_at_the_end(record: Record) -> None:
    record.sessions[1].bookmark = 8


@caught_by("bookmarkable", "resumable")
def bookmark_too_far(record: Record) -> None:
    doctored(record, 0, lambda each: each._replace(bookmark=5))


@caught_by("bookmarkable", "resumable")
def bookmark_too_far_within_a_revision(record: Record) -> None:
    doctored(record, 1, lambda each: each._replace(bookmark=8), session=1)


@caught_by("resumable")
def bookmark_repeats(record: Record) -> None:
    doctored(record, 0, lambda each: each._replace(bookmark=3))


@caught_by("resumable")
def bookmark_before_the_start(record: Record) -> None:
    record.sessions = [Session(9, [], bookmark=8)]


@caught_by("resumable", "reliable")
def bookmark_too_far_after_leaving(record: Record) -> None:
    # What events() had not delivered yet is lost.
    session = record.sessions[1]
    session.responses = session.responses[:2]
    session.bookmark = 9


@caught_by("resumable")
def continued_elsewhere(record: Record) -> None:
    record.sessions[1].start = 5


@caught_by("resumable", "reliable")
def first_event_lost_on_resume(record: Record) -> None:
    del record.sessions[1].responses[0]


@caught_by("resumable")
def compacted_without_a_compaction(record: Record) -> None:
    record.sessions[0].responses.pop()
    record.sessions[0].compacted = 6
    record.sessions[0].bookmark = 5


@caught_by("is_create", "reliable")
def is_create_of_a_modification(record: Record) -> None:
    event = events(8)[0]
    wrong = event._replace(
        kv=event.kv._replace(create_revision=8, version=1), is_create=True
    )
    doctored(record, 3, lambda each: each._replace(events=(wrong,)), session=1)


@caught_by("is_create")
def is_create_forgotten(record: Record) -> None:
    wrong = events(6)[0]._replace(is_create=False)
    doctored(record, 0, lambda each: each._replace(events=(wrong,)), session=1)


@caught_by("reliable", "resumable")
def event_lost(record: Record) -> None:
    del record.sessions[0].responses[2]


@caught_by("reliable", "resumable")
def last_event_lost(record: Record) -> None:
    del record.sessions[1].responses[3]


@caught_by("reliable")
def value_changed(record: Record) -> None:
    event = events(8)[0]
    wrong = event._replace(kv=event.kv._replace(value=b"another"))
    doctored(record, 3, lambda each: each._replace(events=(wrong,)), session=1)


@caught_by("reliable")
def event_invented(record: Record) -> None:
    invented = change(PUT, b"a", 9, b"!")
    record.sessions[1].responses.append(Response(Kind.EVENTS, (invented,), 9, 10))
    record.sessions[1].bookmark = 10


@caught_by("prev_kv")
def prev_kv_wrong(record: Record) -> None:
    event = events(4)[0]
    wrong = event._replace(prev_kv=TRUTH.events[0].kv)
    doctored(record, 2, lambda each: each._replace(events=(wrong,)))


@caught_by("prev_kv")
def prev_kv_missing(record: Record) -> None:
    wrong = events(4)[0]._replace(prev_kv=None)
    doctored(record, 2, lambda each: each._replace(events=(wrong,)))


@caught_by("prev_kv")
def prev_kv_of_a_creation(record: Record) -> None:
    wrong = events(6)[0]._replace(prev_kv=TRUTH.events[0].kv)
    doctored(record, 0, lambda each: each._replace(events=(wrong,)), session=1)


@caught_by("prev_kv")
def prev_kv_not_asked_for(record: Record) -> None:
    record.request = replace(REQUEST, prev_kv=False)


@pytest.mark.parametrize(
    ("checks", "doctor"), FAULTS, ids=[doctor.__name__ for _, doctor in FAULTS]
)
def test_a_doctored_record_is_caught(checks: set[str], doctor: Doctor) -> None:
    record = right()
    doctor(record)
    found = names(record)
    if checks == {"filter"}:
        # With another request, other checks miss events that it asks for.
        assert "filter" in found
    else:
        assert found == checks


def test_every_check_has_a_fault() -> None:
    assert set(CHECKS) == set().union(*(checks for checks, _ in FAULTS))


def test_a_requested_progress_promises_nothing() -> None:
    # Old servers send it before events that it covers.
    record = right()
    record.sessions[0].responses.insert(0, Response(Kind.REQUESTED, (), 8, 2))
    assert violations(record, TRUTH) == []


def test_events_stopped_within_a_revision_begins_it_anew() -> None:
    a7, _ = events(7)
    first = [response(6), one(a7, 7)]
    second = [response(7)]
    record = Record(
        "watch",
        REQUEST,
        [Session(5, first, bookmark=7), Session(7, second, bookmark=8)],
    )
    assert violations(record, TRUTH) == []


def test_rest_of_a_revision_that_events_began() -> None:
    a7, b7 = events(7)
    responses = [one(a7, 7), Response(Kind.EVENTS, (b7, *events(8)), 8, 9)]
    record = Record("watch", REQUEST, [Session(7, responses, bookmark=9)])
    assert violations(record, TRUTH) == []


def test_compaction_leaves_a_gap_and_no_prev_kv() -> None:
    compacted = history(*TRUTH.events, compacted=6)
    unknown = events(6)[0]._replace(prev_kv=None)
    record = Record(
        "watch",
        REQUEST,
        [
            Session(2, [response(2)], bookmark=3, compacted=6),
            Session(6, [Response(Kind.EVENTS, (unknown,), 8, 7)], bookmark=7),
        ],
    )
    assert violations(record, compacted) == []
    # Only up to the compaction, and no watch that was past it may fail.
    assert "resumable" in names(record, TRUTH)
    record.sessions[0].bookmark = 6
    assert "resumable" in names(record, compacted)


@pytest.mark.parametrize(
    ("key", "start", "end", "inside"),
    [
        (b"a", b"a", b"", True),
        (b"aa", b"a", b"", False),
        (b"a", b"a", b"b", True),
        (b"b", b"a", b"b", False),
        (b"\xff", b"a", NO_END, True),
        (b"Z", b"a", NO_END, False),
        (b"\0", b"\0", NO_END, True),
    ],
)
def test_ranges(key: bytes, start: bytes, end: bytes, inside: bool) -> None:
    assert in_range(key, start, end) is inside


def with_gap(*left_out: int, compacted: int) -> Record:
    """Return one session; each response comes after a compaction at `compacted`."""
    responses = [
        response(revision)._replace(compacted=compacted)
        for revision in (2, 3, 4, 6, 7, 8)
        if revision not in left_out
    ]
    return Record("watch", REQUEST, [Session(2, responses, bookmark=9)])


@pytest.mark.parametrize(
    ("left_out", "compacted", "verdict"),
    [
        ([], 9, False),
        ([2, 3], 4, True),
        # After compacted events, etcd may skip later ones, too.
        ([3, 4, 6], 4, True),
        # The event at the revision of the compaction was delivered.
        ([4, 6], 4, False),
        ([2, 7], 4, False),
        ([2, 7], 8, True),
        # Nothing was delivered after it.
        ([8], 9, False),
    ],
)
def test_what_a_compaction_may_have_taken(
    left_out: list[int], compacted: int, verdict: bool
) -> None:
    record = with_gap(*left_out, compacted=compacted)
    assert is_silently_compacted(record, TRUTH) is verdict


WRITES = [
    Write({b"a": b"1"}, revision=2),
    Write({b"a": b"2", b"b": b"3"}, revision=3),
    Write({}, ((b"a", b""),), revision=4),
    Write({}, ((b"x", b""),), revision=0),
    Write({b"c": b"out of range"}, revision=None),
    Write({b"never": b"applied"}, revision=None),
    Write({b"a": b"4"}, revision=6),
    Write({b"a": b"5", b"b": b"6"}, revision=7),
    Write({b"b": b"7"}, revision=8),
]


def test_the_history_is_the_one_that_was_written() -> None:
    assert list(check_history(TRUTH, WRITES)) == []


def without(revision: int) -> History:
    return history(*(event for event in TRUTH.events if event.revision != revision))


@pytest.mark.parametrize(
    ("truth", "writes", "words"),
    [
        (without(8), WRITES, ["lost the write acknowledged at 8"]),
        (without(5), WRITES, ["revisions are missing"]),
        (TRUTH, WRITES[1:], ["no write"]),
        (TRUTH, [replace(WRITES[0], puts={b"a": b"?"}), *WRITES[1:]], ["no write"]),
        (TRUTH, [*WRITES, WRITES[0]], []),
        (TRUTH, [*WRITES, replace(WRITES[0], puts={})], ["two writes"]),
        (TRUTH, [*WRITES[:2], replace(WRITES[2], deletes=()), *WRITES[3:]], ["no wr"]),
        (History([change(PUT, b"a", 2, b"1")]), WRITES[:1], ["should be"]),
    ],
)
def test_a_history_that_was_not_written(
    truth: History, writes: Iterable[Write], words: list[str]
) -> None:
    found = list(check_history(truth, writes))
    assert len(found) == len(words)
    for text, word in zip(found, words, strict=True):
        assert word in text


def test_a_history_knows_what_was_before() -> None:
    assert [(event.is_create, event.kv.version) for event in TRUTH.events] == [
        (True, 1),
        (False, 2),
        (True, 1),
        (False, 0),
        (True, 1),
        (True, 1),
        (False, 2),
        (False, 2),
        (False, 3),
    ]
    of_b = TRUTH.matching(Request(b"b"))
    assert [b.prev_kv for _, b in pairwise(of_b)] == [e.kv for e in of_b[:-1]]
    assert TRUTH.revision == 8
    assert History([]).revision == 1
