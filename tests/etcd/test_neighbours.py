"""Errors of one watch do not affect other watches on the stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from tests.support.auth import READER, Guarded, distinguishes_tokens, open_guarded
from tests.support.helpers import LIMIT
from trio_etcd_watch import (
    AuthenticationError,
    Channel,
    PermissionDeniedError,
    RpcError,
    StatusCode,
    Watch,
    Watcher,
    _tokens,
    open_watcher,
)

NEIGHBOURS = 200

CHEAP = "--bcrypt-cost=4"
"""Arguments that make passwords quick to check."""


@pytest.fixture(params=["new", "old"])
def token(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that replaced others count as new, so that denials are final, or old."""
    if request.param == "old":
        monkeypatch.setattr(_tokens, "NEW_TOKEN_AGE", 0.0)


async def expect_puts(watches: list[Watch], *values: bytes) -> None:
    """Check that each watch gets these values next, each of them once."""
    for watch in watches:
        events = watch.events()
        for value in values:
            with trio.fail_after(LIMIT):
                assert (await anext(events)).kv.value == value
        assert watch.statistics().unread_events == 0


@asynccontextmanager
async def neighbours(server: Guarded) -> AsyncGenerator[tuple[Watcher, list[Watch]]]:
    """Open a watcher with many watches of `r`, on one stream."""
    channel = Channel(server.etcd.endpoint, credentials=READER)
    async with open_watcher(channel) as watcher, AsyncExitStack() as stack:
        watches = []
        with trio.fail_after(LIMIT):
            for _ in range(NEIGHBOURS):
                watch = watcher.watch("r")
                watches.append(await stack.enter_async_context(watch))
        assert watcher.statistics().streams == 1
        yield watcher, watches


async def enter_and_leave(watcher: Watcher, key: str) -> None:
    """Open and close one more watch."""
    with trio.fail_after(LIMIT):
        async with watcher.watch(key):
            pass


async def assert_unharmed(
    watcher: Watcher, watches: list[Watch], put: Callable[[str, str], Awaitable[object]]
) -> None:
    """Check that no watch lost its stream, and that each gets what comes next, once."""
    await put("r", "1")
    await put("r", "2")
    await expect_puts(watches, b"1", b"2")
    assert watcher.statistics().reconnects == 0
    assert {watch.statistics().state for watch in watches} == {"live"}


@pytest.mark.usefixtures("token")
async def test_denied_watches(etcd_binary: str) -> None:
    denied = 0

    async def enter(watcher: Watcher, key: str) -> None:
        nonlocal denied
        with pytest.raises(PermissionDeniedError):
            await enter_and_leave(watcher, key)
        denied += 1

    async with (
        open_guarded(etcd_binary, CHEAP) as server,
        neighbours(server) as (watcher, watches),
    ):
        async with trio.open_nursery() as nursery:
            for i in range(25):
                nursery.start_soon(enter, watcher, f"x{i}")
        for i in range(25):
            await enter(watcher, f"x{i}")
        assert denied == 50
        await assert_unharmed(watcher, watches, server.put)


async def change_password(server: Guarded) -> None:
    change = {"name": READER.user, "password": "another"}
    await server.request("/v3/auth/user/changepw", change)


async def delete_user(server: Guarded) -> None:
    await server.request("/v3/auth/user/delete", {"name": READER.user})


@pytest.mark.parametrize("spoil", [change_password, delete_user])
async def test_credentials_that_are_not_good_any_more(
    etcd_binary: str, spoil: Callable[[Guarded], Awaitable[None]]
) -> None:
    async with (
        open_guarded(etcd_binary, CHEAP) as server,
        neighbours(server) as (watcher, watches),
    ):
        await spoil(server)
        for _ in range(2):
            with pytest.raises(AuthenticationError, match="authentication failed"):
                await enter_and_leave(watcher, "r")
        if not distinguishes_tokens(server.etcd):
            # Such a server refuses under id 0, and afterwards sends no events of the
            # watch with that id. Only a watch with a token could be created again.
            silenced = watches.pop(0)
            with trio.fail_after(LIMIT), pytest.raises(AuthenticationError):
                await anext(silenced)
        await assert_unharmed(watcher, watches, server.put)


@pytest.mark.usefixtures("token")
async def test_auth_off_and_on_again(etcd_binary: str) -> None:
    async with (
        open_guarded(etcd_binary, CHEAP) as server,
        neighbours(server) as (watcher, watches),
    ):
        await server.request("/v3/auth/disable", {})
        server.etcd.token = None
        await enter_and_leave(watcher, "r")
        await assert_unharmed(watcher, watches, server.etcd.put)
        await server.etcd.request("/v3/auth/enable", {})
        await enter_and_leave(watcher, "r")
        await assert_unharmed(watcher, watches, server.put)


async def test_a_key_over_the_servers_limit(etcd_binary: str) -> None:
    async with (
        open_guarded(etcd_binary, CHEAP) as server,
        neighbours(server) as (watcher, watches),
    ):
        with pytest.raises(RpcError) as caught:
            await enter_and_leave(watcher, "r" * 3_000_000)
        assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
        assert "received message larger than max" in caught.value.message
        # etcd ends the stream with all its watches, once.
        await server.put("r", "1")
        await expect_puts(watches, b"1")
        assert watcher.statistics().reconnects == 1
