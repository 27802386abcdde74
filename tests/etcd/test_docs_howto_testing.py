"""The tests on the how-to page about testing pass."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import trio

from tests.support.cli import environment
from tests.support.programs import PROGRAMS, blocks

FILES = ("conftest.py", "limiter.py", "test_limiter.py", "test_limiter_on_etcd.py")


async def test_the_tests_pass(tmp_path: Path, newest_binary: str) -> None:
    for name in FILES:
        (tmp_path / name).write_text((PROGRAMS / name).read_text())
    (settings,) = blocks("howto/testing.md", "toml")
    (tmp_path / "pyproject.toml").write_text(settings)
    # Plugins that take long to import on a busy machine are left out.
    plugins = ("hypothesispytest", "xdist", "anyio")
    done = await trio.run_process(
        [sys.executable, "-m", "pytest", "-q", *(f"-pno:{each}" for each in plugins)],
        cwd=tmp_path,
        env=environment(TRIO_ETCD_WATCH_ETCD=newest_binary, PYTEST_ADDOPTS=""),
        capture_stdout=True,
        check=False,
    )
    output = done.stdout.decode()
    assert done.returncode == 0, output
    assert re.search("^4 passed in", output, re.MULTILINE), output
