"""The requests of the paged read, and its results from the replies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.wire import key_value_of
from trio_etcd_watch import (
    ClusterChangedError,
    CompactedError,
    FutureRevisionError,
    KeyValue,
    PermissionDeniedError,
    RpcError,
    WatchCanceledError,
    WatchError,
)
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._grpc.status import Status, StatusCode, StreamLost
from trio_etcd_watch._pages import decode_range
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._replica import Check
from trio_etcd_watch._snapshot import (
    PagedRead,
    Range,
    Reply,
    T,
    check_of,
    count_request,
    newest_request,
    put_key_values,
    put_rows,
    read_pages,
    snapshot_of,
)

ALL = Range(b"\0", b"\0")
HEADER = pb.ResponseHeader(revision=26)
COMPACTED = Status(
    StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"
)
FUTURE = Status(
    StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"
)


class Server:
    """Answers Range as etcd does, with the keys put here, one at each revision."""

    def __init__(self, count: int, size: int = 1) -> None:
        self.keys: dict[bytes, pb.KeyValue] = {}
        self.revision = 1
        self.cluster_id = 7
        self.asked: list[pb.RangeRequest] = []
        for number in range(count):
            self.put(b"%05d" % number, bytes(size))

    def put(self, key: bytes, value: bytes) -> None:
        self.revision += 1
        self.keys[key] = pb.KeyValue(
            key=key,
            value=value,
            create_revision=self.revision,
            mod_revision=self.revision,
            version=1,
        )

    def __call__(self, request: bytes) -> bytes:
        asked = pb.RangeRequest.FromString(request)
        self.asked.append(asked)
        within = [
            kv
            for key, kv in sorted(self.keys.items())
            if key >= asked.key
            and (asked.range_end == b"\0" or key < asked.range_end)
            and kv.mod_revision <= (asked.revision or self.revision)
        ]
        found = [kv for kv in within if kv.mod_revision >= asked.min_mod_revision]
        if asked.keys_only:
            found = [pb.KeyValue.FromString(kv.SerializeToString()) for kv in found]
            for kv in found:
                kv.value = b""
        header = pb.ResponseHeader(cluster_id=self.cluster_id, revision=self.revision)
        response = pb.RangeResponse(
            header=header,
            kvs=found[: asked.limit],
            more=len(found) > asked.limit,
            count=len(within),
        )
        return response.SerializeToString()


def snapshot_read(revision: int = 0, first_page: int = 10) -> PagedRead[KeyValue]:
    return PagedRead(ALL, put_key_values, revision=revision, first_page=first_page)


def read_all(
    read: PagedRead[KeyValue],
    server: Callable[[bytes], Reply],
    between: Callable[[], object] = lambda: None,
) -> None:
    while not read.done:
        read.receive(server(read.request()))
        between()


def test_pages_are_of_the_revision_of_the_first() -> None:
    server = Server(25)
    before = list(server.keys)
    read = snapshot_read()
    read_all(read, server, lambda: server.put(b"00003x%d" % server.revision, b""))
    snapshot = snapshot_of(read)
    assert list(snapshot) == before
    assert (snapshot.revision, read.count) == (26, 25)
    assert snapshot.header.revision == 26
    assert [asked.revision for asked in server.asked] == [0, 26]
    assert server.asked[1].key == b"00009\0"
    assert snapshot["00007"] == key_value_of(server.keys[b"00007"])


def test_a_page_in_a_traceback_does_not_show_its_values() -> None:
    server = Server(0)
    server.put(b"user", b"secret")
    page = decode_range(server(snapshot_read().request()))
    assert "last_key=b'user'" in repr(page)
    assert "secret" not in repr(page)


def test_an_empty_range_is_read() -> None:
    read = snapshot_read()
    read_all(read, Server(0))
    assert (len(snapshot_of(read)), snapshot_of(read).revision) == (0, 1)


def test_what_is_exhausted_is_not_always_a_message() -> None:
    words = Status(StatusCode.RESOURCE_EXHAUSTED, "rate limit exceeded")
    with pytest.raises(StreamLost, match=r"rate limit exceeded$"):
        snapshot_read().receive(words)


@pytest.mark.parametrize("revision", [2**63 - 1, 0, -1])
def test_a_revision_that_is_none(revision: int) -> None:
    reply = pb.RangeResponse()
    reply.header.revision = revision
    with pytest.raises(StreamLost, match=f"at revision {revision}"):
        snapshot_read().receive(reply.SerializeToString())


def limited(server: Server, size: int) -> Callable[[bytes], Reply]:
    """Return the server as seen by a client with this max_message_size."""

    def answer(request: bytes) -> Reply:
        reply = server(request)
        return reply if len(reply) <= size else Oversized(len(reply), b"")

    return answer


def test_pages_shrink_to_what_a_message_may_have_and_grow_again() -> None:
    server = Server(60, size=1_000)
    server.put(b"00030", bytes(50_000))
    read = snapshot_read(first_page=100)
    read_all(read, limited(server, 50_100))
    assert list(read.data) == sorted(server.keys)
    limits = [asked.limit for asked in server.asked]
    assert limits[:2] == [100, 50]
    assert min(limits) == 1
    assert limits[-1] > 1
    assert len(limits) < 20


def test_a_key_that_is_too_large_by_itself_is_the_error() -> None:
    server = Server(60, size=1_000)
    server.put(b"00030", bytes(50_000))
    with pytest.raises(
        RpcError, match=r"over max_message_size; .*, from b'00029\\x00' on$"
    ) as caught:
        read_all(snapshot_read(), limited(server, 50_000))
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


def test_a_server_or_proxy_may_call_a_message_too_large() -> None:
    server = Server(60)
    words = "trying to send message larger than max (5000 vs. 4000)"

    def answer(request: bytes) -> Reply:
        if pb.RangeRequest.FromString(request).limit > 7:
            return Status(StatusCode.RESOURCE_EXHAUSTED, words)
        return server(request)

    read = snapshot_read(first_page=100)
    read_all(read, answer)
    assert list(read.data) == sorted(server.keys)
    with pytest.raises(RpcError, match="larger than max"):
        read_all(
            snapshot_read(), lambda _: Status(StatusCode.RESOURCE_EXHAUSTED, words)
        )


def test_what_etcd_says_itself_is_not_about_size() -> None:
    read = snapshot_read()
    words = "etcdserver: too many requests"
    with pytest.raises(StreamLost):
        read.receive(Status(StatusCode.RESOURCE_EXHAUSTED, words))
    assert pb.RangeRequest.FromString(read.request()).limit == 10


@pytest.mark.parametrize("status", [COMPACTED, FUTURE])
def test_a_revision_that_is_gone_between_pages_starts_over(status: Status) -> None:
    server = Server(25)
    read = snapshot_read()
    read.receive(server(read.request()))
    server.put(b"00000", b"new")
    del server.keys[b"00001"]
    read.receive(status)
    read_all(read, server)
    assert (read.revision, len(read.data), read.received) == (27, 24, 24)
    assert b"00001" not in read.data
    assert read.data[b"00000"].value == b"new"


@pytest.mark.parametrize(
    ("status", "error"), [(COMPACTED, CompactedError), (FUTURE, FutureRevisionError)]
)
def test_starting_over_is_bounded(status: Status, error: type[WatchError]) -> None:
    server = Server(25)
    read = snapshot_read()
    for _ in range(4):
        read.receive(server(read.request()))
        read.receive(status)
    read.receive(server(read.request()))
    with pytest.raises(error, match="revision 26"):
        read.receive(status)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (COMPACTED, CompactedError, "revision 5 has been compacted"),
        (FUTURE, FutureRevisionError, "revision 5 is in the future"),
        (
            Status(StatusCode.PERMISSION_DENIED, "etcdserver: permission denied"),
            PermissionDeniedError,
            "permission denied",
        ),
    ],
)
def test_a_refusal_is_the_error_of_a_watch(
    status: Status, error: type[WatchError], words: str
) -> None:
    with pytest.raises(error, match=f"{words}$") as caught:
        snapshot_read(revision=5).receive(status)
    assert isinstance(caught.value, WatchCanceledError)
    response = caught.value.response
    assert caught.value.reason == response.cancel_reason == status.message
    assert (response.canceled, response.created) == (True, False)
    assert (len(response.events), response.compact_revision) == (0, 0)
    # It came without a header.
    assert response.header == decode_range(b"").header


def test_another_refusal_is_the_status_of_the_call() -> None:
    with pytest.raises(RpcError, match="nonsense") as caught:
        snapshot_read().receive(Status(StatusCode.INVALID_ARGUMENT, "nonsense"))
    assert caught.value.code is StatusCode.INVALID_ARGUMENT


def test_compaction_that_refuses_a_read_names_no_revision() -> None:
    with pytest.raises(CompactedError) as caught:
        snapshot_read(revision=5).receive(COMPACTED)
    assert caught.value.compact_revision == 0


def test_a_snapshot_may_be_of_an_earlier_revision() -> None:
    server = Server(25)
    read = snapshot_read(revision=16, first_page=10)
    read_all(read, server)
    snapshot = snapshot_of(read)
    assert (len(snapshot), snapshot.revision, snapshot.header.revision) == (15, 16, 26)
    assert [asked.revision for asked in server.asked] == [16, 16]


def test_pages_of_two_clusters_are_not_joined() -> None:
    server = Server(25)
    read = snapshot_read()
    read.receive(server(read.request()))
    server.cluster_id = 8
    with pytest.raises(ClusterChangedError):
        read.receive(server(read.request()))


@pytest.mark.parametrize(("first", "second"), [(0, 7), (7, 0)])
def test_a_page_may_not_say_of_which_cluster_it_is(first: int, second: int) -> None:
    server = Server(25)
    read = snapshot_read()
    server.cluster_id = first
    read.receive(server(read.request()))
    server.cluster_id = second
    read.receive(server(read.request()))
    assert list(read.data) == sorted(server.keys)


def test_a_page_of_an_earlier_store_is_asked_for_again() -> None:
    server = Server(25)
    read = snapshot_read()
    read.receive(server(read.request()))
    again = read.request()
    server.revision = 20
    with pytest.raises(StreamLost, match="revision 20, and not 26"):
        read.receive(server(again))
    assert read.request() == again


@pytest.mark.parametrize(
    "reply",
    [
        b"\xff",
        pb.RangeResponse(header=HEADER, more=True).SerializeToString(),
        pb.RangeResponse(
            header=HEADER, more=True, kvs=[pb.KeyValue(key=b"00009")]
        ).SerializeToString(),
    ],
    ids=["no message", "no keys", "keys of before"],
)
def test_a_page_that_leads_nowhere_is_a_loss(reply: bytes) -> None:
    read = snapshot_read()
    read.receive(Server(25)(read.request()))
    again = read.request()
    with pytest.raises(StreamLost):
        read.receive(reply)
    assert read.request() == again


def test_what_was_put_before_can_be_left_out() -> None:
    server = Server(25)
    read = PagedRead(ALL, put_rows, revision=26, keys_only=True, above=20, first_page=4)
    while not read.done:
        read.receive(server(read.request()))
    assert list(read.data) == [b"%05d" % number for number in range(19, 25)]
    assert read.count == 25
    assert all(asked.keys_only for asked in server.asked)


def test_checks() -> None:
    server = Server(3)
    asked = pb.RangeRequest.FromString(newest_request(ALL, 3))
    assert (asked.limit, asked.min_mod_revision, asked.keys_only) == (1, 4, True)
    reply = server(asked.SerializeToString())
    header = decode_range(reply).header
    assert header.revision == 4
    assert check_of(reply, 3, counted=False) == Check(3, 3, header, newest=4)
    reply = server(newest_request(ALL, 4))
    assert check_of(reply, 4, counted=False) == Check(4, 3, header, newest=0)
    assert pb.RangeRequest.FromString(count_request(ALL)).count_only
    reply = server(count_request(ALL))
    assert check_of(reply, 4, counted=True) == Check(4, 3, header, newest=None)
    for nonsense in (b"\xff", Oversized(1, b"")):
        with pytest.raises(StreamLost):
            check_of(nonsense, 4, counted=True)
    with pytest.raises(PermissionDeniedError):
        check_of(Status(StatusCode.PERMISSION_DENIED, "denied"), 4, counted=True)


async def test_each_page_is_asked_for_in_turn() -> None:
    server = Server(25)

    had = []

    async def ask(
        request: bytes,
        accept: Callable[[Reply], T],
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        reply = server(request)
        had.append(len(read.data))
        assert meanwhile is not None
        meanwhile()
        had.append(len(read.data))
        return accept(reply)

    read = snapshot_read()
    await read_pages(ask, read)
    assert list(read.data) == sorted(server.keys)
    assert len(server.asked) == 2
    # Each page is put while the next one is prepared, and the last one when it comes.
    assert had == [0, 0, 0, 10]
