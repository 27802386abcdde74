"""Builds both wheels, and installs them into empty environments: a program.

    python -m tests.support.wheels [PYTHON ...]

With a compiler the result must be one wheel for every CPython from 3.11 on (abi3), and
without one a wheel for any machine. Each is installed into an empty environment of each
PYTHON, by default the one that runs this. It must be importable there and report
whether it has its speedups; the command line must start, and a test without a server
must run. With the extra `testing` the first wheel is tested on an etcd: the command
line, the pytest fixtures, and mypy on programs of the documentation. It needs the
package index.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ["pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "NOTICE"]
PIP = ["-m", "pip", "--disable-pip-version-check", "-q"]

CHECK = """
import trio_etcd_watch, sys
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._responses import decode
raw = pb.WatchResponse(watch_id=7)
raw.events.add().kv.key = b"key"
(event,) = decode(raw.SerializeToString()).events
assert event.kv.key == b"key"

import trio
from trio_etcd_watch.testing import ScriptedEtcd, put_event

async def main():
    etcd = ScriptedEtcd({"a": "1"})
    async with etcd.open_watcher() as watcher:
        assert put_event("a", "1", mod_revision=2).kv == (await watcher.snapshot("a"))["a"]

trio.run(main)
print(trio_etcd_watch.__speedups__, trio_etcd_watch.__file__)
"""

USER_TEST = """
import signal, subprocess, sys
from pathlib import Path

import trio

PROGRAM = str(Path(sys.executable).with_name("trio-etcd-watch"))

async def test_on_an_etcd(etcd) -> None:
    revision = await etcd.put("/config/limit", "5")
    where = ["/config/", "--prefix", "--endpoints", etcd.endpoint]
    got = await trio.run_process([PROGRAM, "get", *where], capture_stdout=True)
    assert got.stdout == b"/config/limit\\n5\\n"
    watch = [PROGRAM, "watch", *where, "--rev", str(revision)]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            lambda task_status: trio.run_process(
                watch, stdout=subprocess.PIPE, check=False, task_status=task_status
            )
        )
        seen = b""
        with trio.fail_after(30):
            while seen.count(b"\\n") < 3:
                seen += await process.stdout.receive_some()
        assert seen == b"PUT\\n/config/limit\\n5\\n"
        process.send_signal(signal.SIGTERM)
"""
PROGRAMS = ["conftest.py", "follow.py", "live_config.py"]
"""Programs of the documentation, like those of a user."""


def copy_sources(folder: Path) -> None:
    """Copy the sources of a wheel, because a build leaves its extension among them."""
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "trio_etcd_watch",
        folder / "trio_etcd_watch",
        ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"),
    )


def build(folder: Path, compiler: str) -> Path:
    """Build the wheel with this compiler."""
    folder.mkdir()
    copy_sources(folder)
    subprocess.run(
        [sys.executable, *PIP, "wheel", "--no-deps", "-w", folder / "dist", folder],
        env={**os.environ, "CC": compiler, "TRIO_ETCD_WATCH_PURE": ""},
        check=True,
    )
    (wheel,) = (folder / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    # README is shown without the files beside it, so relative links would be dead.
    assert "## Install" in text
    assert re.findall(r"\]\((?![a-z]+:)[^)]*\)", text) == []
    return wheel


def has_speedups(wheel: Path, python: str, folder: Path) -> bool:
    """Install the wheel with only what it requires; return whether it has speedups."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    inside = str(folder / "bin" / "python")
    subprocess.run([inside, *PIP, "install", wheel], check=True)
    program = str(folder / "bin" / "trio-etcd-watch")
    subprocess.run([program, "--version"], check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(
        [inside, "-c", CHECK],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "", "TRIO_ETCD_WATCH_PURE": ""},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    speedups, file = done.stdout.split()
    assert Path(file).is_relative_to(folder), file
    return speedups == "True"


def try_on_etcd(wheel: Path, python: str, folder: Path) -> None:
    """Install it as a user who writes tests does; run a test, and check types."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    inside = str(folder / "bin" / "python")
    what = f"trio-etcd-watch[testing] @ {wheel.as_uri()}"
    subprocess.run([inside, *PIP, "install", what, "mypy"], check=True)
    desk = folder / "desk"
    desk.mkdir()
    for name in PROGRAMS:
        shutil.copy(ROOT / "docs/programs" / name, desk)
    (desk / "test_user.py").write_text(USER_TEST)
    env = {**os.environ, "PYTHONPATH": ""}
    for command in (
        ["pytest", "-q", "-o", "trio_mode=true", "test_user.py"],
        ["mypy", "--strict", *PROGRAMS],
    ):
        subprocess.run([inside, "-m", *command], cwd=desk, env=env, check=True)


def main(pythons: list[str]) -> None:
    """Test each wheel on each Python."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        compiled = build(folder / "compiled", os.environ.get("CC", "cc"))
        pure = build(folder / "pure", "false")
        assert "-cp311-abi3-" in compiled.name, compiled.name
        assert pure.name.endswith("-py3-none-any.whl"), pure.name
        for number, python in enumerate(pythons or [sys.executable]):
            for wheel, expected in ((compiled, True), (pure, False)):
                inside = folder / f"{wheel.parent.parent.name}-{number}"
                assert has_speedups(wheel, python, inside) == expected, wheel.name
                print(f"{wheel.name} on {python}: speedups {expected}", flush=True)
            try_on_etcd(compiled, python, folder / f"testing-{number}")


if __name__ == "__main__":
    main(sys.argv[1:])
