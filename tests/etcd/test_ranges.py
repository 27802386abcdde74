"""Reads of ranges on real servers: pages, proofs and checks, also with a replica."""

from __future__ import annotations

import base64

import pytest
import trio

from tests.support.helpers import LIMIT
from tests.support.ranges import open_reader
from trio_etcd_watch import (
    CompactedError,
    FutureRevisionError,
    PermissionDeniedError,
    RpcError,
    StatusCode,
    open_watcher,
)
from trio_etcd_watch._arguments import key_range
from trio_etcd_watch._grpc.messages import Oversized
from trio_etcd_watch._grpc.status import Status
from trio_etcd_watch._replica import Diverged, Replica
from trio_etcd_watch._snapshot import (
    PagedRead,
    Range,
    check_of,
    count_request,
    newest_request,
    put_key_values,
    snapshot_of,
)
from trio_etcd_watch.testing import Delete, Etcd, Put, open_etcd

pytestmark = pytest.mark.etcd

ALL = Range(*key_range("", prefix=True))
B = Range(*key_range("b", prefix=True))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"key": "b", "prefix": True}, [b"b", b"ba", b"bb"]),
        ({"key": b"b", "range_end": b"bb"}, [b"b", b"ba"]),
        ({"key": "b", "from_key": True}, [b"b", b"ba", b"bb", b"c", b"\xff\xff"]),
        ({"key": "", "prefix": True}, [b"a", b"b", b"ba", b"bb", b"c", b"\xff\xff"]),
        ({"key": b"\xff", "prefix": True}, [b"\xff\xff"]),
        ({"key": "b"}, [b"b"]),
        ({"key": "none"}, []),
    ],
)
@pytest.mark.parametrize("first_page", [1, 2, 1_000])
async def test_ranges(
    etcd: Etcd, options: dict[str, object], expected: list[bytes], first_page: int
) -> None:
    keys = [b"a", b"b", b"ba", b"bb", b"c", b"\xff\xff"]
    last = await etcd.txn(*(Put(key, b"x") for key in reversed(keys)))
    async with open_reader(etcd.endpoint) as reader:
        asked = Range(*key_range(**options))  # type: ignore[arg-type]  # a table
        snapshot = await reader.snapshot(asked, first_page=first_page)
    assert list(snapshot) == expected
    assert snapshot.revision == snapshot.header.revision == last
    for kv in snapshot.values():
        assert (kv.value, kv.mod_revision, kv.create_revision) == (b"x", last, last)


async def test_pages_are_of_one_revision_under_writes(etcd: Etcd) -> None:
    keys = [f"{number:04}" for number in range(400)]
    for part in range(0, 400, 100):
        await etcd.txn(*(Put(key, "0") for key in keys[part : part + 100]))
    async with open_reader(etcd.endpoint) as reader, trio.open_nursery() as nursery:

        async def write() -> None:
            for count in range(1, 1_000_000):
                # In key order, so that a mixture of states would show: all values must
                # be equal.
                await etcd.txn(*(Put(key, str(count)) for key in keys[::4]))

        nursery.start_soon(write)
        read = PagedRead(ALL, put_key_values, first_page=1)
        pages = 0
        while not read.done:
            read.receive(await reader.call(read.request()))
            pages += 1
            wanted = read.revision + pages
            with trio.fail_after(LIMIT):
                while await etcd.revision() < wanted:
                    await trio.lowlevel.checkpoint()
        snapshot = snapshot_of(read)
        assert pages > 2
        assert list(snapshot) == [key.encode() for key in keys]
        assert len({snapshot[key].value for key in keys[::4]}) == 1
        assert await reader.snapshot(ALL, revision=snapshot.revision) == snapshot
        nursery.cancel_scope.cancel()


