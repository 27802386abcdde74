"""The demo and the examples run as programs, and do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.helpers import LIMIT
from trio_etcd_watch.testing import Etcd, Put

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PROGRAMS = re.findall(
    r"```python\n(import trio\n.+?)trio\.run\(main\)\n```",
    (ROOT / "README.md").read_text(),
    re.DOTALL,
)
"""The complete programs of README."""


def run(etcd_binary: str, name: str, *arguments: str) -> list[str]:
    """Run an example; return its output."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"TRIO_ETCD_WATCH_ETCD": etcd_binary},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_demo(etcd_binary: str) -> None:
    lines = run(etcd_binary, "demo.py")
    assert any(
        line.startswith("--- 48 events written, 48 seen, 0 lost, 0 repeated")
        for line in lines
    )
    # The log may have further lines after it.
    (mirror,) = (
        line for line in lines if line.startswith("--- a mirror of 32 keys at")
    )
    assert "is equal to what a read gives: 32 keys" in mirror
    assert any("no watch stream" in line for line in lines)


def test_hot_reload(etcd_binary: str) -> None:
    # Updates may be merged, but the first and the last state are always seen.
    lines = run(etcd_binary, "hot_reload.py")
    assert lines[0] == "now running with {'limit': '5'}"
    assert lines[-1] == "now running with {'limit': '7', 'mode': 'off'}"
    # What was written in one transaction is seen together.
    assert set(lines[1:-1]) <= {"now running with {'limit': '7', 'mode': 'fast'}"}


def test_service_discovery(etcd_binary: str) -> None:
    assert run(etcd_binary, "service_discovery.py") == [
        "up   one 10.0.0.1:25",
        "up   two 10.0.0.2:25",
        "down one 10.0.0.1:25",
        "down two 10.0.0.2:25",
        "nobody is left",
    ]


def test_resumable_worker(etcd_binary: str, tmp_path: Path) -> None:
    lines = run(etcd_binary, "resumable_worker.py", str(tmp_path / "bookmark"))
    assert [line for line in lines if line.startswith("done")] == [
        f"done: job {i}" for i in range(9)
    ]
    assert lines.count("the worker is down") == 2
    assert sum(line.endswith("reading again") for line in lines) == 1


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
async def test_readme(
    etcd: Etcd, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    exec(PROGRAMS[number].replace("127.0.0.1:2379", etcd.endpoint), names)
    printed = ""

    async def is_printed(what: str) -> bool:
        nonlocal printed
        printed += capsys.readouterr().out
        return what in printed

    for folder in ("/config/", "/jobs/"):
        await etcd.put(folder + "early", "1")
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(names["main"])
            # The second program only sees what is written after its watch began.
            while not await is_printed("late"):
                await etcd.txn(Put("/config/late", "1"), Put("/jobs/late", "1"))
            nursery.cancel_scope.cancel()
    assert ("early" in printed) == (number == 0)


def test_readme_has_programs() -> None:
    for way, program in zip(("mirror", "watch"), PROGRAMS, strict=True):
        assert f"watcher.{way}(" in program
