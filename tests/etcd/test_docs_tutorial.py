"""The commands and programs of the tutorial do what it says, in order.

Its programs are "follow.py" and "live_config.py". `make docs-follow` does the same in
an empty environment, with what is installed there.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.support.cli import environment
from tests.support.pages import follow, steps_of
from tests.support.programs import ENDPOINT
from trio_etcd_watch.testing._servers import reserve_port

INSTALLING = r"python3 -m venv|\. \.venv|pip install"


def test_tutorial(newest_binary: str, tmp_path: Path) -> None:
    with ExitStack() as ports:
        _follow(newest_binary, tmp_path, reserve_port(ports), reserve_port(ports))
    assert not (tmp_path / "tutorial.etcd").exists()


def _follow(binary: str, folder: Path, endpoint: str, peer: str) -> None:
    folders = [str(Path(each).parent) for each in (binary, sys.executable)]
    env = environment(
        PATH=os.pathsep.join([*folders, os.environ["PATH"]]),
        ETCDCTL_ENDPOINTS=endpoint,
        ETCD_LISTEN_CLIENT_URLS=f"http://{endpoint}",
        ETCD_ADVERTISE_CLIENT_URLS=f"http://{endpoint}",
        ETCD_LISTEN_PEER_URLS=f"http://{peer}",
        ETCD_INITIAL_ADVERTISE_PEER_URLS=f"http://{peer}",
        ETCD_INITIAL_CLUSTER=f"default=http://{peer}",
    )
    follow(
        "tutorial.md",
        folder,
        env,
        lambda text: text.replace(ENDPOINT, endpoint),
        INSTALLING,
    )


def test_nothing_of_the_tutorial_is_passed_over() -> None:
    steps = steps_of("tutorial.md")
    kinds = [step.kind for step in steps]
    assert [step.text for step in steps if step.kind == "save"] == [
        "/programs/follow.py",
        "/programs/live_config.py",
    ]
    assert (kinds.count("press"), kinds.count("type")) == (4, 15)
    assert {step.terminal for step in steps} == {"", "etcd", "program"}
