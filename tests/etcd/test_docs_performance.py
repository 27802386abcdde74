"""The benchmarks run as their page says: all of it that ends within a minute."""

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
"""Seconds, on a machine that is busy with other tests."""


def without_go() -> str:
    """The path, but for Go: to build its client takes longer than to run all others."""
    return os.pathsep.join(
        folder
        for folder in os.get_exec_path()
        # Where it is among the system's programs it stays.
        if not Path(folder, "go").exists() or Path(folder, "sh").exists()
    )


def run(command: str, output: Path) -> str:
    """Run it with the Python of this run, in which nothing is installed for it."""
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
