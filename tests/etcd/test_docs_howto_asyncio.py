"""The programs of the how-to page about asyncio: both bridges work, and end cleanly."""

from __future__ import annotations

import signal

import pytest

from tests.support.programs import open_program
from trio_etcd_watch.testing import Etcd

PROGRAMS = ["asyncio_guest.py", "asyncio_thread.py"]


@pytest.mark.parametrize("name", PROGRAMS)
async def test_changes_cross_over(newest_etcd: Etcd, name: str) -> None:
    async with open_program(name, newest_etcd.endpoint) as program:
        assert await program.lines(1) == [b"{}"]
        await newest_etcd.put("/config/mode", "fast")
        assert (await program.lines(2))[1] == b"{'/config/mode': 'fast'}"
        await newest_etcd.restart()
        await newest_etcd.put("/config/mode", "slow")
        assert (await program.lines(3))[2] == b"{'/config/mode': 'slow'}"
        # Ctrl-C cancels asyncio's main task, and with it the code that runs on Trio.
        assert await program.end(signal.SIGINT) == -signal.SIGINT
        said = await program.errors()
        assert said.endswith(b"\nKeyboardInterrupt\n")
        assert b"Trio guest run got abandoned" not in said


@pytest.mark.parametrize("name", PROGRAMS)
async def test_an_error_crosses_over(newest_etcd: Etcd, name: str) -> None:
    # A value that is not text.
    await newest_etcd.put("/config/mode", b"\xff")
    async with open_program(name, newest_etcd.endpoint) as program:
        assert await program.wait() == 1
        assert b"UnicodeDecodeError" in await program.errors()
