"""etcd's authentication: users, tokens that expire, and denied ranges."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio

from tests.support.auth import (
    READER,
    Guarded,
    distinguishes_tokens,
    jwt,
    open_guarded,
)
from tests.support.helpers import LIMIT, eventually, split, take
from tests.support.proxy import open_proxy
from trio_etcd_watch import (
    AuthenticationError,
    Channel,
    Credentials,
    PermissionDeniedError,
    StatusCode,
    WatchError,
    open_watcher,
)
from trio_etcd_watch.testing import Etcd, open_etcd


async def test_a_user_reads_what_it_may(
    etcd_binary: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_guarded(etcd_binary) as server:
        channel = Channel(server.etcd.endpoint, credentials=READER)
        async with open_watcher(channel) as watcher:
            async with watcher.watch("r", prefix=True) as watch:
                # Only this watch is denied.
                with trio.fail_after(LIMIT):
                    with pytest.raises(PermissionDeniedError) as caught:
                        async with watcher.watch("x"):
                            pytest.fail("entered")
                assert caught.value.reason == "etcdserver: permission denied"
                await server.put("r1", "news")
                assert [e.kv.value for e in await take(watch, 1)] == [b"news"]
            token = watcher._connector._token
        assert token
        for secret in (READER.password, token):
            assert secret not in caplog.text
            assert secret not in repr((channel, READER, caught.value, watcher))
            assert secret not in str(caught.value)


async def test_a_wrong_password_fails_at_once(etcd_binary: str) -> None:
    async with open_guarded(etcd_binary) as server:
        wrong = Credentials("reader", "wrong password")
        channel = Channel(server.etcd.endpoint, credentials=wrong)
        async with open_watcher(channel) as watcher:
            for _ in range(2):
                with (
                    trio.fail_after(LIMIT),
                    pytest.raises(AuthenticationError) as caught,
                ):
                    async with watcher.watch("r"):
                        pytest.fail("entered")
                assert caught.value.code is StatusCode.INVALID_ARGUMENT
                assert caught.value.message == (
                    "etcdserver: authentication failed, invalid user ID or password"
                )
                assert "wrong password" not in str(caught.value)
                assert "wrong password" not in repr(caught.value)


async def test_no_credentials_are_denied(etcd_binary: str) -> None:
    async with open_guarded(etcd_binary) as server:
        async with open_watcher(server.etcd.endpoint) as watcher:
            with trio.fail_after(LIMIT), pytest.raises(PermissionDeniedError):
                async with watcher.watch("r"):
                    pytest.fail("entered")


async def test_credentials_where_auth_is_off(etcd: Etcd) -> None:
    channel = Channel(etcd.endpoint, credentials=READER)
    async with open_watcher(channel) as watcher, watcher.watch("a") as watch:
        await etcd.put("a", "1")
        assert len(await take(watch, 1)) == 1


async def test_living_through_expiry_and_reconnects(etcd_binary: str) -> None:
    async with (
        open_guarded(etcd_binary, "--auth-token-ttl=2") as server,
        open_proxy(*split(server.etcd.endpoint)) as proxy,
    ):
        channel = Channel(proxy.endpoint, credentials=READER)
        async with open_watcher(channel) as watcher, watcher.watch("r") as watch:
            used = watcher._connector._token
            await trio.sleep(4)  # the server's clock cannot be mocked
            # Reconnects with a token that has expired.
            proxy.reset_all()
            await server.put("r", "1")
            assert [e.kv.value for e in await take(watch, 1)] == [b"1"]
            assert watcher._connector._token != used
            used = watcher._connector._token
            await trio.sleep(4)
            # The reply to a creation on an open stream says that the token is invalid.
            with trio.fail_after(LIMIT):
                async with watcher.watch("r1") as second:
                    await server.put("r1", "2")
                    assert len(await take(second, 1)) == 1
            assert watcher._connector._token != used
            await server.put("r", "3")
            assert [e.kv.value for e in await take(watch, 1)] == [b"3"]


async def test_a_token_from_elsewhere(
    etcd_binary: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_guarded(etcd_binary, jwt(tmp_path)) as server:
        token = await server.token(READER)
        # The server refuses the first token, so the source is asked for the next one.
        tokens = [token, "not.the.servers"]

        async def source() -> str:
            return tokens.pop()

        for given in (token, source):
            channel = Channel(server.etcd.endpoint, token=given)
            async with open_watcher(channel) as watcher:
                with trio.fail_after(LIMIT):
                    async with watcher.watch("r", prefix=True) as watch:
                        await server.put("r1", "news")
                        assert [e.kv.value for e in await take(watch, 1)] == [b"news"]
                        with pytest.raises(PermissionDeniedError):
                            async with watcher.watch("x"):
                                pytest.fail("entered")
                        # Not on a server that has forgotten it; each member can check
                        # the token.
                        await server.etcd.kill()
                        await server.etcd.start()
                        await server.put("r1", "more")
                        assert [e.kv.value for e in await take(watch, 1)] == [b"more"]
            assert token not in f"{caplog.text} {channel!r}"
        assert tokens == []


async def test_a_token_that_is_refused_for_ever(
    etcd_binary: str, tmp_path: Path
) -> None:
    calls = 0

    async def source() -> str:
        nonlocal calls
        calls += 1
        return "not.the.servers"

    async with open_guarded(etcd_binary, jwt(tmp_path)) as server:
        channel = Channel(server.etcd.endpoint, token=source)
        async with open_watcher(channel) as watcher:
            with trio.fail_after(LIMIT), pytest.raises(WatchError) as caught:
                async with watcher.watch("r"):
                    pytest.fail("entered")
    if not distinguishes_tokens(server.etcd):
        assert isinstance(caught.value, PermissionDeniedError)
        return
    assert isinstance(caught.value, AuthenticationError)
    assert calls == 4
    assert caught.value.code is StatusCode.UNAUTHENTICATED
    assert "etcdserver: invalid auth token" in caught.value.message


async def test_passwords_that_are_slow_to_check(etcd_binary: str) -> None:
    # Each time takes about 0.6 s or more, and the timeout is a tenth of that.
    async with open_guarded(etcd_binary, "--bcrypt-cost=13") as server:
        channel = Channel(
            server.etcd.endpoint, credentials=READER, connect_timeout=0.06
        )
        async with open_watcher(channel) as watcher:
            with trio.fail_after(LIMIT):
                async with watcher.watch("r") as watch:
                    await server.put("r", "1")
                    assert len(await take(watch, 1)) == 1


async def test_tokens_are_gone_after_a_restart(etcd_binary: str) -> None:
    async with open_guarded(etcd_binary) as server:
        channel = Channel(server.etcd.endpoint, credentials=READER)
        async with open_watcher(channel) as watcher, watcher.watch("r") as watch:
            await server.etcd.kill()
            await server.etcd.start()
            await server.put("r", "1")
            assert [e.kv.value for e in await take(watch, 1)] == [b"1"]


async def test_password_changed_while_the_watch_lives(etcd_binary: str) -> None:
    async with open_guarded(etcd_binary) as server:
        channel = Channel(server.etcd.endpoint, credentials=READER)
        async with open_watcher(channel) as watcher, watcher.watch("r") as watch:
            await server.put("r", "1")

            async def has_one() -> bool:
                return watch.statistics().unread_events == 1

            await eventually(has_one)
            change = {"name": READER.user, "password": "another"}
            await server.request("/v3/auth/user/changepw", change)
            await server.etcd.kill()
            await server.etcd.start()
            # What was received comes first, then the error.
            assert [e.kv.value for e in await take(watch, 1)] == [b"1"]
            with trio.fail_after(LIMIT), pytest.raises(AuthenticationError):
                await anext(watch)


async def test_auth_is_enabled_while_the_watch_lives(etcd_binary: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        channel = Channel(etcd.endpoint, credentials=READER)
        async with open_watcher(channel) as watcher, watcher.watch("r") as watch:
            server = Guarded(etcd)
            await server.set_up()
            with trio.fail_after(LIMIT):
                async with watcher.watch("r") as second:
                    await server.put("r", "1")
                    assert [e.kv.value for e in await take(second, 1)] == [b"1"]
            assert [e.kv.value for e in await take(watch, 1)] == [b"1"]
            # It continues without a token as long as the server allows it.
            assert watcher.statistics().reconnects == 0


async def test_watches_denied_together_cost_no_neighbour_its_stream(
    etcd_binary: str,
) -> None:
    async with open_guarded(etcd_binary, "--auth-token-ttl=4") as server:
        channel = Channel(server.etcd.endpoint, credentials=READER)
        async with open_watcher(channel) as watcher, watcher.watch("r") as watch:
            denied = []

            async def enter(key: str) -> None:
                with pytest.raises(PermissionDeniedError):
                    async with watcher.watch(key):
                        pytest.fail("entered")
                denied.append(key)

            await trio.sleep(3)  # a token that is neither new nor expired
            with trio.fail_after(LIMIT):
                async with trio.open_nursery() as nursery:
                    for i in range(20):
                        nursery.start_soon(enter, f"x{i}")
            assert len(denied) == 20
            assert watcher.statistics().reconnects == 0
            await server.put("r", "1")
            assert [e.kv.value for e in await take(watch, 1)] == [b"1"]
