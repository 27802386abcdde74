"""Faults of the network: what a proxy does for some seconds."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from tests.support.proxy import Proxy

Strike: TypeAlias = Callable[[Proxy, random.Random, float], Awaitable[None]]


async def close(proxy: Proxy, rng: random.Random, seconds: float) -> None:
    proxy.close_all()
    await trio.lowlevel.checkpoint()


async def reset(proxy: Proxy, rng: random.Random, seconds: float) -> None:
    proxy.reset_all()
    await trio.lowlevel.checkpoint()


async def cut(proxy: Proxy, rng: random.Random, seconds: float) -> None:
    # From within the first frame to after the first fragment of a long history.
    proxy.cut_after(int(10 ** rng.uniform(0, 6.3)), fin=rng.random() < 0.5)
    proxy.reset_all()
    await trio.sleep(seconds)
    proxy.cut_after(None)


async def blackhole(proxy: Proxy, rng: random.Random, seconds: float) -> None:
    proxy.blackhole()
    await trio.sleep(seconds)
    proxy.heal()


async def refuse(proxy: Proxy, rng: random.Random, seconds: float) -> None:
    proxy.refuse()
    proxy.reset_all()
    await trio.sleep(seconds / 2)
    proxy.accept()


async def delay(proxy: Proxy, rng: random.Random, seconds: float) -> None:
    proxy.delay(rng.uniform(0.01, 0.5))
    await trio.sleep(seconds)
    proxy.delay(0.0)


STRIKES: dict[Strike, int] = {
    close: 3,
    reset: 3,
    cut: 4,
    blackhole: 2,
    refuse: 2,
    delay: 3,
}
"""The faults, with their weights."""
