"""The programs of docs/migration print the same, before and after."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest
import trio

from tests.support.cli import Cli, open_command
from tests.support.programs import ENDPOINT, PROGRAMS, ROOT, blocks, open_program
from trio_etcd_watch.testing import Etcd

PRINTED = blocks("migration/index.md", "text")[0].splitlines()
"""The expected output of the programs for the writes below."""


async def write_before(etcd: Etcd) -> None:
    await etcd.put("/config/limit", "5")
    await etcd.put("/config/mode", "fast")


async def look_on(etcd: Etcd, program: Cli) -> list[str]:
    """Return what a program prints of the existing keys, and of two changes."""
    await program.lines(2)
    await etcd.put("/config/limit", "6")
    await etcd.delete("/config/mode")
    lines = await program.lines(4)
    return [line.decode().rstrip() for line in lines]


@pytest.mark.parametrize("name", ["from_aetcd_before.py", "from_aetcd_after.py"])
async def test_what_is_there_and_each_change(newest_etcd: Etcd, name: str) -> None:
    await write_before(newest_etcd)
    async with open_program(name, newest_etcd.endpoint) as program:
        assert await look_on(newest_etcd, program) == PRINTED


async def test_with_python_etcd3(newest_etcd: Etcd) -> None:
    await write_before(newest_etcd)
    async with open_program(
        "from_etcd3_before.py",
        newest_etcd.endpoint,
        # Its generated code is older than the installed protobuf.
        PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python",
    ) as program:
        assert await look_on(newest_etcd, program) == PRINTED


async def test_in_go(newest_etcd: Etcd, tmp_path: Path) -> None:
    if shutil.which("go") is None:
        pytest.skip("Go is not installed: its program is not built")
    text = (PROGRAMS / "from_go_before.go").read_text()
    assert text.count(ENDPOINT) == 1
    source = tmp_path / "main.go"
    source.write_text(text.replace(ENDPOINT, newest_etcd.endpoint))
    await trio.run_process(
        ["go", "build", "-o", str(tmp_path / "program"), str(source)],
        cwd=ROOT / "benchmarks/go",
    )
    await write_before(newest_etcd)
    async with open_command([str(tmp_path / "program")], {}) as program:
        assert await look_on(newest_etcd, program) == PRINTED


async def test_a_mirror_instead(newest_etcd: Etcd) -> None:
    await write_before(newest_etcd)
    async with open_program("mirror_instead.py", newest_etcd.endpoint) as program:
        lines = await look_on(newest_etcd, program)
        assert lines == blocks("migration/index.md", "text")[1].splitlines()


async def test_afterwards_it_lives_through_a_restart(newest_etcd: Etcd) -> None:
    await write_before(newest_etcd)
    async with open_program("from_aetcd_after.py", newest_etcd.endpoint) as program:
        await program.lines(2)
        await newest_etcd.kill()
        await newest_etcd.start()
        await newest_etcd.put("/config/limit", "7")
        assert (await program.lines(3))[2] == b"PUT /config/limit 7"
        assert await program.end() == -signal.SIGTERM


async def test_before_it_does_not(newest_etcd: Etcd) -> None:
    """The iterator of aetcd raises, as the page says."""
    await write_before(newest_etcd)
    async with open_program("from_aetcd_before.py", newest_etcd.endpoint) as program:
        await program.lines(2)
        # The watch has begun once an event comes.
        await newest_etcd.put("/config/limit", "6")
        await program.lines(3)
        await newest_etcd.kill()
        assert await program.wait() == 1
        errors = (await program.errors()).decode()
        assert re.search(r"^aetcd\.exceptions\.\w+Error", errors, re.MULTILINE)
