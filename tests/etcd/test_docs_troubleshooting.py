"""The programs of docs/troubleshooting.md do what the page says."""

from __future__ import annotations

import re

import trio

from tests.support.helpers import LIMIT
from tests.support.programs import blocks, open_program
from trio_etcd_watch.testing import Etcd


async def test_the_log_is_shown(newest_etcd: Etcd) -> None:
    await newest_etcd.put("/config/limit", "5")
    async with open_program("show_log.py", newest_etcd.endpoint) as program:
        assert await program.wait() == 0
        assert program.output == b"b'/config/limit' b'5'\n"
        log = (await program.errors()).decode()
    assert f"DEBUG trio_etcd_watch: reached {newest_etcd.endpoint}\n" in log
    assert f"INFO trio_etcd_watch: connected to {newest_etcd.endpoint}\n" in log


async def test_it_says_why_there_is_no_watch() -> None:
    """Nothing listens at a port that was bound and released."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        host, port = listener.getsockname()
    (shown,) = blocks("troubleshooting.md", "text")
    with trio.fail_after(LIMIT):
        async with open_program("say_why.py", f"{host}:{port}") as program:
            assert await program.wait() == 0
            said = program.output.decode()
    assert said == shown.replace("2379", str(port))


async def test_it_goes_on_once_there_is_a_watch(newest_etcd: Etcd) -> None:
    # A busy machine may need longer than the page's 2 s.
    patient = {"fail_after(2)": f"fail_after({LIMIT})"}
    async with open_program(
        "say_why.py", newest_etcd.endpoint, replaced=patient
    ) as program:
        # The body begins when an event comes that was written after the watch began.
        while not program.output:
            await newest_etcd.put("/config/limit", "6")
            with trio.move_on_after(0.5):
                await program.lines(1)
        assert re.match(rb"PUT b'/config/limit'\n", program.output)
