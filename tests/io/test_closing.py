"""A watcher that is closed while it connects leaves nothing behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from tests.support.memory import ENDPOINT
from tests.support.peer import Peer
from trio_etcd_watch import Channel, Credentials, Watcher, _dialer, open_watcher

LIMIT = 1000.0
"""Virtual seconds after which a test counts as stuck."""

CONNECT_TIMEOUT = 5.0

Use = Callable[[Watcher], Awaitable[object]]


class Slow:
    """A server that stops at one step of a connection, and reports that it got there.

    Attributes:
        reached: is set at that step.
        go_on: lets the dial return, if the step is "dial".
        links: how many connections the client has not closed.
    """

    def __init__(self, nursery: trio.Nursery, step: str) -> None:
        self.reached, self.go_on = trio.Event(), trio.Event()
        self.links = 0
        self._nursery = nursery
        self._step = step

    async def open_stream(self, *_: object) -> trio.abc.Stream:
        if self._step == "dial":
            self.reached.set()
            await self.go_on.wait()
        client, server = memory_stream_pair()
        self._nursery.start_soon(self._serve, server)
        self.links += 1
        return client

    async def _serve(self, link: trio.abc.Stream) -> None:
        try:
            await self._stop_at_step(link)
        except* trio.BrokenResourceError:
            # The client closed while the server was sending.
            pass
        self.links -= 1

    async def _stop_at_step(self, link: trio.abc.Stream) -> None:
        if self._step == "token":
            peer = Peer(link)
            async with trio.open_nursery() as nursery:

                async def hear() -> None:
                    await peer.accept_call()
                    self.reached.set()

                nursery.start_soon(hear)
                await peer.run()
                nursery.cancel_scope.cancel(reason="the client closed")
        else:
            # The server sends nothing, not even SETTINGS.
            while await link.receive_some():
                self.reached.set()


async def watch(watcher: Watcher) -> None:
    async with watcher.watch("a"):
        pytest.fail("entered")


async def mirror(watcher: Watcher) -> None:
    async with watcher.mirror("a"):
        pytest.fail("entered")


async def snapshot(watcher: Watcher) -> None:
    await watcher.snapshot("a")


@pytest.mark.parametrize("use", [watch, mirror, snapshot])
@pytest.mark.parametrize("comes", [True, False])
@pytest.mark.parametrize("step", ["dial", "preface", "token"])
async def test_closing_while_a_connection_is_on_its_way(
    step: str,
    comes: bool,
    use: Use,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Channel(
        ENDPOINT,
        credentials=Credentials("root", "secret"),
        connect_timeout=CONNECT_TIMEOUT,
    )
    ended: list[float] = []

    async def expect_closed(watcher: Watcher) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await use(watcher)
        ended.append(trio.current_time())

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as serving, trio.open_nursery() as nursery:
            server = Slow(serving, step)
            monkeypatch.setattr(_dialer, "_open_stream", server.open_stream)
            # Two tasks wait for the same connection.
            async with open_watcher(channel) as watcher:
                for _ in range(2):
                    nursery.start_soon(expect_closed, watcher)
                await server.reached.wait()
                closed_at = trio.current_time()
            # Closing does not wait.
            assert trio.current_time() == closed_at
            if comes:
                server.go_on.set()
    assert len(ended) == 2
    # Only a dial that is not cancelled takes time, within its bound.
    waits = step == "dial" and use is mirror and not comes
    assert max(ended) - closed_at == (CONNECT_TIMEOUT if waits else 0)
    # Closing is not logged as an outage.
    assert caplog.records == []
    # Dials in vain leave no open connection.
    assert server.links == 0
    assert watcher._connector._lock.statistics().owner is None
