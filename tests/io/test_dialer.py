"""A name with several addresses: the first one that works is used; all are tried."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.names import Resolver
from tests.support.peer import Handler, Peer, serve_listeners
from trio_etcd_watch import Channel, _dialer
from trio_etcd_watch._dialer import Dialer
from trio_etcd_watch._grpc.connection import Connection
from trio_etcd_watch._grpc.status import StreamLost

LIMIT = 10.0
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Dialled:
    """A dialer, and all connections that it has opened."""

    def __init__(self, channel: Channel, nursery: trio.Nursery) -> None:
        [self.endpoint] = channel._endpoints
        self.begun: list[Connection] = []
        self._dialer = Dialer(channel, self._serve)
        self._nursery = nursery

    def _serve(self, connection: Connection, endpoint: object) -> None:
        assert endpoint is self.endpoint
        self.begun.append(connection)
        self._nursery.start_soon(connection.run)

    async def dial(self) -> Connection:
        return await self._dialer.dial(self.endpoint)

    async def reason(self) -> str:
        with pytest.raises(StreamLost) as info:
            await self.dial()
        return str(info.value)

    def living(self) -> list[Connection]:
        return [connection for connection in self.begun if not connection.lost]


@asynccontextmanager
async def dialled(port: int, **arguments: float) -> AsyncGenerator[Dialled]:
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            yield Dialled(Channel(f"etcd:{port}", **arguments), nursery)  # type: ignore[arg-type]  # timeouts
            nursery.cancel_scope.cancel(reason="the test is over")


@asynccontextmanager
async def serve(*handlers: Handler | None) -> AsyncGenerator[int]:
    """Serve loopback addresses in turn, on one port; None is bound and refuses."""
    while True:
        sockets: list[trio.socket.SocketType] = []
        port = 0
        try:
            for host, _ in zip(HOSTS, handlers, strict=False):
                sockets.append(trio.socket.socket())
                await sockets[-1].bind((host, port))
                port = sockets[-1].getsockname()[1]
        except OSError:  # another program uses this port on one of the addresses
            for sock in sockets:
                sock.close()
        else:
            break
    Resolver(*HOSTS[: len(handlers)]).use()
    pairs = []
    for handler, sock in zip(handlers, sockets, strict=True):
        if handler is not None:
            sock.listen()
            pairs.append((handler, trio.SocketListener(sock)))
    async with serve_listeners(pairs):
        yield port
    for sock in sockets:
        sock.close()


class Member:
    """Accepts connections like an etcd, but does nothing more."""

    def __init__(self) -> None:
        self.accepted = 0

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.accepted += 1
        await Peer(stream).run()


async def silent(stream: trio.abc.Stream) -> None:
    while await stream.receive_some():
        pass


async def closing(stream: trio.abc.Stream) -> None:
    await stream.receive_some()


async def http1(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await silent(stream)


FAULTS = pytest.mark.parametrize(
    ("first", "reason"),
    [
        (silent, "no connection within 0.5 s"),
        (closing, "the server closed the connection"),
        (http1, "the server does not speak HTTP/2"),
        (None, "Connection refused"),
    ],
    ids=["silent", "closing", "http1", "refused"],
)


@FAULTS
async def test_the_second_address_has_its_turn(
    first: Handler | None, reason: str
) -> None:
    member = Member()
    async with serve(first, member.serve) as port, dialled(port) as made:
        for times in range(1, 4):
            connection = await made.dial()
            assert made.living() == [connection]
            assert member.accepted == times
            connection.close("the test wants another")


async def test_an_endpoint_may_be_forgotten_while_it_is_dialled() -> None:
    """Refuses like a member that is no longer listed."""
    member = Member()

    async def forgetting(stream: trio.abc.Stream) -> None:
        made._dialer.keep([])

    async with serve(forgetting, member.serve) as port, dialled(port) as made:
        connection = await made.dial()
        assert made.living() == [connection]


@FAULTS
async def test_reasons_name_the_addresses(first: Handler | None, reason: str) -> None:
    async with serve(first, closing) as port:
        async with dialled(port, connect_timeout=0.5) as made:
            texts = {await made.reason() for _ in range(4)}
            assert not made.living()
    # One text, whichever address is tried first, because each reason is logged once.
    [text] = texts
    one, other = text.removeprefix(f"etcd:{port}: ").split("; 127.0.0.2: ")
    assert one.startswith("127.0.0.1: ")
    assert reason in one
    assert other.startswith("the server closed the connection")


async def test_a_dead_address_does_not_hold_up_the_next() -> None:
    async with serve(silent, Member().serve) as port:
        # Far longer than the test may take.
        async with dialled(port, connect_timeout=1000) as made:
            assert not (await made.dial()).lost


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, the next address waits until one has failed."""
    monkeypatch.setattr(_dialer, "STAGGER", 1000)


