"""Lifetimes: the effects of entering, leaving and cancelling, and the user's view."""

from __future__ import annotations

import functools
import gc
import signal
import sys
from collections.abc import Callable

import pytest
import trio
import trio.testing

from tests.support.helpers import LIMIT, eventually, take
from tests.support.peer import serve_tcp, serve_watches
from trio_etcd_watch import Channel, Watch, Watcher, _live_stream, open_watcher
from trio_etcd_watch.testing import Etcd, Put


@pytest.fixture
async def unreachable() -> str:
    """An endpoint where no server listens."""
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


class Mine(Exception):
    """An exception of the user's."""


async def test_errors_of_the_body_come_out_bare(etcd: Etcd) -> None:
    error = Mine()
    with pytest.raises(Mine) as caught:
        async with open_watcher(etcd.endpoint):
            raise error
    assert caught.value is error
    with pytest.raises(Mine) as caught:
        async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a"):
            raise error
    assert caught.value is error
    group = ExceptionGroup("mine", [Mine()])
    with pytest.RaisesGroup(Mine) as caught_group:
        async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a"):
            raise group
    assert caught_group.value is group


async def test_outer_cancellation_stays_one(etcd: Etcd) -> None:
    with trio.CancelScope() as scope:
        async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a") as watch:
            scope.cancel()
            await anext(watch)
    assert scope.cancelled_caught


async def test_error_while_cancelled_comes_out_bare(etcd: Etcd) -> None:
    with trio.CancelScope() as scope, pytest.raises(Mine):
        async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a") as watch:
            scope.cancel()
            try:
                await anext(watch)
            finally:
                raise Mine


async def test_a_bug_comes_out_with_the_bodys_error(unreachable: str) -> None:
    async def bug() -> None:
        raise KeyError("bug")

    async def fail(watcher: Watcher) -> None:
        watcher._nursery.start_soon(bug)
        try:
            await trio.sleep_forever()
        finally:
            raise Mine

    with pytest.raises(RuntimeError, match="report") as caught:
        async with open_watcher(unreachable) as watcher:
            await fail(watcher)
    assert isinstance(caught.value.__cause__, BaseExceptionGroup)
    assert caught.value.__cause__.subgroup(KeyError)
    assert caught.value.__cause__.subgroup(Mine)


def raise_in_the_background(
    monkeypatch: pytest.MonkeyPatch, raises: Callable[[], object]
) -> None:
    """Call it like a signal that arrives while a task of the package runs."""

    def info(*args: object) -> None:
        assert trio.lowlevel.current_task().name.endswith("_outlive")
        raises()

    monkeypatch.setattr(_live_stream.logger, "info", info)


async def error_of_watching() -> BaseException | None:
    """Return what open_watcher() raises; a stray Cancelled would be lost."""
    error: BaseException | None = None
    async with serve_tcp(serve_watches) as endpoint:
        with trio.fail_after(LIMIT):
            try:
                async with open_watcher(endpoint) as watcher, watcher.watch("a"):
                    await trio.sleep_forever()
            except BaseException as exc:
                error = exc
    return error


def test_ctrl_c_reaches_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    # It is raised here, and not in a task of the package.
    raise_in_the_background(monkeypatch, lambda: signal.raise_signal(signal.SIGINT))
    assert type(trio.run(error_of_watching)) is KeyboardInterrupt


def test_exit_in_the_background_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in_the_background(monkeypatch, sys.exit)
    error = trio.run(error_of_watching)
    assert isinstance(error, BaseExceptionGroup)
    assert error.subgroup(SystemExit)


async def test_shielded_cleanup_does_not_wait_for_a_cancelled_watcher() -> None:
    with trio.CancelScope() as scope:
        async with serve_tcp(serve_watches) as endpoint:
            async with open_watcher(endpoint) as watcher, watcher.watch("a") as watch:
                await anext(watch)
                scope.cancel()
                with trio.fail_after(LIMIT) as limit:
                    limit.shield = True
                    with pytest.raises(trio.ClosedResourceError):
                        await anext(watch)
                    with pytest.raises(trio.ClosedResourceError):
                        async with watcher.watch("b"):
                            pass
    assert scope.cancelled_caught


async def test_no_endpoint_answers(unreachable: str) -> None:
    # The limit of the caller counts.
    async with open_watcher(unreachable) as watcher:
        with trio.move_on_after(0.3) as scope:
            async with watcher.watch("a"):
                pytest.fail("entered")
        assert scope.cancelled_caught
        statistics = watcher.statistics()
        assert (statistics.streams, statistics.connections_made) == (0, 0)
        assert "refused" in str(statistics.last_loss)


