"""The proxy that other tests rely on."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.helpers import split
from tests.support.proxy import Proxy, open_proxy

LIMIT = 10.0


async def echo(stream: trio.SocketStream) -> None:
    try:
        async for chunk in stream:
            await stream.send_all(chunk)
        await stream.send_eof()
    except trio.BrokenResourceError:
        pass
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def echo_proxy() -> AsyncGenerator[Proxy]:
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, echo, 0, host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            async with open_proxy(*listener.socket.getsockname()) as proxy:
                yield proxy
            nursery.cancel_scope.cancel(reason="the test is over")


async def connect(proxy: Proxy) -> trio.SocketStream:
    host, port = proxy.endpoint.split(":")
    return await trio.open_tcp_stream(host, int(port))


async def ask(stream: trio.SocketStream, data: bytes) -> None:
    await stream.send_all(data)
    assert await read(stream, len(data)) == data


async def read(stream: trio.SocketStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = await stream.receive_some()
        if not chunk:
            break
        data += chunk
    return bytes(data)


async def assert_reset(stream: trio.SocketStream) -> None:
    with pytest.raises(trio.BrokenResourceError) as info:
        await stream.receive_some()
    assert isinstance(info.value.__cause__, OSError)
    assert info.value.__cause__.errno == errno.ECONNRESET


async def test_forwards_and_counts() -> None:
    async with echo_proxy() as proxy:
        async with await connect(proxy) as first, await connect(proxy) as second:
            await ask(first, b"hello")
            await ask(second, b"you")
            await proxy.wait_accepted(2)
            assert (proxy.accepted, proxy.bytes_down) == (2, 8)
            await first.send_eof()  # one direction ends, the other goes on
            assert await first.receive_some() == b""


async def test_close_all() -> None:
    async with echo_proxy() as proxy, await connect(proxy) as client:
        await ask(client, b"hello")
        proxy.close_all()
        assert await client.receive_some() == b""
        async with await connect(proxy) as another:
            await ask(another, b"hello")


async def test_reset_all() -> None:
    async with echo_proxy() as proxy, await connect(proxy) as client:
        await ask(client, b"hello")
        proxy.reset_all()
        await assert_reset(client)
        async with await connect(proxy) as another:
            await ask(another, b"hello")


@pytest.mark.parametrize("count", [0, 1, 70_001])
async def test_cut_by_reset(count: int) -> None:
    async with echo_proxy() as proxy:
        proxy.cut_after(count)
        async with await connect(proxy) as client:
            if count:
                await client.send_all(bytes(count + 1))
            assert len(await read(client, count)) == count
            await assert_reset(client)
        assert proxy.bytes_down == count
        proxy.cut_after(None)
        async with await connect(proxy) as another:
            await ask(another, b"hello")


@pytest.mark.parametrize("count", [0, 7])
async def test_cut_by_fin(count: int) -> None:
    async with echo_proxy() as proxy:
        proxy.cut_after(count, fin=True)
        async with await connect(proxy) as client:
            await client.send_all(b"0123456789")
            assert await read(client, 10) == b"0123456789"[:count]


async def test_blackhole_and_heal() -> None:
    async with echo_proxy() as proxy, await connect(proxy) as old:
        await ask(old, b"hello")
        proxy.blackhole()
        async with await connect(proxy) as new:
            await proxy.wait_accepted(2)
            for stream in (old, new):
                await stream.send_all(b"lost")
            proxy.heal()
            async with await connect(proxy) as healed:
                await ask(healed, b"hello")
            for stream in (old, new):
                with trio.move_on_after(0.05) as silence:
                    await stream.receive_some()
                assert silence.cancelled_caught
            assert proxy.bytes_down == 10
            proxy.reset_all()
            for stream in (old, new):
                await assert_reset(stream)


async def test_blackhole_for_those_who_name_themselves() -> None:
    async with (
        echo_proxy() as proxy,
        await connect(proxy) as first,
        await connect(proxy) as second,
    ):
        for name, stream in ((b"first", first), (b"second", second)):
            await ask(stream, name)
        proxy.blackhole(lambda head: b"first" in head)
        async with await connect(proxy) as third, await connect(proxy) as fourth:
            # One identifies itself only later.
            for name, stream in ((b"hello", third), (b"third", fourth)):
                await ask(stream, name)
            for stream in (first, third):
                await stream.send_all(b"first")
            with trio.fail_after(LIMIT):
                while sum(each.is_stalled for each in proxy._connections) < 2:  # noqa: ASYNC110  # no Event
                    await trio.sleep(0.01)
            proxy.heal()
            proxy.reset_stalled()
            for stream in (first, third):
                await assert_reset(stream)
        await ask(second, b"again")


async def test_refuse_and_accept() -> None:
    async with echo_proxy() as proxy, await connect(proxy) as client:
        await ask(client, b"hello")
        for _ in range(2):
            proxy.refuse()
            with pytest.raises(OSError, match="connect"):
                await connect(proxy)
            await ask(client, b"open connections stay")
            proxy.accept()
            async with await connect(proxy) as another:
                await ask(another, b"hello")


async def test_refuse_while_a_client_dials() -> None:
    async with echo_proxy() as proxy:
        for _ in range(20):
            await wait_all_tasks_blocked()
            with socket.create_connection(split(proxy.endpoint)):
                # The connection is refused before or after its task runs; Trio's order
                # is random.
                await trio.lowlevel.checkpoint()
                proxy.refuse()
                await wait_all_tasks_blocked()
                proxy.accept()


async def test_delay_is_latency_without_a_limit_of_throughput() -> None:
    latency = 0.1
    count = 50
    async with echo_proxy() as proxy, await connect(proxy) as client:
        await ask(client, b"hello")
        proxy.delay(latency)
        start = trio.current_time()
        for _ in range(count):
            await client.send_all(b"x")
            await wait_all_tasks_blocked()
        assert await read(client, count) == b"x" * count
        assert 2 * latency <= trio.current_time() - start < count * latency


async def test_a_broken_server_breaks_the_client() -> None:
    async def reset(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)  # leaves bytes unread: close() sends RST
        await trio.aclose_forcefully(stream)

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, reset, 0, host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            address = listener.socket.getsockname()
            async with open_proxy(*address) as proxy, await connect(proxy) as client:
                await client.send_all(b"hello")
                await assert_reset(client)
            nursery.cancel_scope.cancel(reason="the test is over")


async def test_a_server_out_of_reach_resets_the_client() -> None:
    with trio.fail_after(LIMIT), socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        async with open_proxy(*deaf.getsockname()) as proxy:
            async with await connect(proxy) as client:
                await assert_reset(client)


async def test_an_error_of_the_body_comes_out_as_itself() -> None:
    proxies: list[Proxy] = []

    async def fail() -> None:
        async with open_proxy("127.0.0.1", 1) as proxy:
            proxies.append(proxy)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()
    with pytest.raises(OSError, match="connect"):
        await connect(proxies[0])
