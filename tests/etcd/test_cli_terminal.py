"""The output on a terminal: colours, progress, and no password."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import pytest
import trio

from tests.support.auth import READER, open_guarded
from tests.support.cli import PROGRAM, environment
from tests.support.helpers import LIMIT
from trio_etcd_watch.testing import Etcd, Put

# It runs in a session of its own, so that it opens its controlling terminal.
ON_TERMINAL = """
import os, sys
terminal = os.open(sys.argv[1], os.O_RDWR)
for descriptor in map(int, sys.argv[2]):
    os.dup2(terminal, descriptor)
os.execv(sys.argv[3], sys.argv[3:])
"""


@final
class Terminal:
    """A terminal, and what has been written to it."""

    def __init__(self) -> None:
        self._ours, self._theirs = pty.openpty()
        self._name = os.ttyname(self._theirs)
        self.seen = b""

    def start(
        self, *arguments: str, descriptors: str = "012", **env: str
    ) -> subprocess.Popen[bytes]:
        """Run the program with these descriptors on the terminal."""
        return subprocess.Popen(
            [
                sys.executable,
                "-c",
                ON_TERMINAL,
                self._name,
                descriptors,
                *PROGRAM,
                *arguments,
            ],
            env=environment(TERM="xterm") | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    @contextmanager
    def running(self, *arguments: str, **env: str) -> Iterator[None]:
        """Run the program for the length of the block."""
        with self.start(*arguments, **env) as process:
            try:
                yield
            finally:
                process.terminate()

    async def until(self, text: bytes) -> bytes:
        """Read up to this text."""
        with trio.fail_after(LIMIT):
            while text not in self.seen:
                await trio.lowlevel.wait_readable(self._ours)
                self.seen += os.read(self._ours, 65_536)
        return self.seen

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def close(self) -> None:
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


async def end(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Return what it has written to its pipes, once it has ended."""
    with trio.fail_after(LIMIT):
        return await trio.to_thread.run_sync(process.communicate)


async def test_colours(any_etcd: Etcd, terminal: Terminal) -> None:
    # The history also has events of this key from other tests.
    revision = await any_etcd.put("a", "1")
    await any_etcd.delete("a")
    where = ["--endpoints", any_etcd.endpoint]
    with terminal.running("watch", "a", f"--rev={revision}", *where):
        # A terminal turns LF into CRLF.
        seen = await terminal.until(b"DELETE\x1b[0m\r\n")
    assert b"\x1b[32mPUT\x1b[0m\r\n\x1b[1ma\x1b[0m\r\n1\r\n\x1b[31mDELETE" in seen


async def test_no_colours_where_they_are_not_wanted(
    any_etcd: Etcd, terminal: Terminal
) -> None:
    revision = await any_etcd.put("a", "\x1b[2J \xff")
    await any_etcd.put("a", b"\xff")
    where = ["--endpoints", any_etcd.endpoint]
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        with terminal.running("watch", "a", f"--rev={revision}", *where, **env):
            seen = await terminal.until(b"\\xff\r\n")
        terminal.seen = b""
        # A value cannot contain commands for the terminal.
        assert seen == "PUT\r\na\r\n\\x1b[2J \xff\r\nPUT\r\na\r\n\\xff\r\n".encode()


async def test_a_long_get_shows_how_far_it_is(
    any_etcd: Etcd, terminal: Terminal
) -> None:
    # A database of less than 32 MiB, history included, is read in one page.
    for _ in range(36):
        await any_etcd.put("0/0", "v" * 2**20)
    # The server counts only what it has committed to its file, as it does now.
    await any_etcd.compact(2)
    for page in range(30):
        await any_etcd.txn(*(Put(f"{page}/{key}", "v") for key in range(100)))
    where = ["--endpoints", any_etcd.endpoint]
    process = terminal.start("get", "", "--prefix", *where, descriptors="2")
    output, _ = await end(process)
    assert output.count(b"\n") == 6_000
    # At the end it is overwritten with spaces.
    seen = await terminal.until(b" " * 19)
    assert seen.startswith(b"\r1,000 of 3,000 keys")
    assert b"\r3,000 of 3,000 keys\r    " in seen
    # Nothing is shown for a single page, or without a terminal.
    terminal.seen = b""
    await end(terminal.start("get", "0/", "--prefix", *where, descriptors="2"))
    process = terminal.start("get", "", "--prefix", *where, descriptors="")
    assert (await end(process))[1] == b""
    assert await terminal.until(b"") == b""


async def test_the_password_is_asked_for(
    etcd_binaries: list[str], terminal: Terminal
) -> None:
    async with open_guarded(etcd_binaries[0]) as guarded:
        await guarded.put("r", "1")
        where = ["--endpoints", guarded.etcd.endpoint, f"--user={READER.user}"]
        process = terminal.start("get", "r", *where, descriptors="")
        await terminal.until(b"Password of reader: ")
        terminal.type(READER.password + "\n")
        assert await end(process) == (b"r\n1\n", b"")
        assert READER.password.encode() not in terminal.seen
    assert process.returncode == 0


async def test_ctrl_c_at_the_prompt(terminal: Terminal) -> None:
    process = terminal.start("get", "r", "--user=x", descriptors="0")
    await terminal.until(b"Password of x: ")
    terminal.type("\x03")
    assert await end(process) == (b"", b"")
    assert process.returncode == -2


async def test_no_terminal_to_ask_on() -> None:
    process = await trio.run_process(
        [*PROGRAM, "get", "r", "--user=x"],
        env=environment(),
        start_new_session=True,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert (process.returncode, process.stdout) == (2, b"")
    assert b"no password for 'x': there is no terminal to ask on" in process.stderr