async def test_next_endpoint_has_its_turn(etcd: Etcd, unreachable: str) -> None:
    for _ in range(4):  # whichever is tried first
        async with open_watcher([unreachable, etcd.endpoint]) as watcher:
            with trio.fail_after(LIMIT):
                async with watcher.watch("a"):
                    assert watcher.statistics().live == 1


async def test_a_server_that_is_no_etcd(etcd: Etcd) -> None:
    greeted = trio.Event()

    async def greet(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            greeted.set()
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            functools.partial(trio.serve_tcp, greet, 0, host="127.0.0.1")
        )
        port = listeners[0].socket.getsockname()[1]
        async with open_watcher([f"127.0.0.1:{port}", etcd.endpoint]) as watcher:
            with trio.fail_after(LIMIT):
                while not greeted.is_set():
                    async with watcher.watch("a"):
                        pass
                    # The order is random: reconnect until this endpoint was tried.
                    watcher._connector._connection = None
            assert "does not speak HTTP/2" in str(watcher.statistics().last_loss)
        nursery.cancel_scope.cancel()


async def test_closed_watcher_opens_nothing(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        pass
    with pytest.raises(trio.ClosedResourceError):
        async with watcher.watch("a"):
            pytest.fail("entered")
    with pytest.raises(trio.ClosedResourceError):
        await watcher.request_progress()
    with pytest.raises(trio.ClosedResourceError):
        watcher.request_progress_nowait()


async def test_left_watch_is_closed(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        async with watcher.watch("a") as watch:
            pass
        for _ in range(2):
            with pytest.raises(trio.ClosedResourceError):
                await anext(watch)
        with pytest.raises(trio.ClosedResourceError):
            await anext(watch.events())
    assert watch.created.created
    assert watch.statistics().state == "ended"


async def test_a_waiter_elsewhere_ends_with_the_watch(etcd: Etcd) -> None:
    ended = trio.Event()

    async def wait(watch: Watch) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await anext(watch)
        ended.set()

    for close_watcher in (False, True):
        ended = trio.Event()
        async with trio.open_nursery() as nursery:
            async with open_watcher(etcd.endpoint) as watcher:
                manager = watcher.watch("a")
                watch = await manager.__aenter__()
                nursery.start_soon(wait, watch)
                await trio.testing.wait_all_tasks_blocked(0.01)
                if not close_watcher:
                    await manager.__aexit__(None, None, None)
            with trio.fail_after(LIMIT):
                await ended.wait()
            if close_watcher:
                await manager.__aexit__(None, None, None)


async def test_two_tasks_cannot_share_a_watch(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a") as watch:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, watch, 1)
            await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(trio.BusyResourceError):
                await anext(watch)
            with pytest.raises(trio.BusyResourceError):
                await anext(watch.events())
            await etcd.put("a", "1")


async def test_cancelled_receives_lose_nothing(etcd: Etcd) -> None:
    got: list[int] = []

    async def writer() -> None:
        for i in range(200):
            await etcd.put("a", str(i))

    async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a") as watch:
        events = watch.events()
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writer)
                turn = 0
                while len(got) < 200:
                    turn += 1
                    with trio.move_on_after(0.0005 * (turn % 4)):
                        if turn % 2:
                            got.append(int((await anext(events)).kv.value))
                        else:
                            response = await anext(watch)
                            got += [int(e.kv.value) for e in response.events]
    assert got == list(range(200))


async def test_every_public_call_is_a_checkpoint(etcd: Etcd) -> None:
    manager = open_watcher(etcd.endpoint)
    with trio.testing.assert_checkpoints():
        watcher = await manager.__aenter__()
    with trio.testing.assert_checkpoints():
        await watcher.request_progress()
    watching = watcher.watch("a", created_notify=True)
    with trio.testing.assert_checkpoints():
        watch = await watching.__aenter__()
    with trio.testing.assert_checkpoints():
        await anext(watch)
    await etcd.put("a", "1")
    with trio.testing.assert_checkpoints():
        await anext(watch.events())
    with trio.testing.assert_checkpoints():
        await watching.__aexit__(None, None, None)
    with trio.testing.assert_checkpoints():
        await manager.__aexit__(None, None, None)


async def test_bookmark_under_events(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        async with watcher.watch("k", prefix=True) as watch:
            start = watch.next_revision
            first = await etcd.txn(*(Put(f"k{i}", "x") for i in range(3)))
            second = await etcd.put("k", "y")

            async def both() -> bool:
                return watch.statistics().unread_events == 4

            await eventually(both)
            events = watch.events()
            bookmarks = [watch.next_revision]
            for _ in range(4):
                await anext(events)
                bookmarks.append(watch.next_revision)
    assert bookmarks == [start, first, first, second, second + 1]


async def test_bookmark_after_leaving(etcd: Etcd) -> None:
    # What was received but not delivered comes again from the bookmark.
    async with open_watcher(etcd.endpoint) as watcher:
        async with watcher.watch("k", prefix=True) as watch:
            revision = await etcd.txn(*(Put(f"k{i}", "x") for i in range(3)))
            await etcd.put("k", "y")
            await take(watch, 1)
        assert watch.next_revision == revision
        async with watcher.watch(
            "k", prefix=True, start_revision=watch.next_revision
        ) as watch:
            assert len(await take(watch, 4)) == 4


async def test_events_and_responses_continue_each_other(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        async with watcher.watch("k", prefix=True) as watch:
            await etcd.txn(*(Put(f"k{i}", "x") for i in range(5)))
            first = await take(watch, 1)
            second = await take(watch, 1)
            with trio.fail_after(LIMIT):
                rest = await anext(watch)
            await etcd.put("k", "y")
            last = await take(watch, 1)
    keys = [e.kv.key for e in [*first, *second, *rest.events, *last]]
    assert keys == [b"k0", b"k1", b"k2", b"k3", b"k4", b"k"]


async def test_nothing_is_left_behind(etcd: Etcd) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with open_watcher(Channel(etcd.endpoint)) as watcher:
        async with watcher.watch("a"), watcher.watch("b", metadata={"x": "y"}):
            pass
    gc.collect()  # a socket left open would warn, and warnings are errors
    assert trio.lowlevel.current_statistics().tasks_living == tasks


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": 1}, "key must be str or bytes, got 1"),
        ({"key": bytearray(b"a")}, "key must be"),
        ({"key": ""}, "key must not be empty"),
        ({"key": "a\udc80"}, "key cannot be encoded as UTF-8: 'a.udc80'"),
        ({"key": "a", "range_end": 1}, "range_end must be str or bytes, got 1"),
        ({"key": "b", "range_end": "a"}, "range_end must be above key"),
        ({"key": "a", "range_end": ""}, "range_end must be above key"),
        ({"key": "a", "prefix": True, "range_end": "b"}, "prefix and range_end"),
        ({"key": "a", "prefix": True, "from_key": True}, "prefix and from_key"),
        ({"key": "a", "range_end": "b", "from_key": True}, "range_end and from_key"),
        ({"key": "a", "start_revision": -1}, "start_revision must be .* got -1"),
        ({"key": "a", "start_revision": 2**63}, "start_revision must be"),
        ({"key": "a", "start_revision": "1"}, "start_revision must be an int"),
        ({"key": "a", "start_revision": True}, "start_revision must be an int"),
        ({"key": "a", "max_buffered_events": 0}, "max_buffered_events must be"),
        ({"key": "a", "max_buffered_events": 1.5}, "max_buffered_events must be"),
        ({"key": "a", "no_put": True, "no_delete": True}, "no_put and no_delete"),
        ({"key": "a", "metadata": {"X": "y"}}, "metadata name must be"),
        ({"key": "a", "metadata": {"x": "a\r\nb: c"}}, "metadata 'x'"),
        ({"key": "a", "metadata": 1}, "metadata must be"),
        ({"key": "a", "what": 1}, "what"),
    ],
)
async def test_bad_arguments(
    unreachable: str, arguments: dict[str, object], words: str
) -> None:
    async with open_watcher(unreachable) as watcher:
        with pytest.raises((TypeError, ValueError), match=words):
            # At the call: nothing is entered.
            watcher.watch(**arguments)  # type: ignore[call-overload]  # bad on purpose


async def test_who_is_cancelled_with_a_watch_learns_of_that(etcd: Etcd) -> None:
    """Whatever is closed first: the task was running, not waiting."""
    async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a") as watch:
        watch._inbox.close()
        with pytest.raises(trio.ClosedResourceError):
            await anext(watch)
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(watch)
        assert scope.cancelled_caught
