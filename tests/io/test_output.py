"""Output to stdout is whole, then noted in the bookmark, and ends without a reader."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.support.helpers import LIMIT
from trio_etcd_watch._cli.output import (
    DISK_LIMIT,
    GRACE,
    PIECE,
    Output,
    OutputError,
    gathered,
)

MUCH = b"x" * 200_000
"""More than the capacity of a pipe."""


class Pipe:
    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self._open = {self.read_end, self.write_end}

    def close(self, *descriptors: int) -> None:
        for descriptor in descriptors or list(self._open):
            os.close(descriptor)
            self._open.remove(descriptor)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Close the reading end after the block, so that no writer waits any longer."""
        try:
            yield
        finally:
            self.close(self.read_end)

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += os.read(self.read_end, count - len(data))
        return data


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


async def test_it_is_noted_once_it_is_written(pipe: Pipe) -> None:
    noted: list[int] = []
    output = Output(pipe.write_end)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.write, [b"a", MUCH], lambda: noted.append(1))
            with pipe.reading():
                assert (
                    await trio.to_thread.run_sync(pipe.read, 100_001)
                    == b"a" + MUCH[:100_000]
                )
                assert noted == []
                await trio.to_thread.run_sync(pipe.read, 100_000)
        assert noted == [1]


async def test_a_reader_in_time_gets_all_of_it(pipe: Pipe) -> None:
    noted: list[int] = []
    output = Output(pipe.write_end)
    with trio.fail_after(LIMIT), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.write, [MUCH], lambda: noted.append(1))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            # Shielded, because this reader runs in the cancelled scope.
            with trio.CancelScope(shield=True), pipe.reading():
                await trio.testing.wait_all_tasks_blocked()
                assert nursery.child_tasks
                data = await trio.to_thread.run_sync(pipe.read, len(MUCH))
    assert (data, noted) == (MUCH, [1])
    assert scope.cancelled_caught


@pytest.mark.parametrize("cancelled", ["while it is noted", "while it is written"])
@pytest.mark.parametrize("seconds", [DISK_LIMIT, DISK_LIMIT + 2 * GRACE])
async def test_a_disk_that_is_slow_at_the_end(
    pipe: Pipe, cancelled: str, seconds: float, mock_clock: trio.testing.MockClock
) -> None:
    """What was printed is noted even if that takes long, but not forever."""
    output = Output(pipe.write_end)
    may_write, is_written, may_note, noted = (threading.Event() for _ in range(4))

    def parts() -> Iterator[bytes]:
        yield b"a"
        assert may_write.wait(LIMIT)

    def note() -> None:
        is_written.set()
        assert may_note.wait(LIMIT)
        noted.set()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.write, parts(), note)
            await trio.testing.wait_all_tasks_blocked()
            if cancelled == "while it is noted":
                may_write.set()
                await trio.to_thread.run_sync(is_written.wait, LIMIT)
            output.limit_write()
            scope.cancel()
            with trio.CancelScope(shield=True):
                may_write.set()
                await trio.to_thread.run_sync(is_written.wait, LIMIT)
                mock_clock.jump(seconds)
                await trio.testing.wait_all_tasks_blocked()
                assert bool(nursery.child_tasks) == (seconds == DISK_LIMIT)
                may_note.set()
    assert scope.cancelled_caught
    assert noted.wait(LIMIT)


def end_of_writer(output: Output, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event for each thread that writes, set when it ends, abandoned or not."""
    ended, write = threading.Event(), output._write

    def write_and_say_so(parts: Iterable[bytes]) -> None:
        try:
            write(parts)
        finally:
            ended.set()

    monkeypatch.setattr(output, "_write", write_and_say_so)
    return ended


@pytest.mark.parametrize("whole", [True, False])
async def test_a_reader_that_stalls_is_left(
    pipe: Pipe, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[int] = []
    output = Output(pipe.write_end)
    ended = end_of_writer(output, monkeypatch)
    with trio.fail_after(LIMIT), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                await output.write([MUCH], lambda: noted.append(1), whole=whole)

            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            if whole:
                output.limit_write()
            scope.cancel()
    assert scope.cancelled_caught
    assert noted == []
    # The writer ends with an error that is ignored. Not later, because the next file
    # that is opened may get the same descriptor.
    pipe.close(pipe.read_end)
    assert ended.wait(LIMIT)


async def test_nobody_reads_any_more(pipe: Pipe) -> None:
    output = Output(pipe.write_end)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.wait_closed)
            await trio.testing.wait_all_tasks_blocked()
            # Writing and reading wake no other task.
            await output.write([b"a"])
            pipe.read(1)
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            pipe.close(pipe.read_end)
        with pytest.raises(BrokenPipeError):
            await output.write([b"a"])


async def test_a_disk_that_is_full() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OutputError, match="No space left on device"):
            await Output(descriptor).write([b"a"])
    finally:
        os.close(descriptor)


async def test_a_bookmark_that_cannot_be_written(pipe: Pipe) -> None:
    def note() -> None:
        raise PermissionError(13, "Permission denied", "mark.new")

    with pytest.raises(OutputError, match=r"mark\.new: Permission denied"):
        await Output(pipe.write_end).write([b"a"], note)


async def test_a_file_has_it_before_it_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss of power, the bookmark must not be ahead of the output."""
    steps: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: steps.append("fsync"))
    with (tmp_path / "output").open("wb") as file:
        output = Output(file.fileno())
        await output.write([b"a"], lambda: steps.append("noted"))
        assert steps == ["fsync", "noted"]
        # Without a bookmark the output need not be synced.
        await output.write([b"b"])
    assert steps == ["fsync", "noted"]
    assert (tmp_path / "output").read_bytes() == b"ab"


def test_pieces() -> None:
    parts = [b"a" * 1_000] * 200 + [b"b" * 300_000, b"c"]
    pieces = list(gathered(parts))
    assert b"".join(pieces) == b"".join(parts)
    assert [len(piece) for piece in pieces[:2]] == [66_000, 66_000]
    assert all(len(piece) <= PIECE + 300_000 for piece in pieces)
    assert len(pieces) == 5
    assert list(gathered([])) == [b""]
