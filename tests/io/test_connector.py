"""How a member of a cluster is reached."""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.peer import GRPC, SETTINGS, Peer, serve_tcp
from trio_etcd_watch import AuthenticationError, Channel, Credentials
from trio_etcd_watch._channel import API_VERSION
from trio_etcd_watch._connector import Connector
from trio_etcd_watch._grpc.status import StreamLost
from trio_etcd_watch._pb import watch_pb2 as pb

LIMIT = 10.0
SECRET = "s3cret"


@asynccontextmanager
async def connector(channel: Channel) -> AsyncGenerator[Connector]:
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            yield Connector(channel, nursery)
            nursery.cancel_scope.cancel(reason="the test is over")


@pytest.fixture
def refused() -> Iterator[Callable[[], str]]:
    """Endpoints where nobody listens: bound, so that nobody else takes them."""
    sockets = []

    def endpoint() -> str:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sockets.append(sock)
        return f"127.0.0.1:{sock.getsockname()[1]}"

    yield endpoint
    for sock in sockets:
        sock.close()


async def reason_of(connector: Connector) -> str:
    with pytest.raises(StreamLost) as info:
        await connector.connect()
    return str(info.value)


async def test_each_endpoint_in_turn(refused: Callable[[], str]) -> None:
    texts = [refused() for _ in range(3)]
    async with connector(Channel(*texts)) as tried:
        reasons = [await reason_of(tried) for _ in range(7)]
    order = [reason.split(": ")[0] for reason in reasons]
    assert sorted(order[:3]) == sorted(texts)
    assert order == (order[:3] * 3)[:7]
    assert "onnection refused" in reasons[0]


def test_endpoints_are_shuffled() -> None:
    channel = Channel("a:1", "b:1", "c:1")
    random.seed(7)
    nursery: Any = None
    firsts = [next(Connector(channel, nursery)._endpoints).host for _ in range(300)]
    counts = Counter(firsts)
    assert all(counts[host] > 60 for host in "abc")
    assert [endpoint.host for endpoint in channel._endpoints] == ["a", "b", "c"]


async def test_connection_is_kept_while_it_lives(refused: Callable[[], str]) -> None:
    accepted = []

    async def serve(stream: trio.SocketStream) -> None:
        accepted.append(stream)
        await Peer(stream).run()

    async with serve_tcp(serve) as endpoint, connector(Channel(endpoint)) as made:
        first, metadata = await made.connect()
        again, _ = await made.connect()
        assert again is first
        assert metadata == API_VERSION
        first.close("the test wants another")
        second, _ = await made.connect()
        assert second is not first
        assert made.connections_made == len(accepted) == 2


async def silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_server_that_never_answers() -> None:
    async with serve_tcp(silent) as endpoint:
        async with connector(Channel(endpoint, connect_timeout=0.05)) as made:
            reason = await reason_of(made)
            assert reason == (
                f"{endpoint}: no connection within 0.05 s: it is open, but silent; "
                f"is this etcd's client port?"
            )
            assert made.connections_made == 0


async def test_attempt_is_bounded_while_connecting(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_tcp_stream(host: str, port: int) -> trio.SocketStream:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    async with connector(Channel("a:1", connect_timeout=3)) as made:
        began = trio.current_time()
        assert await reason_of(made) == "a:1: no connection within 3 s"
        assert trio.current_time() - began == pytest.approx(3)


async def test_tls_handshake_is_bounded() -> None:
    async with serve_tcp(silent) as endpoint:
        channel = Channel(f"https://{endpoint}", connect_timeout=0.05)
        async with connector(channel) as made:
            assert "no connection within 0.05 s" in await reason_of(made)


async def test_socket_is_closed_after_a_failed_attempt() -> None:
    closed = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass
        closed.set()

    async with serve_tcp(serve) as endpoint:
        async with connector(Channel(endpoint, connect_timeout=0.05)) as made:
            await reason_of(made)
            await closed.wait()


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it answers in HTTP/1;"),
        (
            b"\x15\x03\x01\0\2\2\x46",
            "it expects TLS (in plaintext; for TLS say https://)",
        ),
        (b"", "closed the connection (in plaintext; for TLS say https://)"),
    ],
)
async def test_server_of_another_kind(first: bytes, reason: str) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        if first:
            await stream.send_all(first)
            await trio.sleep_forever()
        await stream.receive_some()
        await stream.send_eof()

    async with serve_tcp(serve) as endpoint, connector(Channel(endpoint)) as made:
        text = await reason_of(made)
        assert text.startswith(f"{endpoint}: the server ")
        assert reason in text


