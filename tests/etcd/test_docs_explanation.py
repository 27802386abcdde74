"""The commands on the explanation pages."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest
import trio

from tests.support.helpers import LIMIT, take
from tests.support.programs import blocks
from trio_etcd_watch import CompactedError, open_watcher
from trio_etcd_watch.testing import open_etcd

AS_RESTORED = [
    "--name=default",
    "--initial-advertise-peer-urls=http://localhost:2380",
    "--initial-cluster=default=http://localhost:2380",
]
"""etcd's default, which a restored backup has, too: then the cluster id is the same."""


async def test_a_backup_is_restored_with_higher_revisions(
    etcd_binary: str, bumping_utility: Path, etcdctl: str, tmp_path: Path
) -> None:
    """The literal command of the page, on the result of `etcdctl snapshot save`."""
    (text,) = blocks("explanation/etcd-limits.md", "console")
    restore = shlex.split(text.removeprefix("$ "))
    data, bump = (
        restore[restore.index(flag) + 1] for flag in ("--data-dir", "--bump-revision")
    )
    path = os.pathsep.join([str(bumping_utility.parent), os.environ["PATH"]])
    async with open_etcd(binary=etcd_binary, args=AS_RESTORED) as etcd:
        kept = await etcd.put("a", "kept")
        where = f"--endpoints={etcd.endpoint}"
        await trio.run_process(
            [etcdctl, where, "snapshot", "save", "backup.db"],
            cwd=tmp_path,
            capture_stdout=True,
            capture_stderr=True,
        )
        async with open_watcher(etcd.endpoint) as watcher, watcher.watch("a") as watch:
            lost = await etcd.put("a", "lost")
            assert [event.kv.mod_revision for event in await take(watch, 1)] == [lost]
            await etcd.stop()
            await trio.run_process(
                restore,
                cwd=tmp_path,
                env={**os.environ, "PATH": path},
                capture_stderr=True,
            )
            shutil.rmtree(etcd.data_dir)
            (tmp_path / data).rename(etcd.data_dir)
            await etcd.start()
            with trio.fail_after(LIMIT), pytest.raises(CompactedError) as caught:
                await anext(watch)
            assert caught.value.compact_revision == kept + int(bump)
            snapshot = await watcher.snapshot("a")
            assert snapshot["a"].value == b"kept"
            assert await etcd.put("a", "new") > kept + int(bump)