async def test_a_compaction_between_pages_starts_over(etcd_binary: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        await etcd.txn(*(Put(f"{number:02}", "old") for number in range(50)))
        async with open_reader(etcd.endpoint) as reader:
            read = PagedRead(ALL, put_key_values, first_page=1)
            read.receive(await reader.call(read.request()))
            last = await etcd.put("00", "new")
            await etcd.compact(last)
            snapshot = snapshot_of(await reader.read(read))
            assert isinstance(reader.replies[1], Status)
            assert (snapshot.revision, len(snapshot)) == (last, 50)
            assert snapshot["00"].value == b"new"
            with pytest.raises(CompactedError, match=f"revision {last - 1} has been"):
                await reader.snapshot(ALL, revision=last - 1)
            assert await reader.snapshot(ALL, revision=last) == snapshot
            with pytest.raises(FutureRevisionError, match=f"revision {last + 1} is in"):
                await reader.snapshot(ALL, revision=last + 1)


async def test_large_values_come_in_smaller_pages(etcd: Etcd) -> None:
    for number in range(20):
        await etcd.put(f"{number:02}", bytes(100_000))
    async with open_reader(etcd.endpoint, max_message_size=300_000) as reader:
        snapshot = await reader.snapshot(ALL)
        assert len(snapshot) == 20
        assert {len(kv.value) for kv in snapshot.values()} == {100_000}
        # From 1,000 keys down to at most 3, which fit, and then no more growth.
        sizes = [isinstance(reply, Oversized) for reply in reader.replies]
        assert sizes == sorted(sizes, reverse=True)
        assert 1 <= sum(sizes) <= 9
    async with open_reader(etcd.endpoint, max_message_size=100_000) as reader:
        with pytest.raises(RpcError, match="over max_message_size") as caught:
            await reader.snapshot(ALL)
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


async def test_who_may_not_read_is_told_so(etcd_binary: str) -> None:
    def b64(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    async with open_etcd(binary=etcd_binary) as etcd:
        request = etcd.request
        await etcd.put("r", "1")
        for role in ("root", "r"):
            await request("/v3/auth/role/add", {"name": role})
            await request("/v3/auth/user/add", {"name": role, "password": role})
            await request("/v3/auth/user/grant", {"user": role, "role": role})
        permission = {"permType": "READ", "key": b64("r"), "range_end": b64("s")}
        await request("/v3/auth/role/grant", {"name": "r", "perm": permission})
        await request("/v3/auth/enable", {})
        login = {"name": "r", "password": "r"}
        token = (await request("/v3/auth/authenticate", login))["token"]
        metadata = (("token", token),)
        async with open_reader(etcd.endpoint, metadata=metadata) as reader:
            readable = await reader.snapshot(Range(*key_range("r", prefix=True)))
            assert list(readable) == [b"r"]
            with pytest.raises(PermissionDeniedError, match="permission denied"):
                await reader.snapshot(ALL)


async def test_a_check_tells_the_newest_and_the_count(etcd: Etcd) -> None:
    await etcd.put("a", "1")
    put = await etcd.put("b1", "1")
    await etcd.put("c", "1")
    deleted = await etcd.delete("b1")
    recreated = await etcd.txn(Put("b2", "1"), Put("b3", "1"))
    last = await etcd.delete("a")
    async with open_reader(etcd.endpoint) as reader:

        async def check(since: int, *, counted: bool = False) -> list[int | None]:
            request = count_request(B) if counted else newest_request(B, since)
            reply = await reader.call(request)
            got = check_of(reply, since, counted=counted)
            assert got.since == since
            return [got.revision, got.count, got.newest]

        assert await check(put) == [last, 2, recreated]
        assert await check(deleted) == [last, 2, recreated]
        assert await check(recreated) == [last, 2, 0]
        assert await check(put, counted=True) == [last, 2, None]


async def test_a_replica_follows_a_watch_and_is_proved(etcd: Etcd) -> None:
    lease = (await etcd.request("/v3/lease/grant", {"TTL": 600}))["ID"]
    leased = {"key": "YmxlYXNl", "value": "MQ==", "lease": lease}  # "blease"
    await etcd.request("/v3/kv/put", leased)
    await etcd.txn(*(Put(f"b{number:02}", "0") for number in range(50)))
    async with (
        open_reader(etcd.endpoint) as reader,
        open_watcher(etcd.endpoint) as watcher,
    ):
        replica = Replica(await reader.snapshot(B, first_page=7))
        start = replica.revision + 1
        async with watcher.watch("b", prefix=True, start_revision=start) as watch:
            await etcd.put("b07", "1")
            await etcd.delete("b1", prefix=True)
            await etcd.request("/v3/kv/put", leased)
            await etcd.put("outside", "1")
            last = await etcd.txn(Put("b11", "2"), Delete("b20"), Put("b07", "2"))
            with trio.fail_after(LIMIT):
                while replica.revision < last:
                    replica.apply((await anext(watch)).events)
        assert dict(replica.mapping) == dict(await reader.snapshot(B))
        proof = replica.proof()
        await etcd.put("b07", "after the proof")
        rows, count = await reader.rows(B, proof.revision, proof.since)
        assert {b"b07", b"b11", b"blease"} == rows.keys()
        assert replica.prove(proof, rows, count)
        assert replica.proved == last


async def test_a_proof_on_a_real_server_finds_a_lost_put(etcd: Etcd) -> None:
    await etcd.put("b1", "1")
    async with open_reader(etcd.endpoint) as reader:
        replica = Replica(await reader.snapshot(B))
        replica.progressed(await etcd.put("b1", "2"))
        proof = replica.proof()
        rows, count = await reader.rows(B, proof.revision, proof.since)
        with pytest.raises(Diverged, match="b'b1' is version 2"):
            replica.prove(proof, rows, count)
        assert replica.replace(await reader.snapshot(B)) == [b"b1"]
