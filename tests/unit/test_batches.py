"""A batch of responses that is parsed as one has the results of parsing each alone."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.wire import some_read, varint
from trio_etcd_watch import WatchResponse, __speedups__, _batches
from trio_etcd_watch._batches import merge_batch, split_batches, split_batches_fast
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._grpc.status import StreamLost
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._requests import WatchSpec
from trio_etcd_watch._responses import decode
from trio_etcd_watch._session import Session
from trio_etcd_watch._subscription import Live, Subscription

NOW = 0.0
IDS = [0, 1, 0x5A, 300]
"""Watch ids: varints of one and two bytes, and one that equals the tag of an event."""


def response(watch_id: int, revisions: list[int], **fields: object) -> bytes:
    """Return a serialized response with its fields in order, as etcd writes them."""
    message = pb.WatchResponse(watch_id=watch_id, **fields)  # type: ignore[arg-type]  # any
    message.header.cluster_id = 7
    message.header.revision = revisions[-1] if revisions else 1000
    for revision in revisions:
        event = message.events.add()
        event.kv.key = b"key"
        event.kv.mod_revision = revision
    return message.SerializeToString()


def encoded_id(watch_id: int) -> bytes:
    """Return the field of a watch id, which for 0 is not left out."""
    return b"\x10" + varint(watch_id)


def aliased(message: bytes) -> bytes:
    """Give the watch id of a message, which may be left out, a superfluous byte."""
    place = message[1] + 2
    return (
        message[:place]
        + b"\x10%b" % varint(decode(message).watch_id, 1)
        + (message[place:].removeprefix(encoded_id(decode(message).watch_id)))
    )


plain = st.builds(
    response, st.sampled_from(IDS), st.lists(st.integers(2, 20), max_size=3).map(sorted)
)
special = st.builds(
    response,
    st.sampled_from([*IDS, -1]),
    st.lists(st.integers(2, 20), max_size=2).map(sorted),
    created=st.booleans(),
    canceled=st.booleans(),
    compact_revision=st.sampled_from([0, 0, 5]),
    fragment=st.booleans(),
)
big = st.builds(
    lambda message, padding: message + b"\xaa\x06" + bytes([padding]) + bytes(padding),
    plain,
    st.integers(0, 127),
)
"""Responses with an unknown field, which protobuf keeps."""
late = st.builds(bytes.__add__, plain, st.sampled_from(IDS).map(encoded_id))
"""Responses whose last field is a watch id, which counts more than one before."""
other = st.one_of(special, big, late, plain.map(aliased))
messages = st.lists(st.one_of(plain, plain, plain, other, other), max_size=30)


def split(read: Sequence[bytes | Oversized]) -> list[list[bytes] | Oversized]:
    """Split a read in Python and, where it was built, in C; each batch as a list."""
    batches = split_batches(read)
    assert split_batches_fast(read) == batches
    assert all(len(each) > 1 for each in batches if isinstance(each, list))
    return [[each] if isinstance(each, bytes) else each for each in batches]


def open_session(bound: int) -> tuple[Session, dict[Subscription, int]]:
    """Open a session with a live watch under each id."""
    session = Session(max_message_size=2**20)
    session.connect()
    opened = {}
    for watch_id in IDS:
        spec = WatchSpec(key=b"key", range_end=b"", max_buffered_events=bound)
        opened[session.open(spec)] = watch_id
        list(session.receive_messages([response(watch_id, [1], created=True)], NOW))
    return session, opened


def outcome(
    session: Session, opened: dict[Subscription, int], reads: list[list[bytes]]
) -> object:
    """Return all observable results, with the events of successive responses joined."""
    seen: dict[int, list[object]] = defaultdict(list)
    for read in reads:
        for delivery in session.receive_messages(read, NOW):
            log, item = seen[opened[delivery.subscription]], delivery.item
            if isinstance(item, WatchResponse) and item.events:
                log += [event.kv.mod_revision for event in item.events]
                assert delivery.events == len(item.events)
            else:
                log.append((type(item), str(item), delivery.next_revision))
    return (
        dict(seen),
        # The requests of different watches may come in any order.
        sorted(session.requests()),
        [state_of(subscription) for subscription in opened],
    )


def state_of(subscription: Subscription) -> tuple[object, ...]:
    phase = subscription.phase
    fragments = phase.fragments.count if isinstance(phase, Live) else 0
    unread = subscription.unread
    return phase.state, unread, subscription.cursor.next_revision, fragments


def test_reads_are_split_in_c_where_that_was_built() -> None:
    assert (split_batches_fast is not split_batches) == __speedups__


def test_like_messages_are_one_batch() -> None:
    for watch_id in IDS:
        batch = [response(watch_id, [revision]) for revision in range(2, 50)]
        (one,) = split(batch)
        assert isinstance(one, list)
        merged = merge_batch(one)
        assert merged is not None
        assert [e.kv.mod_revision for e in merged.events] == list(range(2, 50))
        assert (merged.watch_id, merged.header.revision) == (watch_id, 49)


@pytest.mark.parametrize(("a", "b"), list(itertools.permutations(IDS, 2)))
def test_batches_of_several_watches(a: int, b: int) -> None:
    one, another = response(a, [2]), response(b, [2])
    batches = split([one, another, one, one, another])
    assert batches == [[one, one, one], [another, another]]


def test_what_ends_a_batch() -> None:
    one = response(1, [2])
    large = response(1, [2] * 4096)
    skipped = Oversized(10**9, b"")
    for other in (response(1, []), large, b"", b"\x0a", b"\x0a\x00", skipped):
        batches = split([one, one, other, one, one])
        lone = other if isinstance(other, Oversized) else [other]
        assert batches == [[one, one], lone, [one, one]]
        if isinstance(other, bytes):
            assert split([other, one]) == [[other], [one]]


def test_the_mark_of_a_batch_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # No result shows it: it only saves time.
    marked: list[bytes] = []
    find = _batches._mark

    def mark(message: bytes) -> bytes | None:
        marked.append(message)
        return find(message)

    monkeypatch.setattr(_batches, "_mark", mark)
    read = [response(300, [revision]) for revision in (2, 3, 4)]
    assert split_batches(read) == [read]
    assert marked == read[:1]


def test_how_large_a_message_of_a_batch_may_be() -> None:
    one = response(1, [2])
    fits, large = padded(one, 4096), padded(one, 4097)
    assert split([fits, one, fits]) == [[fits, one, fits]]
    assert split([one, large]) == [[one], [large]]


def padded(message: bytes, size: int) -> bytes:
    """Add an event to a message, so that it has this size."""
    length = size - len(message) - 3
    return b"%b\x5a%c%c%b" % (
        message,
        length & 0x7F | 0x80,
        length >> 7,
        bytes(length),
    )


def with_header(size: int, message: bytes) -> bytes:
    """Give a message a header of this size, an unknown field of tags of events."""
    header = b"\xa2\x06%c" % (size - 3) + b"\x5a" * (size - 3)
    length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
    return b"\x0a" + length + header + message[message[1] + 2 :]


def test_the_longest_header_in_a_batch() -> None:
    message = with_header(127, response(300, [2]))
    assert split([message, message]) == [[message, message]]


@pytest.mark.parametrize("size", [128, 129])
def test_a_long_header_does_not_hide_whose_the_events_are(size: int) -> None:
    # Read as a short header, it would end before what looks like an event of watch 0.
    long, short = with_header(size, response(300, [2**21])), response(0, [2])
    assert long[size + 2 :][:2] == b"\x5a%c" % (len(long) - size - 4)
    assert decode(long).watch_id == 300
    assert split([short, long, short]) == [[short], [long], [short]]


def test_a_message_without_a_header_is_not_taken_for_one_of_another_watch() -> None:
    # Read as a header, the first bytes would end before the id of watch 1.
    message = pb.WatchResponse(watch_id=10)
    message.events.add().kv.key = b"...." + b"\x10\x01\x5a\0"
    other, one = message.SerializeToString(), with_header(10, response(1, [2]))
    assert other[1] == one[1]
    assert other[other[1] + 2 :] == b"\x10\x01\x5a\0"
    assert split([one, other, one]) == [[one], [other], [one]]


def test_what_came_before_an_undecodable_message_is_delivered() -> None:
    session, _ = open_session(10_000)
    read = [response(1, [2]), response(1, [3]), response(1, [4]) + b"\x5a\x01\x0a"]
    assert len(split(read)) == 1
    deliveries = session.receive_messages(read, NOW)
    assert [next(deliveries).next_revision for _ in range(2)] == [3, 4]
    with pytest.raises(StreamLost):
        next(deliveries)


def test_what_is_not_merged() -> None:
    # Repeated events are dropped from single responses only, so these are not merged.
    assert merge_batch([response(1, [2]), response(1, [3])]) is not None
    assert merge_batch([response(1, [2]), response(1, [2])]) is None
    assert merge_batch([response(1, [2, 2]), response(1, [3])]) is None
    assert merge_batch([response(1, [3]), response(1, [2])]) is None


fields: list[dict[str, object]] = [
    {"created": True},
    {"canceled": True},
    {"compact_revision": 2},
    {"cancel_reason": "?"},
    {"fragment": True},
    {"watch_id": 300},
]


@pytest.mark.parametrize("field", fields, ids=lambda field: next(iter(field)))
@pytest.mark.parametrize("watch_id", [0, 1])
def test_a_message_with_any_other_field_is_on_its_own(
    field: dict[str, Any], watch_id: int
) -> None:
    one, another = response(watch_id, [2]), response(watch_id, [4])
    in_order = response(**{"watch_id": watch_id, "revisions": [3], **field})
    behind = response(watch_id, [3]) + pb.WatchResponse(**field).SerializeToString()
    between = behind + another[another.index(b"\x5a") :]
    if "watch_id" not in field:
        assert split([one, in_order, another]) == [[one], [in_order], [another]]
    for other in (behind, between):
        assert split([one, other, another]) == [[one], [other], [another]]
        assert split([other, one]) == [[other], [one]]


def test_an_event_comes_to_the_watch_whose_id_is_last() -> None:
    ids = [0, 1, 300, 1, 0]
    read = [response(0, [at]) + encoded_id(ids[at - 2]) for at in range(2, 7)]
    session, opened = open_session(10_000)
    deliveries = session.receive_messages(read, NOW)
    assert [opened[each.subscription] for each in deliveries] == ids


@given(messages, st.sampled_from([1, 5, 10_000]))
def test_a_read_gives_what_each_message_gives(read: list[bytes], bound: int) -> None:
    one_by_one = outcome(*open_session(bound), [[message] for message in read])
    assert outcome(*open_session(bound), [read]) == one_by_one


@pytest.mark.parametrize(
    "other", [b"", b"\x0a", b"\x0a\0", b"\x0a\0\x10", b"\x0a\x02\x10\x5a"]
)
def test_a_message_that_ends_before_its_events(other: bytes) -> None:
    for whole in (b"\x0a\0\x5a\0", b"\x0a\0\x10\x01\x5a\0"):
        assert split([whole, other, whole]) == [[whole], [other], [whole]]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 4000])
def test_events_of_a_batch_are_whole(size: int) -> None:
    # Their lengths have one or two bytes; etcd writes no superfluous ones.
    head, event = b"\x0a\0\x5a\0", b"\x5a" + varint(size) + bytes(size)
    padded = b"\x5a" + varint(size, 2) + bytes(size)
    for good in (head + event, head + event + b"\x5a\0"):
        assert split([head, good, good]) == [[head, good, good]]
    for end in (event[:-1], event[:1], event[:2], event + b"\0", event[1:], padded):
        if end != event:
            assert split([head, head + end, head]) == [[head], [head + end], [head]]


def test_the_longest_watch_id_in_a_batch() -> None:
    longest = b"\x0a\0\x10" + b"\xff" * 8 + b"\x01\x5a\0"
    too_long = b"\x0a\0\x10" + b"\xff" * 9 + b"\x01\x5a\0"
    assert split([longest, longest]) == [[longest, longest]]
    assert split([too_long, too_long]) == [[too_long], [too_long]]


@pytest.mark.parametrize("watch_id", IDS)
def test_events_of_a_watch_whose_id_is_encoded_in_two_ways(watch_id: int) -> None:
    # As two batches, the second would come after all of the first.
    read = [response(watch_id, [revision]) for revision in (2, 3, 4)]
    read[1] = aliased(read[1])
    assert decode(read[1]).watch_id == watch_id
    assert split(read) == [[message] for message in read]
    session, _ = open_session(10_000)
    deliveries = session.receive_messages(read, NOW)
    assert [each.next_revision for each in deliveries] == [3, 4, 5]


def test_a_watch_id_of_0_that_is_not_left_out() -> None:
    one = response(0, [2])
    place = one.index(b"\x5a")
    other = one[:place] + encoded_id(0) + one[place:]
    assert decode(other).watch_id == 0
    assert split([one, other, one]) == [[one], [other], [one]]


@pytest.mark.parametrize("function", [split_batches, split_batches_fast])
def test_what_is_split_may_fail(function: Callable[..., object]) -> None:
    def messages() -> Iterator[bytes]:
        yield response(1, [2])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        function(messages())


@given(st.randoms(use_true_random=False).map(some_read))
def test_any_read_is_split_in_c_as_in_python(read: list[bytes | Oversized]) -> None:
    batches = split(read)
    cut = [m for each in batches for m in (each if isinstance(each, list) else [each])]
    assert sorted(cut, key=repr) == sorted(read, key=repr)


@given(messages)
def test_batches_are_the_messages_with_those_of_each_watch_in_order(
    batch: list[bytes],
) -> None:
    batches = split(batch)
    cut = [m for each in batches for m in each]  # type: ignore[union-attr]  # none is oversized
    # Sorting is stable, so only messages of different watches may change their order.
    stretches, cut_stretches = cut_at_specials(batch), cut_at_specials(cut)
    assert [sorted(s, key=id_of) for s in cut_stretches] == [
        sorted(s, key=id_of) for s in stretches
    ]


def id_of(message: bytes) -> int:
    return decode(message).watch_id


def cut_at_specials(batch: list[bytes]) -> list[list[bytes]]:
    stretches: list[list[bytes]] = [[]]
    for message in batch:
        if len(split([message, message])) > 1:
            stretches += [[message], []]
        else:
            stretches[-1].append(message)
    return stretches
