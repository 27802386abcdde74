"""Ctrl-C and cancellation at every point of the user's task inside the package.

The same program is interrupted one point later each time, until it ends by itself. The
signal is a real one, so Trio's own handler decides where KeyboardInterrupt is raised:
at that point or, where the code is protected from it, at the next checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TypeAlias

import pytest
import trio

import trio_etcd_watch
from tests.support.helpers import LIMIT
from tests.support.peer import Peer, serve_tcp, watch_response
from trio_etcd_watch import Channel, Event, Watch, Watcher, WatchResponse, open_watcher
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._pure import EventSequence

PURE_EVENTS = EventSequence.__iter__.__code__
PLACES = (str(Path(trio_etcd_watch.__file__).parent), contextlib.__file__)
"""The package's code, and the module of context managers that are generators."""

Change: TypeAlias = tuple[bytes, int]
"""A key and its revision."""
Tracer: TypeAlias = "Callable[[FrameType, str, object], Tracer | None]"

HISTORY: list[Change] = [(b"a", 2), (b"a", 3), (b"b", 3), (b"a", 4)]
HISTORY += [(key, 5) for key in (b"a", b"b", b"c", b"d")]
SENT_FIRST = 3
"""How many changes come at once; the rest follows a progress request of the client."""

MIN_POINTS = 10
"""With fewer points, the tests would not cover the package."""


class Server:
    """An etcd with one history, which records the live watches."""

    def __init__(self) -> None:
        self.live: set[tuple[int, int]] = set()
        self._changed = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        peer = Peer(stream)
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                while True:
                    stream_id = await peer.accept_call()
                    nursery.start_soon(self._serve_stream, peer, stream_id)

            nursery.start_soon(accept)
            await peer.run()
            self._note(set())
            nursery.cancel_scope.cancel(reason="the client closed")

    async def _serve_stream(self, peer: Peer, stream_id: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer, peer, stream_id)
            await peer.reset_by_client(stream_id)
            nursery.cancel_scope.cancel(reason="the client has reset the stream")
        self._note({each for each in self.live if each[0] != stream_id})

    async def _answer(self, peer: Peer, stream_id: int) -> None:
        ids = itertools.count()
        starts: dict[int, int] = {}
        while True:
            request = pb.WatchRequest.FromString(await peer.message(stream_id))
            if request.HasField("create_request"):
                watch_id, start = next(ids), request.create_request.start_revision
                self._note(self.live | {(stream_id, watch_id)})
                created = watch_response(watch_id, revision=5, created=True)
                first = self._responses(watch_id, start, HISTORY[:SENT_FIRST])
                await peer.messages(stream_id, created, *first)
                if start:
                    starts[watch_id] = start
            elif request.HasField("cancel_request"):
                watch_id = request.cancel_request.watch_id
                starts.pop(watch_id, None)
                self._note(self.live - {(stream_id, watch_id)})
            else:
                for watch_id, start in starts.items():
                    rest = self._responses(watch_id, start, HISTORY[SENT_FIRST:])
                    await peer.messages(stream_id, *rest)

    def _responses(
        self, watch_id: int, start: int, history: list[Change]
    ) -> Iterator[bytes]:
        wanted = [each for each in history if 0 < start <= each[1]]
        for revision, events in itertools.groupby(wanted, key=lambda each: each[1]):
            yield watch_response(watch_id, revision=revision, events=events)

    def _note(self, live: set[tuple[int, int]]) -> None:
        self.live = live
        self._changed.set()
        self._changed = trio.Event()

    async def until_alive(self, count: int) -> None:
        """Wait until this many watches are live."""
        while len(self.live) != count:
            await self._changed.wait()


class Interruption(trio.abc.Instrument):
    """Interrupts one task at the n-th point inside the package.

    Points are Python's line events, and entries of functions. Where an interrupt has no
    effect before the next checkpoint, all points up to there count as one.

    Args:
        point: the number of the point.
        interrupt: is called there.
        waits: whether the interrupt never has an effect before the next checkpoint.
    """

    def __init__(
        self, point: int, interrupt: Callable[[], None], *, waits: bool
    ) -> None:
        self.where: str | None = None
        self._points_left = point
        self._interrupt = interrupt
        self._waits = waits
        self._task: trio.lowlevel.Task | None = None
        self._waiting = False

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        """Run main, a part of which is `exposed()`."""
        previous = sys.gettrace()
        # Outside of the run: CPython 3.11 crashes if tracing begins inside a coroutine.
        sys.settrace(self._enter)
        try:
            trio.run(main, instruments=[self])
        finally:
            sys.settrace(previous)

    @contextlib.contextmanager
    def exposed(self) -> Iterator[None]:
        """Let the present task be interrupted in this block."""
        self._task = trio.lowlevel.current_task()
        try:
            yield
        finally:
            self._task = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._waiting = False

    def _enter(self, frame: FrameType, event: str, arg: object) -> Tracer | None:
        if (
            self._task is None
            or self.where is not None
            or not frame.f_code.co_filename.startswith(PLACES)
            # A loop that ends early closes the generator at any time, and Python itself
            # drops an exception there. It makes values, and holds no state.
            or frame.f_code is PURE_EVENTS
            or not trio.lowlevel.in_trio_task()
            or trio.lowlevel.current_task() is not self._task
        ):
            return None
        return self._step(frame, event, arg)

    def _step(self, frame: FrameType, event: str, arg: object) -> Tracer:
        if event in ("call", "line") and self._task and self.where is None:
            waits = self._waits or trio.lowlevel.currently_ki_protected()
            if not (waits and self._waiting):
                self._points_left -= 1
            self._waiting = waits
            if self._points_left == 0:
                self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                self._interrupt()
        return self._step


