"""The nginx configuration of the how-to page about proxies."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from tests.support.cli import open_command
from tests.support.helpers import LIMIT, take
from tests.support.programs import blocks
from trio_etcd_watch import open_watcher
from trio_etcd_watch.testing import Etcd
from trio_etcd_watch.testing._servers import reserve_port


def write_configuration(folder: Path, address: str, endpoint: str) -> Path:
    """Write the page's configuration, changed so that any user can run it anywhere."""
    (text,) = blocks("howto/proxies.md", "nginx")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder};\n" for kind in kinds)
    for old, new in {
        "10.0.0.1:2379": endpoint,
        "10.0.0.2:2379": endpoint,
        "10.0.0.3:2379": endpoint,
        "127.0.0.1:2379": address,
        "http {": f"http {{\naccess_log off;\n{paths}",
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    start = f"daemon off;\nmaster_process off;\npid {folder / 'pid'};\n"
    path = folder / "nginx.conf"
    path.write_text(f"{start}error_log stderr warn;\n{text}")
    return path


async def test_nginx(newest_etcd: Etcd, tmp_path: Path) -> None:
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("no nginx is here: apt-get install nginx")
    with ExitStack() as resources:
        address = reserve_port(resources)
        path = write_configuration(tmp_path, address, newest_etcd.endpoint)
        command = [program, "-p", str(tmp_path), "-c", str(path)]
        async with open_command(command, {}), open_watcher(address) as watcher:
            with trio.fail_after(LIMIT):
                async with watcher.watch("/config/", prefix=True) as watch:
                    await newest_etcd.put("/config/a", "1")
                    assert [e.kv.value for e in await take(watch, 1)] == [b"1"]
                    await newest_etcd.restart()
                    await newest_etcd.put("/config/a", "2")
                    assert [e.kv.value for e in await take(watch, 1)] == [b"2"]
                    # More than the body size that nginx allows by default.
                    before = watcher.statistics().reconnects
                    for i in range(20):
                        async with watcher.watch(f"{i}" + "k" * 60_000):
                            pass
                    assert watcher.statistics().reconnects == before
