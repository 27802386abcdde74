"""The in-memory cluster of the mirrors' tests answers reads like a real one."""

from __future__ import annotations

from dataclasses import replace

import trio

from tests.machine.follower_cluster import Cluster
from tests.support.helpers import LIMIT
from tests.support.ranges import open_reader
from trio_etcd_watch._pages import decode_range
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._snapshot import Range, Reply, count_request, newest_request
from trio_etcd_watch.testing import Delete, Put, open_etcd

KEYS = Range(b"b", b"c")


def request(**fields: int) -> bytes:
    return pb.RangeRequest(
        key=KEYS.key,
        range_end=KEYS.range_end,
        limit=fields.get("limit", 0),
        revision=fields.get("revision", 0),
        min_mod_revision=fields.get("above", 0),
    ).SerializeToString()


def comparable(reply: Reply) -> object:
    """Return a reply without the ids of its sender."""
    if not isinstance(reply, bytes):
        return reply
    page = decode_range(reply)
    head = replace(page, cluster_id=0, member_id=0, raft_term=0, keys=None)
    return head, list(page.key_values().items())


async def test_it_answers_as_etcd_does(etcd_binary: str) -> None:
    cluster = Cluster()
    async with open_etcd(binary=etcd_binary) as etcd:
        cluster.commit(a="outside", b1="1", b2="1")
        await etcd.txn(Put("a", "outside"), Put("b1", "1"), Put("b2", "1"))
        cluster.commit(b1="2")
        await etcd.txn(Put("b1", "2"))
        cluster.commit(b2=None, b3="1")
        last = await etcd.txn(Delete("b2"), Put("b3", "1"))
        assert cluster.store.revision == last
        cluster.store.compacted = 3
        await etcd.compact(3)
        async with open_reader(etcd.endpoint) as reader:
            for each in (
                count_request(KEYS),
                newest_request(KEYS, 2),
                newest_request(KEYS, 4),
                request(limit=10),
                request(limit=1),
                request(limit=2),
                request(revision=3, limit=10),
                request(revision=4, above=4, limit=10),
                request(revision=2),
                request(revision=9),
            ):
                with trio.fail_after(LIMIT):
                    real = await reader.call(each)
                fake = await cluster.ask(each, lambda reply: reply)
                assert comparable(fake) == comparable(real), each