def changes(received: Iterable[WatchResponse | Event]) -> list[Change]:
    """Return the changes in responses and events."""
    events: list[Event] = []
    for each in received:
        events += [each] if isinstance(each, Event) else each.events
    return [(event.kv.key, event.kv.mod_revision) for event in events]


class Trial:
    """The program, interrupted once, and what was wrong then.

    Attributes:
        whole, part: scopes that cancel all of it, or the use of one watch.
    """

    def __init__(self) -> None:
        self.whole = trio.CancelScope()
        self.part = trio.CancelScope()
        self.error: BaseException | None = None
        self.faults: list[str] = []
        self._server = Server()
        self._watch: Watch | None = None
        self._received: list[WatchResponse | Event] = []

    async def main(self, interruption: Interruption) -> None:
        """Run it beside its server, whose groups must not hide its exceptions."""
        tasks = trio.lowlevel.current_statistics().tasks_living
        async with serve_tcp(self._server.serve) as endpoint:
            with trio.fail_after(LIMIT), contextlib.suppress(KeyboardInterrupt):
                with self.whole, self._noting_errors():
                    channel = Channel(endpoint)
                    with interruption.exposed():
                        await self._use(channel)
                    # An interrupt that came too late for the package is raised here.
                    await trio.lowlevel.checkpoint()
                await self._server.until_alive(0)
        if trio.lowlevel.current_statistics().tasks_living != tasks:
            self.faults.append("a task is left")

    @contextlib.contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException as exc:
            self.error = exc
            raise

    async def _use(self, channel: Channel) -> None:
        async with open_watcher(channel) as watcher, watcher.watch("neighbour"):
            try:
                with self.part, self._noting_errors():
                    await self._use_watch(watcher)
                    await trio.lowlevel.checkpoint()
            finally:
                if self.error is not None and not self.whole.cancel_called:
                    await self._look(watcher)

    async def _use_watch(self, watcher: Watcher) -> None:
        async with watcher.watch("", prefix=True, start_revision=2) as watch:
            self._watch = watch
            self._received.append(await anext(watch))
            await watcher.request_progress()
            events = watch.events()
            for _ in range(2):
                self._received.append(await anext(events))
                watch.statistics()
            rest = await anext(watch)
            self._received.append(rest)
            # Responses that are interrupted while being decoded are still whole.
            assert rest.events[0].kv.key

    async def _look(self, watcher: Watcher) -> None:
        """Check what is left of the watch, and that another one continues it."""
        statistics = watcher.statistics()
        if (statistics.live, statistics.creating, statistics.streams) != (1, 0, 1):
            self.faults.append(f"a watch is left: {statistics}")
        bookmark = self._watch.next_revision if self._watch else 2
        handed = changes(self._received)
        known = [change for change in handed if change[1] < bookmark]
        with trio.move_on_after(LIMIT / 10) as limit:
            await self._server.until_alive(1)
            async with watcher.watch("", prefix=True, start_revision=bookmark) as watch:
                await watcher.request_progress()
                while HISTORY[-1] not in known:
                    known += changes([await anext(watch)])
        if limit.cancelled_caught:
            self.faults.append(f"a watch lives on {self._server.live}, or is stuck")
        if known != HISTORY:
            self.faults.append(f"lost: {handed} was handed over up to {bookmark}")


@pytest.mark.parametrize("way", ["ctrl-c", "cancel all", "cancel a watch"])
def test_interrupted_at_every_point(way: str) -> None:
    faults = []
    for point in itertools.count(1):
        trial = Trial()
        kind: type[BaseException] = trio.Cancelled
        interrupt: Callable[[], None] = trial.whole.cancel
        if way == "ctrl-c":
            kind = KeyboardInterrupt
            interrupt = functools.partial(signal.raise_signal, signal.SIGINT)
        elif way == "cancel a watch":
            interrupt = trial.part.cancel
        interruption = Interruption(point, interrupt, waits=way != "ctrl-c")
        try:
            interruption.run(functools.partial(trial.main, interruption))
        except BaseException as exc:  # it is recorded, whatever it is
            trial.faults.append(f"it came out too late: {exc!r}")
        if interruption.where is None:
            break
        late = way == "cancel a watch" and trial.error is None
        if type(trial.error) is not kind and not late:
            trial.faults.append(f"it became {trial.error!r}")
        faults += [f"{point} {interruption.where}: {fault}" for fault in trial.faults]
    gc.collect()  # sockets and coroutines left open would warn, and warnings are errors
    assert trial.error is None
    assert point > MIN_POINTS
    assert not faults, f"of {point - 1} points:\n" + "\n".join(faults)