@pytest.mark.usefixtures("patient")
async def test_each_working_address_has_its_turn() -> None:
    members = [Member() for _ in range(3)]
    async with serve(*(member.serve for member in members)) as port:
        async with dialled(port) as made:
            for turn in range(7):
                (await made.dial()).close("the test wants another")
                counts = [member.accepted for member in members]
                assert counts == [(turn + 3 - i) // 3 for i in range(3)]


@pytest.mark.usefixtures("patient")
async def test_what_a_name_stands_for_may_change() -> None:
    members = [Member() for _ in range(3)]
    async with serve(*(member.serve for member in members)) as port:
        async with dialled(port) as made:
            for addresses in (HOSTS[:1], HOSTS[:2], HOSTS[1:], HOSTS[2:]):
                Resolver(*addresses).use()
                (await made.dial()).close("the test wants another")
            assert [member.accepted for member in members] == [1, 1, 2]
            # Addresses that no longer exist are forgotten.
            assert len(made._dialer._tried[made.endpoint]) == 1


async def test_of_two_that_answer_at_once_one_is_kept() -> None:
    accepted = 0
    both = trio.Event()
    closed = trio.Event()

    async def answer(stream: trio.abc.Stream) -> None:
        nonlocal accepted
        accepted += 1
        if accepted == 2:
            both.set()
        await both.wait()
        await Peer(stream).run()
        closed.set()

    async with serve(answer, answer) as port, dialled(port) as made:
        connection = await made.dial()
        await closed.wait()
        assert made.living() == [connection]
        assert len(made.begun) == 2


async def test_cancelled_at_any_point_it_leaves_nothing_open() -> None:
    came = 0
    async with serve(None, Member().serve) as port, dialled(port) as made:
        for passes in range(100):
            connection = None
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def cancel(
                        passes: int = passes, scope: trio.CancelScope = scope
                    ) -> None:
                        for _ in range(passes):
                            await trio.lowlevel.checkpoint()
                        scope.cancel(reason="the test")

                    connection = await made.dial()
                    came += 1
                    connection.close("the test wants another")
            assert not made.living()
    assert 0 < came < 100


async def test_a_name_that_is_not_resolved(autojump_clock: MockClock) -> None:
    class Slow(Resolver):
        async def getaddrinfo(self, *args: object) -> Any:  # noqa: ANN401
            await trio.sleep_forever()

    Slow().use()
    async with dialled(1, connect_timeout=3) as made:
        began = trio.current_time()
        assert await made.reason() == "etcd:1: its name is not resolved within 3 s"
        assert trio.current_time() - began == pytest.approx(3)


async def test_a_name_that_is_none() -> None:
    Resolver(name="another").use()
    async with dialled(1) as made:
        assert "'etcd' is not known" in await made.reason()
    Resolver().use()
    async with dialled(1) as made:
        assert await made.reason() == "etcd:1: its name has no address"


async def test_each_attempt_is_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_stream(*args: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(_dialer, "_open_stream", open_stream)
    Resolver(*HOSTS).use()
    async with dialled(1, connect_timeout=3) as made:
        began = trio.current_time()
        assert (await made.reason()).count("no connection within 3 s") == 3
        assert trio.current_time() - began == pytest.approx(3.5)


async def test_an_address_that_refuses_costs_no_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_stream(*args: object) -> None:
        await trio.lowlevel.checkpoint()
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(_dialer, "_open_stream", open_stream)
    Resolver(*HOSTS).use()
    async with dialled(1) as made:
        began = trio.current_time()
        assert (await made.reason()).count("refused") == 3
        assert trio.current_time() == began
