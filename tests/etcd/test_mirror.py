"""A mirror as its users see it: reads, updates and waiting."""

from __future__ import annotations

import gc

import pytest
import trio

from tests.support.auth import READER, open_guarded
from tests.support.helpers import LIMIT
from tests.support.ranges import open_reader
from trio_etcd_watch import (
    Change,
    Channel,
    Credentials,
    Mirror,
    MirrorUpdate,
    PermissionDeniedError,
    open_watcher,
)
from trio_etcd_watch._arguments import key_range
from trio_etcd_watch._snapshot import Range
from trio_etcd_watch.testing import Delete, Etcd, Put

B = Range(*key_range("b", prefix=True))


def values_of(update: MirrorUpdate) -> list[tuple[bytes, bytes | None, bytes | None]]:
    """Return the changes as values."""
    return [
        (change.key, change.old and change.old.value, change.new and change.new.value)
        for change in update.changes
    ]


async def test_it_is_the_range(etcd: Etcd) -> None:
    await etcd.txn(Put("b2", "1"), Put("b1", "1"), Put("outside", "1"))
    async with open_reader(etcd.endpoint) as reader, open_watcher(etcd.endpoint) as w:
        with trio.fail_after(LIMIT):
            async with w.mirror("b", prefix=True) as mirror:
                assert list(mirror) == [b"b1", b"b2"]
                assert mirror["b1"].value == b"1"
                last = await etcd.txn(Put("b1", "2"), Delete("b2"), Put("b3", "2"))
                await mirror.wait_for(lambda m: b"b3" in m)
                assert mirror.revision == last
                assert mirror == await reader.snapshot(B)
                assert mirror.copy() == mirror
                assert mirror.copy().revision == last
                assert list(mirror.prefix("b3")) == [b"b3"]
                assert len(mirror.prefix("outside")) == 0
                assert (len(mirror), mirror.get("b2")) == (2, None)
                statistics = mirror.statistics()
                assert (statistics.revision, statistics.keys) == (last, 2)
                assert (statistics.resyncs, statistics.connected) == (0, True)
                assert repr(mirror) == f"<Mirror of 2 keys at revision {last}>"


async def test_updates_take_a_consumer_from_state_to_state(etcd: Etcd) -> None:
    await etcd.put("b1", "1")
    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.mirror("b", prefix=True) as mirror:
                changes = mirror.changes()
                late = mirror.changes(initial=False)
                first = await anext(changes)
                assert values_of(first) == [(b"b1", None, b"1")]
                assert isinstance(first.changes[0], Change)
                for value in "23":
                    await etcd.put("b1", value)
                await etcd.put("b2", "came")
                await etcd.delete("b2")
                await mirror.sync()
                update = await anext(changes)
                assert values_of(update) == [(b"b1", b"1", b"3")]
                assert not update.resynced
                assert values_of(await anext(late)) == [(b"b1", b"1", b"3")]
                with trio.move_on_after(0.05) as scope:
                    await anext(changes)
                assert scope.cancelled_caught
                # The cancelled wait has lost nothing.
                await etcd.delete("b1")
                assert values_of(await anext(changes)) == [(b"b1", b"3", None)]


async def test_an_empty_range_is_told_once(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.mirror("b") as mirror:
                changes = mirror.changes()
                assert (await anext(changes)).changes == ()
                await etcd.put("b", "1")
                assert values_of(await anext(changes)) == [(b"b", None, b"1")]


async def test_a_dropped_consumer_leaves_nothing(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.mirror("b") as mirror:
                replica = mirror._follower.replica
                consumers = [mirror.changes(initial=False) for _ in range(100)]
                await etcd.put("b", "1")
                await mirror.wait_for(len)
                assert len(replica._positions) == 1
                del consumers
                gc.collect()
                assert len(replica._positions) == 0


async def test_exceptions_come_out_bare(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        with pytest.raises(KeyError, match="mine"):
            async with watcher.mirror("b"):
                raise KeyError("mine")
        with trio.move_on_after(0.1) as scope:
            async with watcher.mirror("b"):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        async with watcher.mirror("b") as mirror:
            with pytest.raises(ZeroDivisionError):
                await mirror.wait_for(lambda _: 1 / 0)
            await etcd.put("b", "1")
            await mirror.wait_for(len)
        assert watcher.statistics().live == 0


async def test_a_failure_ends_the_block(etcd_binary: str) -> None:
    async with open_guarded(etcd_binary) as server:
        await server.put("r1", "1")
        channel = Channel(server.etcd.endpoint, credentials=READER)
        async with open_watcher(channel) as watcher:
            with pytest.raises(PermissionDeniedError):
                async with watcher.mirror("", prefix=True):
                    pytest.fail("entered")
            for expected in (PermissionDeniedError, KeyError):
                with trio.fail_after(LIMIT), pytest.raises(expected) as caught:
                    async with watcher.mirror("r", prefix=True) as mirror:
                        user = {"name": "reader", "role": "r"}
                        await server.request("/v3/auth/user/revoke", user)
                        mirror._follower._distrust("as if it were wrong")
                        try:
                            await trio.sleep_forever()
                        finally:
                            if expected is KeyError:
                                raise KeyError("mine")
                if expected is KeyError:
                    context = caught.value.__context__
                    assert isinstance(context, PermissionDeniedError)
                await server.request(
                    "/v3/auth/user/grant", {"user": "reader", "role": "r"}
                )
        wrong = Credentials(READER.user, "wrong")
        async with open_watcher(Channel(server.etcd.endpoint, credentials=wrong)) as w:
            with trio.fail_after(LIMIT), pytest.raises(Exception, match="authent"):
                async with w.mirror("r"):
                    pytest.fail("entered")


async def test_misuse_is_told(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        with pytest.raises(ValueError, match="prefix and from_key"):
            watcher.mirror("b", prefix=True, from_key=True)  # type: ignore[call-overload]  # refused at run time too
        async with trio.open_nursery() as nursery:
            async with watcher.mirror("b") as mirror:
                view, changes = mirror.prefix("b"), mirror.changes(initial=False)

                async def outlive(wait: object) -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await wait  # type: ignore[misc]  # any of four

                nursery.start_soon(outlive, anext(changes))
                nursery.start_soon(outlive, mirror.wait_for(lambda _: False))
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await anext(changes)
        uses = (
            lambda: mirror.revision,
            lambda: mirror["b"],
            lambda: list(mirror),
            lambda: len(view),
            lambda: b"b" in view,
            mirror.copy,
            mirror.changes,
            mirror.statistics,
        )
        for use in uses:
            with pytest.raises(trio.ClosedResourceError):
                use()
        for use_async in (mirror.sync, mirror.verify, changes.__anext__):
            with pytest.raises(trio.ClosedResourceError):
                await use_async()
        assert repr(mirror) == "<Mirror, closed>"
    with pytest.raises(trio.ClosedResourceError):
        async with watcher.mirror("b"):
            pytest.fail("entered")
    assert isinstance(mirror, Mirror)
