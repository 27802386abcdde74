"""The demo and the examples run, as programs, and do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(etcd_binary: str, name: str, *arguments: str) -> list[str]:
    """Run an example; return what it printed."""
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
    assert lines[-1].startswith("--- 48 events written, 48 seen, 0 lost, 0 repeated")
    assert any("no watch stream" in line for line in lines)


def test_hot_reload(etcd_binary: str) -> None:
    assert run(etcd_binary, "hot_reload.py")[-1].endswith(
        "{'limit': '7', 'mode': 'fast'}"
    )


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
        f"done: job {i}" for i in range(6)
    ]
    assert lines.count("the worker is down") == 1
