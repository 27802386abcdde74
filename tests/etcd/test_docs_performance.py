"""The benchmarks run as their page says, except for those that take over a minute."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.support.cli import environment
from tests.support.pages import LONG, typed
from tests.support.programs import ROOT

PAGE = "performance.md"
LIMIT = 300.0
"""Seconds, on a machine that also runs other tests."""


def without_go() -> str:
    """Return the path without Go, because its client takes very long to build."""
    return os.pathsep.join(
        folder
        for folder in os.get_exec_path()
        # A folder of the system that also has Go is kept.
        if not Path(folder, "go").exists() or Path(folder, "sh").exists()
    )


def run(command: str, output: Path) -> str:
    """Run it with the present Python, without installing anything."""
    python, venv = ".venv/bin/python", Path(sys.prefix)
    assert "/tmp/results" in command or command.startswith(python)
    words = shlex.split(command.replace("/tmp/results", str(output)))
    words = [sys.executable if word == python else word for word in words]
    if words[0] == "make":
        words += [f"VENV={venv}", f"--assume-old={venv / '.bench'}"]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=environment(PATH=without_go(), MAKEFLAGS=""),
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    return done.stdout


def test_the_benchmarks_run(tmp_path: Path) -> None:
    compare, present = [each for each in typed(PAGE) if each not in LONG[PAGE]]
    output = tmp_path / "results"
    assert "latency at 100 puts/s" in run(compare, output)
    results = json.loads(output.with_suffix(".json").read_text())
    clients = results["scenarios"]["latency"]["clients"]
    assert {"trio-etcd-watch", "aetcd"} <= clients.keys()
    said = run(present, output)
    assert "2,000 keys" in said
    assert "a mirror: " in said
