"""How the connector reaches a member of a cluster."""

from __future__ import annotations

import logging
import random
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.peer import GRPC, SETTINGS, Peer, serve_tcp
from trio_etcd_watch import (
    AuthenticationError,
    Channel,
    Credentials,
    StatusCode,
    _authentication,
    open_watcher,
)
from trio_etcd_watch._channel import API_VERSION
from trio_etcd_watch._connector import Connector
from trio_etcd_watch._grpc.messages import Oversized
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
    """Make endpoints that refuse connections: bound, so that no one else gets them."""
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
    firsts = [str(Connector(channel, nursery)._rotation.take()) for _ in range(300)]
    counts = Counter(firsts)
    assert all(counts[f"{host}:1"] > 60 for host in "abc")
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
            with trio.fail_after(LIMIT):
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


# The log


async def test_no_peer_forges_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_etcd_watch")
    async with serve_tcp(lambda stream: Peer(stream).run()) as endpoint:
        async with connector(Channel(endpoint)) as made:
            connection, _ = await made.connect()
            connection.close("of a peer\nconnected to us " + "x" * 30_000)
            await trio.testing.wait_all_tasks_blocked()
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == f"reached {endpoint}"
    start = f"lost the connection to {endpoint}: of a peer\\nconnected to us xx"
    assert messages[1].startswith(start)
    assert len(messages[1]) < 400
    assert len(messages) == 2


def unwanted(messages: list[bytes | Oversized]) -> None:
    raise AssertionError(messages)


