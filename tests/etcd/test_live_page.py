"""The package shares an environment, and a process, with Hypercorn and quart-trio."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from tests.support.helpers import LIMIT
from trio_etcd_watch.testing import open_etcd

EXAMPLE = Path(__file__).parents[2] / "examples/live_page.py"

pytestmark = pytest.mark.etcd


def test_no_requirement_conflicts() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_a_page_over_http2_shows_what_a_watch_delivers(etcd_binary: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        command = [sys.executable, str(EXAMPLE), etcd.endpoint]
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                process: trio.Process = await nursery.start(
                    functools.partial(trio.run_process, command, stdout=subprocess.PIPE)
                )
                url = await first_line(process)
                async with open_rows(url) as next_row:
                    assert await next_row() == "<p>nothing yet</p>"
                    await etcd.put("/config/color", "<green>")
                    assert await next_row() == "<p>color = &lt;green&gt;</p>"
                    await etcd.restart()
                    await etcd.put("/config/color", "blue")
                    assert await next_row() == "<p>color = blue</p>"
                process.terminate()
                # It ends well, otherwise run_process() raises.


@asynccontextmanager
async def open_rows(url: str) -> AsyncGenerator[Callable[[], Awaitable[str | None]]]:
    """Request a page that does not end; return a function that waits for its next line.

    This uses threads, because httpx's async generators cannot be closed in the middle.
    """
    in_thread = trio.to_thread.run_sync
    # HTTP/2 from the first byte on, because without TLS there is no ALPN.
    with httpx.Client(http1=False, http2=True, timeout=LIMIT) as client:
        request = client.build_request("GET", url)
        response = await in_thread(functools.partial(client.send, request, stream=True))
        try:
            assert response.http_version == "HTTP/2"
            assert response.status_code == 200
            rows = response.iter_lines()
            yield functools.partial(in_thread, next, rows, None)
        finally:
            response.close()


async def first_line(process: trio.Process) -> str:
    assert process.stdout is not None
    line = bytearray()
    while not line.endswith(b"\n"):
        data = await process.stdout.receive_some()
        assert data, "the program has ended"
        line += data
    return line.decode().strip()
