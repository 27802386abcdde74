"""Writes and requests to an etcd over its JSON gateway."""

from __future__ import annotations

import ssl
from functools import partial

import pytest
import trio

from tests.support.servers import keys_of
from trio_etcd_watch.testing import (
    Delete,
    Etcd,
    EtcdRequestError,
    Put,
    open_etcd,
)
from trio_etcd_watch.testing._gateway import Gateway


async def test_writing(etcd_binary: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        first = await etcd.txn(Put("a", "1"), Put(b"\xff", b"\0"), Put("ab", "2"))
        assert await etcd.revision() == first
        assert await keys_of(etcd) == [b"a", b"ab", b"\xff"]
        assert await etcd.txn(Put("b", "3"), Delete("a", prefix=True)) == first + 1
        assert await keys_of(etcd) == [b"b", b"\xff"]
        assert await etcd.delete("nothing") == first + 1
        assert await etcd.delete(b"\xff", prefix=True) == first + 2
        assert await keys_of(etcd) == [b"b"]
        assert await etcd.delete("", prefix=True) == first + 3
        assert await keys_of(etcd) == []


async def test_concurrent_writes(etcd_binary: str) -> None:
    revisions: set[int] = set()
    async with open_etcd(binary=etcd_binary) as etcd:

        async def write(key: str) -> None:
            revisions.add(await etcd.put(key, "1"))

        async with trio.open_nursery() as nursery:
            for i in range(60):  # more than Trio has threads at once
                nursery.start_soon(write, f"k{i}")
        assert len(revisions) == len(await keys_of(etcd)) == 60


async def test_compact(etcd_binary: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        first = await etcd.put("a", "1")
        last = await etcd.put("a", "2")
        await etcd.compact(last)
        with pytest.raises(EtcdRequestError, match="has been compacted") as info:
            await etcd.request("/v3/kv/range", {"key": "YQ==", "revision": first})
        assert info.value.code == 11
        await etcd.request("/v3/kv/range", {"key": "YQ==", "revision": last})


async def test_metrics(etcd_binary: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        metrics = await etcd.metrics()
        assert metrics["etcd_server_has_leader"] == 1
        version = ".".join(map(str, etcd.version))
        assert metrics[f'etcd_server_version{{server_version="{version}"}}'] == 1


async def test_a_page_that_is_missing(etcd: Etcd) -> None:
    # The gateway of 3.6, grpc-gateway v2, answers like gRPC; older ones with text.
    message, code = "HTTP status 404: Not Found", 2
    if etcd.version >= (3, 6, 0):
        message, code = "Not Found", 5
    with pytest.raises(EtcdRequestError) as info:
        await etcd.request("/v3/nothing")
    assert (info.value.message, info.value.code) == (message, code)


async def test_the_servers_words(etcd: Etcd) -> None:
    with pytest.raises(EtcdRequestError) as info:
        await etcd.request("/v3/kv/put", {"value": "AA=="})
    assert info.value.message == "etcdserver: key is not provided"
    assert info.value.code == 3


@pytest.mark.parametrize("start", ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
async def test_a_reply_that_breaks_off(start: str) -> None:
    async def reply(stream: trio.SocketStream) -> None:
        async with stream:
            # Read all of the JSON: unread data would reset the client.
            request = b""
            while not request.endswith(b"}"):
                request += await stream.receive_some()
            await stream.send_all(start.encode())

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, reply, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        host, port = listener.socket.getsockname()
        with pytest.raises(ConnectionError, match="broke off"):
            await Gateway(f"{host}:{port}", None).revision()
        nursery.cancel_scope.cancel()


async def test_auth(etcd_binary: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        root = {"name": "root", "password": "secret"}
        await etcd.request("/v3/auth/user/add", root)
        await etcd.request("/v3/auth/user/grant", {"user": "root", "role": "root"})
        await etcd.request("/v3/auth/enable")
        with pytest.raises(EtcdRequestError, match="user name is empty"):
            await etcd.put("a", "1")
        etcd.token = (await etcd.request("/v3/auth/authenticate", root))["token"]
        await etcd.put("a", "1")
        await etcd.restart()  # it serves, though it refuses the token from before
        with pytest.raises(EtcdRequestError, match="invalid auth token"):
            await etcd.put("a", "1")


async def test_tls(etcd_binary: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # --auto-tls uses a self-signed certificate
    async with open_etcd(
        binary=etcd_binary, args=["--auto-tls"], ssl_context=context
    ) as etcd:
        first = await etcd.put("a", "1")
        await etcd.restart()
        assert await etcd.put("a", "2") == first + 1
