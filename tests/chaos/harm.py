"""Breaks the network and the servers, and repairs them."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import trio

from tests.chaos.faults import STRIKES
from tests.support.proxy import Proxy
from trio_etcd_watch.testing import Etcd

if TYPE_CHECKING:
    from tests.chaos.run import Chaos

LONGEST_FAULT = 4.0
"""The longest fault in seconds, if the run is long enough for it."""

WRITERS = 3
"""How many writes may run at the same time."""


class Harm:
    """Causes the faults of a run, in its servers and in the network before them.

    Attributes:
        may_write: must be held during each write.
        peace: is set when no more faults are to be caused.
    """

    def __init__(self, chaos: Chaos) -> None:
        self.may_write = trio.Semaphore(WRITERS)
        self.peace = trio.Event()
        self._chaos = chaos
        self._options = chaos.options
        self._longest = min(LONGEST_FAULT, chaos.options.seconds / 3)
        # A thousand lagging watches have much to fetch before the next fault.
        self._mercy = 1 + chaos.options.storm / 200

    async def is_peace_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self.peace.wait()
        return self.peace.is_set()

    def start(self, nursery: trio.Nursery) -> None:
        for proxy in self._chaos.proxies:
            rng = self._chaos.rng(f"network {proxy.endpoint}")
            nursery.start_soon(self._harm_network, proxy, rng)
        nursery.start_soon(self._harm_servers, self._chaos.rng("servers"))

    def strike_last(self) -> None:
        """Cause the last fault: a loss of connections that no packet reports."""
        for proxy in self._chaos.proxies:
            self._chaos.report.faults["blackhole"] += 1
            proxy.blackhole()
            proxy.heal()

    async def _harm_network(self, proxy: Proxy, rng: random.Random) -> None:
        proxies = len(self._chaos.proxies)
        while True:
            mean = min(0.7, self._options.seconds / 6) * proxies * self._mercy
            if await self.is_peace_within(rng.expovariate(1 / mean)):
                return
            (strike,) = rng.choices(list(STRIKES), list(STRIKES.values()))
            self._chaos.report.faults[strike.__name__] += 1
            await strike(proxy, rng, rng.uniform(0.1, self._longest))

    async def _harm_servers(self, rng: random.Random) -> None:
        """Kill or pause one member after the other, so that a quorum remains."""
        faults = self._chaos.report.faults
        for member in itertools.cycle(self._chaos.members):
            pause = rng.uniform(0.2, 2 * self._longest) * self._mercy
            if await self.is_peace_within(pause):
                return
            if rng.random() < 0.5:
                faults["kill -9"] += 1
                await self._kill(member)
                await trio.sleep(rng.uniform(0.0, 1.0))
                await member.start()
            else:
                faults["SIGSTOP"] += 1
                await member.pause()
                await trio.sleep(rng.uniform(0.1, self._longest))
                await member.resume()
                await member.wait_serving()

    async def _kill(self, member: Etcd) -> None:
        # When killed, etcd 3.5 before 3.5.5 can lose the last acknowledged writes and
        # use their revisions again, which no watch can handle:
        # https://github.com/etcd-io/etcd/pull/13908 and pull/14424
        holds = WRITERS if (3, 5, 0) <= member.version < (3, 5, 5) else 0
        for _ in range(holds):
            await self.may_write.acquire()
        # The backend commits every 0.1 s.
        await trio.sleep(0.3 if holds else 0.0)
        await member.kill()
        for _ in range(holds):
            self.may_write.release()
