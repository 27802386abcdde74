"""Checks that the servers hold no watch that was closed or parked."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from tests.support.robustness import History
from trio_etcd_watch import Watcher

if TYPE_CHECKING:
    from tests.chaos.run import Chaos


class Leftovers:
    """Opens, parks and closes watches of a run, and counts those of the servers."""

    def __init__(self, chaos: Chaos, limit: float) -> None:
        self._chaos = chaos
        self._limit = limit

    async def check(self, history: History) -> None:
        # Since the black hole these connections are half open for the server.
        for proxy in self._chaos.proxies:
            proxy.reset_all()
        await self._wait_no_surplus("reconnected")
        rng = self._chaos.rng("left behind")
        async with trio.open_nursery() as parked:
            # One gets all of the history at once, the other in pieces.
            for start in (history.revision - 2, max(history.compacted, 1)):
                parked.start_soon(
                    self._stay_parked, rng.choice(self._chaos.watchers), start
                )
            async with trio.open_nursery() as leaving:
                for _ in range(20):
                    leaving.start_soon(self._open_and_leave, rng)
            await self._wait_no_surplus("parked and left")
            parked.cancel_scope.cancel(reason="checked")

    async def _wait_no_surplus(self, when: str) -> None:
        surplus = None
        with trio.move_on_after(self._limit):
            while True:
                surplus = await self._surplus()
                # etcd's gauge counts a compacted watcher down twice if its stream ends
                # while it is being canceled (cancelWatcher, to 3.4.23 at least).
                if surplus == 0 or (surplus and surplus < 0 and self._chaos.compacts):
                    return
                await trio.sleep(0.05)
        self._chaos.violated(
            f"left behind: {when}, the servers hold {surplus} too many"
        )

    async def _surplus(self) -> int | None:
        """Return how many watches too many there are; None while some are opening."""
        metrics = [await member.metrics() for member in self._chaos.members]
        held = sum(int(each["etcd_debugging_mvcc_watcher_total"]) for each in metrics)
        statistics = [watcher.statistics() for watcher in self._chaos.watchers]
        if any(each.creating + each.resuming for each in statistics):
            return None
        return held - sum(each.live for each in statistics)

    async def _stay_parked(self, watcher: Watcher, start: int) -> None:
        opening = watcher.watch(
            "", prefix=True, start_revision=start, max_buffered_events=1
        )
        async with opening:
            await trio.sleep_forever()

    async def _open_and_leave(self, rng: random.Random) -> None:
        for _ in range(20):
            with trio.move_on_after(rng.expovariate(100)):
                async with rng.choice(self._chaos.watchers).watch("", prefix=True):
                    await trio.sleep_forever()
