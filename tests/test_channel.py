"""How a cluster is described, and how one of its members is reached."""

from __future__ import annotations

import random
import socket
import ssl
import traceback
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from trio.testing import MockClock

from tests.peer import GRPC, SETTINGS, Peer, serve_tcp
from trio_etcd_watch import AuthenticationError, Channel, Credentials, open_watcher
from trio_etcd_watch._channel import Connector, as_channel, metadata_pairs
from trio_etcd_watch._errors import StreamLost
from trio_etcd_watch._pb import watch_pb2 as pb

LIMIT = 10.0
SECRET = "s3cret"

# What a description says


@pytest.mark.parametrize(
    ("text", "authority", "tls"),
    [
        ("127.0.0.1:2379", "127.0.0.1:2379", None),
        ("etcd.example.com:2379", "etcd.example.com:2379", None),
        ("localhost:1", "localhost:1", None),
        ("localhost:65535", "localhost:65535", None),
        ("http://etcd:2379", "etcd:2379", False),
        ("http://etcd:2379/", "etcd:2379", False),
        ("https://etcd:2379", "etcd:2379", True),
        ("[::1]:2379", "[::1]:2379", None),
        ("https://[2001:db8::1]:2379", "[2001:db8::1]:2379", True),
        ("[fe80::1%eth0]:2379", "[fe80::1%eth0]:2379", None),
        ("unix:///run/etcd.sock", "localhost", None),
        ("unix://relative.sock", "localhost", None),
    ],
)
def test_endpoints(text: str, authority: str, tls: bool | None) -> None:
    [endpoint] = Channel(text)._endpoints
    assert (endpoint.authority, endpoint.tls) == (authority, tls)
    if text.startswith("unix://"):
        assert str(endpoint) == text
        assert endpoint.path == text.removeprefix("unix://")
    else:
        assert str(endpoint) == authority
        assert not endpoint.path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "etcd",
        ":2379",
        "etcd:",
        "etcd:0",
        "etcd:65536",
        "etcd:-1",
        "etcd:http",
        "etcd:2379:1",
        "::1:2379",
        "[::1]",
        "[::1:2379",
        "[x]:2379",
        "http://",
        "https://etcd",
        "unix://",
        "ftp://etcd:2379",
        "HTTP//etcd:2379",
        "etcd:2379/path",
        "http://etcd:2379/v3",
        "http://etcd:2379?x",
        "http://etcd:2379#x",
        "user@etcd:2379",
        "http://user:pw@etcd:2379",
        "etcd:2379,other:2379",
        "etcd :2379",
        "etcd:2379\n",
        "et\tcd:2379",
    ],
)
def test_bad_endpoints(text: str) -> None:
    with pytest.raises(ValueError, match="endpoint") as info:
        Channel("good:2379", text)
    assert repr(text) in str(info.value)


@pytest.mark.parametrize("endpoint", [None, 2379, b"etcd:2379", ("etcd", 2379)])
def test_endpoints_of_a_wrong_type(endpoint: Any) -> None:  # noqa: ANN401
    with pytest.raises(TypeError, match="endpoint") as info:
        Channel(endpoint)
    assert repr(endpoint) in str(info.value)


def test_defaults() -> None:
    channel = Channel("etcd:2379")
    assert channel.ssl_context is None
    assert channel.credentials is None
    assert channel.metadata == ()
    assert channel.connect_timeout == 5.0
    # etcd punishes more than one ping in 5 s.
    assert channel.keepalive_time == 10.0
    assert channel.keepalive_timeout == 5.0


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"ssl_context": True}, TypeError, "ssl_context"),
        ({"credentials": ("root", SECRET)}, TypeError, "credentials"),
        ({"metadata": 5}, TypeError, "metadata"),
        ({"metadata": "token"}, TypeError, "metadata"),
        ({"metadata": [("token", SECRET, "x")]}, TypeError, "metadata"),
        ({"metadata": {"Token": SECRET}}, ValueError, "metadata"),
        ({"metadata": {"token": f"{SECRET}\r\n"}}, ValueError, "metadata"),
        ({"metadata": {"token": None}}, TypeError, "metadata"),
        *(
            case
            for name in ("connect_timeout", "keepalive_time", "keepalive_timeout")
            for case in (
                ({name: "5"}, TypeError, name),
                ({name: None}, TypeError, name),
                ({name: True}, TypeError, name),
                ({name: 0}, ValueError, name),
                ({name: -1.0}, ValueError, name),
                ({name: float("nan")}, ValueError, name),
            )
        ),
        ({"max_message_size": 1023}, ValueError, "max_message_size"),
        ({"max_message_size": 2**32}, ValueError, "max_message_size"),
        ({"max_message_size": 1.5}, TypeError, "max_message_size"),
    ],
)
def test_bad_arguments(
    arguments: dict[str, Any], error: type[Exception], name: str
) -> None:
    with pytest.raises(error, match=name) as info:
        Channel("etcd:2379", **arguments)
    assert SECRET not in str(info.value)