async def test_tls_against_a_server_without() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(SETTINGS)
        await trio.sleep_forever()

    async with serve_tcp(serve) as endpoint:
        async with connector(Channel(f"https://{endpoint}")) as made:
            assert (await reason_of(made)).startswith(f"{endpoint}: ")


async def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "etcd.sock")
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(path)
    listener.listen()

    async def serve() -> None:
        sock, _ = await listener.accept()
        async with trio.SocketStream(sock) as stream:
            await Peer(stream).run()

    with listener:
        async with connector(Channel(f"unix://{path}")) as made:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                connection, _ = await made.connect()
                assert not connection.lost
                connection.close("seen")


async def test_unix_socket_that_is_not_there(tmp_path: Path) -> None:
    endpoint = f"unix://{tmp_path}/none"
    async with connector(Channel(endpoint)) as made:
        assert (await reason_of(made)).startswith(f"{endpoint}: ")


# Credentials


def authenticator(replies: list[tuple[int, str]]) -> Callable[[trio.SocketStream], Any]:
    """A server that answers Authenticate with these: a status, and token or message."""

    async def serve(stream: trio.SocketStream) -> None:
        peer = Peer(stream)
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                while True:
                    stream_id = await peer.accept()
                    request = pb.AuthenticateRequest.FromString(
                        await peer.message(stream_id)
                    )
                    assert (request.name, request.password) == ("root", SECRET)
                    status, text = replies.pop(0)
                    await peer.headers(stream_id, GRPC)
                    if not status:
                        response = pb.AuthenticateResponse(token=text)
                        await peer.messages(stream_id, response.SerializeToString())
                        text = ""
                    await peer.status(stream_id, status, text)

            nursery.start_soon(answer)
            await peer.run()
            nursery.cancel_scope.cancel(reason="the client closed")

    return serve


@asynccontextmanager
async def logging_in(*replies: tuple[int, str]) -> AsyncGenerator[Connector]:
    async with serve_tcp(authenticator(list(replies))) as endpoint:
        channel = Channel(
            endpoint, credentials=Credentials("root", SECRET), metadata={"a": "b"}
        )
        async with connector(channel) as made:
            yield made


async def test_token_is_kept_until_it_is_refused() -> None:
    async with logging_in((0, "first"), (0, "second")) as made:
        for _ in range(2):
            assert (await made.connect())[1] == (
                *API_VERSION,
                ("a", "b"),
                ("token", "first"),
            )
        made.forget_token()
        assert (await made.connect())[1] == (
            *API_VERSION,
            ("a", "b"),
            ("token", "second"),
        )
        assert made.connections_made == 1


async def test_wrong_password() -> None:
    message = "etcdserver: authentication failed, invalid user ID or password"
    async with logging_in((3, message)) as made:
        with pytest.raises(AuthenticationError) as info:
            await made.connect()
        assert info.value.message == message
        assert SECRET not in f"{info.value!r} {info.value}"


async def test_auth_is_not_enabled() -> None:
    refused = (9, "etcdserver: authentication is not enabled")
    async with logging_in(refused, refused, (0, "token")) as made:
        assert (await made.connect())[1] == (*API_VERSION, ("a", "b"))
        assert (await made.connect())[1] == (*API_VERSION, ("a", "b"))
        # Now it is.
        assert (await made.connect())[1] == (
            *API_VERSION,
            ("a", "b"),
            ("token", "token"),
        )
        assert (await made.connect())[1] == (
            *API_VERSION,
            ("a", "b"),
            ("token", "token"),
        )


async def test_authenticate_that_may_be_tried_again() -> None:
    async with logging_in((14, "etcdserver: no leader yet"), (0, "token")) as made:
        assert "no leader yet" in await reason_of(made)
        assert (await made.connect())[1][-1] == ("token", "token")