@pytest.mark.parametrize(
    ("code", "text", "intervals"),
    [
        (11, "too_many_pings", [400.0, 600.0, 600.0]),
        # Neither the code nor the text alone shows that pings are the reason.
        (11, "slow down", [200.0] * 3),
        (0, "too_many_pings", [200.0] * 3),
    ],
)
async def test_pings_that_are_too_many_get_fewer(
    code: int, text: str, intervals: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_etcd_watch")
    peers: list[Peer] = []

    async def serve(stream: trio.SocketStream) -> None:
        peers.append(Peer(stream))
        await peers[-1].run()

    async with serve_tcp(serve) as endpoint:
        async with connector(Channel(endpoint, keepalive_time=200.0)) as made:
            connection, _ = await made.connect()
            for interval in intervals:
                call = connection.open_call("/s/m", (), unwanted)
                await peers[-1].goaway(0, code, text)
                await call.wait_end()
                await trio.testing.wait_all_tasks_blocked()
                connection, _ = await made.connect()
                assert connection.keepalive_time == interval
    lines = [record.getMessage() for record in caplog.records]
    slower = [interval for interval in sorted(set(intervals)) if interval > 200]
    assert lines == [
        f"{endpoint} is pinged too often: keepalive_time is {interval:g} s from now on"
        for interval in slower
    ]


async def test_connections_that_are_refused_together_double_once() -> None:
    peers: list[Peer] = []

    async def serve(stream: trio.SocketStream) -> None:
        peers.append(Peer(stream))
        await peers[-1].run()

    async with serve_tcp(serve) as endpoint:
        async with connector(Channel(endpoint, keepalive_time=10.0)) as made:
            first, _ = await made.connect()
            call = first.open_call("/s/m", (), unwanted)
            # The streams that it serves continue.
            made.leave(first)
            await made.connect()
            for peer in peers:
                await peer.goaway(0, 11, "too_many_pings")
            await call.wait_end()
            await trio.testing.wait_all_tasks_blocked()
            third, _ = await made.connect()
            assert third.keepalive_time == 20.0


async def test_no_endpoint_forges_a_line() -> None:
    async with connector(Channel("unix:///none\nsuch" + "x" * 3_000)) as made:
        reason = await reason_of(made)
        assert reason.startswith("unix:///none\\nsuchxx")
        assert len(reason) <= 300


# Credentials


def authenticator(
    replies: list[tuple[int, str]], delay: float = 0
) -> Callable[[trio.SocketStream], Any]:
    """Make a server that answers Authenticate with a status and a token or message."""

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
                    await trio.sleep(delay)
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
        made.forget_token(made._token)
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
        assert (info.value.code, info.value.message) == (3, message)
        assert SECRET not in f"{info.value!r} {info.value}"


async def test_auth_is_not_enabled() -> None:
    refused = (9, "etcdserver: authentication is not enabled")
    async with logging_in(refused, refused, (0, "token")) as made:
        assert (await made.connect())[1] == (*API_VERSION, ("a", "b"))
        assert (await made.connect())[1] == (*API_VERSION, ("a", "b"))
        # Authentication has been enabled.
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


async def test_a_slow_authenticate_has_longer_than_a_connection() -> None:
    # Such a server hashes its passwords at a high cost.
    slow = authenticator([(0, "token")], delay=0.3)
    async with serve_tcp(slow) as endpoint:
        channel = Channel(
            endpoint, credentials=Credentials("root", SECRET), connect_timeout=0.1
        )
        async with connector(channel) as made:
            assert (await made.connect())[1] == (*API_VERSION, ("token", "token"))


@pytest.mark.parametrize("timeouts", [(0.5, 1.0), (1.0, 0.5)])
async def test_authenticate_that_is_never_answered(
    timeouts: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect_timeout, bound = timeouts
    monkeypatch.setattr(_authentication, "AUTHENTICATE_TIMEOUT", bound)
    async with serve_tcp(lambda stream: Peer(stream).run()) as endpoint:
        channel = Channel(
            endpoint,
            credentials=Credentials("root", SECRET),
            connect_timeout=connect_timeout,
        )
        async with connector(channel) as made:
            reason = "no answer to Authenticate within 1 s"
            for _ in range(2):
                assert await reason_of(made) == reason
            # The member may have no quorum, so each time another one is tried.
            assert made.connections_made == 2


UNSENDABLE = [
    "",
    f"{SECRET}\n",
    f"{SECRET}\r\nother: header",
    f"{SECRET}é",
    f"{SECRET}\0",
    f" {SECRET}",
]


@pytest.mark.parametrize("token", UNSENDABLE)
async def test_a_token_from_the_server_that_no_header_can_carry(token: str) -> None:
    async with logging_in((0, token), (0, "good")) as made:
        with pytest.raises(StreamLost, match="the token ") as info:
            await made.connect()
        assert SECRET not in f"{info.value!r} {info.value}"
        # The connection is not at fault, so it is kept.
        assert (await made.connect())[1][-1] == ("token", "good")
        assert made.connections_made == 1


# Tokens from elsewhere


class Source:
    """A token function that returns its answers in turn, or raises the exceptions."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.calls = 0

    async def __call__(self) -> Any:  # noqa: ANN401  # it may return no token
        self.calls += 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        if answer is trio.sleep_forever:
            await trio.sleep_forever()
        return answer


@asynccontextmanager
async def with_token(token: Any, **arguments: Any) -> AsyncGenerator[Connector]:  # noqa: ANN401  # as above
    """Yield a connector with this token, to a server that has no Authenticate."""
    async with serve_tcp(lambda stream: Peer(stream).run()) as endpoint:
        async with connector(Channel(endpoint, token=token, **arguments)) as made:
            assert made.can_authenticate
            yield made


async def test_a_token_as_a_string() -> None:
    async with with_token("a.b.c", metadata={"a": "b"}) as made:
        for _ in range(3):
            assert (await made.connect())[1] == (
                *API_VERSION,
                ("a", "b"),
                ("token", "a.b.c"),
            )
            made.forget_token(made._token)


async def test_a_token_function_is_called_again_when_its_token_is_refused() -> None:
    source = Source("first", "second")
    async with with_token(source) as made:
        for token in ("first", "second"):
            for _ in range(3):
                assert (await made.connect())[1] == (*API_VERSION, ("token", token))
            made.forget_token(made._token)
    assert source.calls == 2


@pytest.mark.parametrize("error", [OSError(SECRET), trio.TooSlowError(SECRET)])
async def test_a_token_function_that_raises(error: Exception) -> None:
    async with with_token(Source(error, "token")) as made:
        with pytest.raises(AuthenticationError) as info:
            await made.connect()
        assert info.value.__cause__ is error
        assert info.value.code is StatusCode.UNAUTHENTICATED
        assert type(error).__name__ in info.value.message
        assert SECRET not in f"{info.value!r} {info.value}"
        assert (await made.connect())[1] == (*API_VERSION, ("token", "token"))


@pytest.mark.parametrize("answer", [None, SECRET.encode(), 5])
async def test_a_token_function_that_gives_none(answer: object) -> None:
    async with with_token(Source(answer)) as made:
        kind = type(answer).__name__
        with pytest.raises(AuthenticationError, match=f"returned {kind}, not") as info:
            await made.connect()
        assert SECRET not in f"{info.value!r} {info.value}"


async def test_a_token_function_that_is_not_async() -> None:
    async with with_token(lambda: SECRET) as made:
        with pytest.raises(AuthenticationError) as info:
            await made.connect()
        assert isinstance(info.value.__cause__, TypeError)
        assert SECRET not in f"{info.value!r} {info.value}"


async def test_a_token_function_that_hangs() -> None:
    source = Source(trio.sleep_forever, "token")
    async with with_token(source, connect_timeout=0.1) as made:
        assert "token= returned none within 0.1 s" in await reason_of(made)
        assert (await made.connect())[1] == (*API_VERSION, ("token", "token"))
        # The server is not at fault, so the connection is kept.
        assert made.connections_made == 1
    assert source.calls == 2


@pytest.mark.parametrize("token", UNSENDABLE)
async def test_a_token_that_no_header_can_carry(token: str) -> None:
    async with with_token(Source(token, "good")) as made:
        with pytest.raises(StreamLost, match="the token ") as info:
            await made.connect()
        assert SECRET not in f"{info.value!r} {info.value}"
        assert (await made.connect())[1] == (*API_VERSION, ("token", "good"))
        assert made.connections_made == 1


async def test_a_watch_raises_the_failure_of_a_token_function(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = OSError(SECRET)
    unsendable = Source(*[f"{SECRET}\n"] * 10)
    for source, calls in ((Source(error), 1), (unsendable, 4)):
        async with serve_tcp(lambda stream: Peer(stream).run()) as endpoint:
            async with open_watcher(Channel(endpoint, token=source)) as watcher:
                with trio.fail_after(LIMIT), pytest.raises(AuthenticationError) as info:
                    async with watcher.watch("a"):
                        pytest.fail("entered")
        assert source.calls == calls
        assert info.value.__cause__ is (error if calls == 1 else None)
        assert info.value.code is StatusCode.UNAUTHENTICATED
        assert SECRET not in f"{info.value!r} {info.value} {caplog.text}"
    assert str(info.value) == (
        "UNAUTHENTICATED: the token has characters other than printable ASCII "
        "(a line end behind it?)"
    )