def test_no_endpoints() -> None:
    with pytest.raises(ValueError, match="endpoints must not be empty"):
        Channel()
    with pytest.raises(ValueError, match="endpoints must not be empty"):
        as_channel([])


def test_tls_context_contradicts_http() -> None:
    context = ssl.create_default_context()
    Channel("https://etcd:2379", "etcd:2379", ssl_context=context)
    with pytest.raises(
        ValueError, match="ssl_context contradicts endpoint 'http://b:1'"
    ):
        Channel("https://a:1", "http://b:1", ssl_context=context)


@pytest.mark.parametrize(
    ("user", "password", "error"),
    [
        ("", SECRET, ValueError),
        (None, SECRET, TypeError),
        ("root", 5, TypeError),
        ("root", SECRET + "\udc80", ValueError),
    ],
)
def test_bad_credentials(user: Any, password: Any, error: type[Exception]) -> None:  # noqa: ANN401
    with pytest.raises(error) as info:
        Credentials(user, password)
    assert SECRET not in "".join(traceback.format_exception(info.value))


def test_metadata_is_compared_without_its_order() -> None:
    pairs = [("b", "2"), ("a", "1"), ("b", "1")]
    assert metadata_pairs(pairs) == (("a", "1"), ("b", "2"), ("b", "1"))
    assert metadata_pairs({"b": "2", "a": "1"}) == metadata_pairs(
        iter([("a", "1"), ("b", "2")])
    )
    assert metadata_pairs(None) == metadata_pairs({}) == ()


def test_no_repr_shows_a_secret() -> None:
    credentials = Credentials("root", SECRET)
    channel = Channel(
        "etcd:2379", "unix:///s", credentials=credentials, metadata={"token": SECRET}
    )
    shown = [repr(credentials), repr(channel), str(channel), f"{channel}"]
    assert not [text for text in shown if SECRET in text]
    assert repr(channel) == (
        "Channel('etcd:2379', 'unix:///s', credentials=Credentials(user='root'))"
    )


def endpoints(channel: object) -> list[str]:
    return [str(endpoint) for endpoint in as_channel(channel)._endpoints]


def test_what_stands_for_a_channel() -> None:
    channel = Channel("etcd:2379")
    assert as_channel(channel) is channel
    assert endpoints("a:1") == ["a:1"]
    assert endpoints(["a:1", "b:2"]) == ["a:1", "b:2"]
    assert endpoints(("https://a:1",)) == ["a:1"]
    assert endpoints(f"{host}:1" for host in "ab") == ["a:1", "b:1"]


@pytest.mark.parametrize("value", [None, 5, b"a:1", object()])
def test_what_stands_for_none(value: object) -> None:
    # At the call, before anything is entered.
    with pytest.raises(TypeError, match="channel must be") as info:
        open_watcher(value)
    assert repr(value) in str(info.value)


def test_purerpc_channels() -> None:
    context = ssl.create_default_context()
    assert endpoints(purerpc.insecure_channel("etcd", 2379)) == ["etcd:2379"]
    assert endpoints(purerpc.insecure_channel("::1", 2379)) == ["[::1]:2379"]
    channel = as_channel(purerpc.secure_channel("etcd", 2379, context))
    assert channel.ssl_context is context


async def test_purerpc_channel_that_is_entered() -> None:
    async with serve_tcp(lambda stream: Peer(stream).run()) as endpoint:
        host, port = endpoint.split(":")
        async with purerpc.insecure_channel(host, int(port)) as entered:
            assert endpoints(entered) == [endpoint]
        # purerpc leaves it open.
        await entered._grpc_socket._socket._stream.aclose()


# How a member is reached


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
        assert metadata == ()
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
            assert reason == f"{endpoint}: no connection within 0.05 s"
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
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the server does not speak HTTP/2"),
        (b"\x15\x03\x01\0\2\2\x46", "the server does not speak HTTP/2"),
        (b"", "the server closed the connection"),
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
        assert await reason_of(made) == f"{endpoint}: {reason}"


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
            assert (await made.connect())[1] == (("a", "b"), ("token", "first"))
        made.forget_token()
        assert (await made.connect())[1] == (("a", "b"), ("token", "second"))
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
        assert (await made.connect())[1] == (("a", "b"),)
        assert (await made.connect())[1] == (("a", "b"),)
        # Now it is.
        assert (await made.connect())[1] == (("a", "b"), ("token", "token"))
        assert (await made.connect())[1] == (("a", "b"), ("token", "token"))


async def test_authenticate_that_may_be_tried_again() -> None:
    async with logging_in((14, "etcdserver: no leader yet"), (0, "token")) as made:
        assert "no leader yet" in await reason_of(made)
        assert (await made.connect())[1][-1] == ("token", "token")
