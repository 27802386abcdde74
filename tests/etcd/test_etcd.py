"""The process of an etcd: started, hurt, repaired, and ended with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio

from tests.support.servers import assert_nothing_left, is_alive, keys_of
from trio_etcd_watch import testing
from trio_etcd_watch.testing import (
    Etcd,
    EtcdStartError,
    open_etcd,
)

LIMIT = 60.0
ROOT = Path(__file__).parents[2]


async def test_kill_stop_and_restart_keep_data_and_port(etcd_binary: str) -> None:
    with trio.fail_after(LIMIT):
        async with open_etcd(binary=etcd_binary) as etcd:
            endpoint = etcd.endpoint
            first = await etcd.put("a", "1")
            await etcd.kill()
            with pytest.raises(OSError, match="refused"):
                await etcd.put("b", "2")
            await etcd.kill()  # does nothing
            await etcd.start()
            assert await etcd.put("b", "2") == first + 1
            await etcd.stop()
            await etcd.stop()  # does nothing
            await etcd.start()
            pid = etcd.pid
            await etcd.restart()
            assert etcd.pid != pid
            assert etcd.endpoint == endpoint
            assert await keys_of(etcd) == [b"a", b"b"]
            with pytest.raises(RuntimeError, match="running"):
                await etcd.start()


async def test_pause_and_resume(etcd_binary: str) -> None:
    with trio.fail_after(LIMIT):
        async with open_etcd(binary=etcd_binary) as etcd:
            for _ in range(2):
                await etcd.put("a", "1")
                await etcd.pause()
                with trio.move_on_after(0.1) as unanswered:
                    await etcd.revision()
                assert unanswered.cancelled_caught
                await etcd.pause()  # does nothing
                await etcd.resume()
                await etcd.revision()
            await etcd.pause()
            await etcd.stop()
            await etcd.pause()  # does nothing
            await etcd.start()
            await etcd.pause()
    assert_nothing_left(etcd)


async def test_wrong_arguments_show_the_log(etcd_binary: str) -> None:
    with pytest.raises(EtcdStartError, match="not defined: -nonsense") as info:
        await open_etcd(binary=etcd_binary, args=["--nonsense"]).__aenter__()
    assert "nonsense" in info.value.log


async def test_too_slow(etcd_binary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing._etcd, "_START_LIMIT", 0.3)
    alone = ["--initial-cluster=m0=http://127.0.0.1:1,m1=http://127.0.0.1:2"]
    alone.append("--initial-advertise-peer-urls=http://127.0.0.1:1")
    with pytest.raises(EtcdStartError, match=r"does not \w+ after 0\.3 seconds"):
        await open_etcd(binary=etcd_binary, args=alone).__aenter__()


def test_lives_on_when_a_thread_ends(etcd_binary: str) -> None:
    """The signal that ends etcd with its parent is also sent if only a thread ends."""

    async def main() -> Etcd:
        async with open_etcd(binary=etcd_binary) as etcd:
            await etcd.kill()
            thread = threading.Thread(target=trio.run, args=[etcd.start])
            thread.start()
            thread.join()
            pid = etcd.pid
            await etcd.put("a", "1")
            assert etcd.pid == pid
        return etcd

    assert_nothing_left(trio.run(main))


PROGRAM = """
import sys, threading
import trio
from trio_etcd_watch.testing import open_etcd

async def main():
    async with open_etcd() as etcd:
        print(etcd.pid, flush=True)
        await trio.sleep_forever()

if sys.argv[1] == "main thread":
    trio.run(main)
else:
    threading.Thread(target=trio.run, args=[main]).start()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl() is Linux's")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("where", ["main thread", "other thread"])
def test_dies_with_its_parent(
    etcd_binary: str, tmp_path: Path, number: signal.Signals, where: str
) -> None:
    async def wait_dead(pid: int) -> None:
        with trio.fail_after(LIMIT):
            while is_alive(pid):  # noqa: ASYNC110  # a child of another process
                await trio.sleep(0.01)

    environment = {
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
        "TRIO_ETCD_WATCH_ETCD": etcd_binary,
    }
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, where],
        stdout=subprocess.PIPE,
        env=os.environ | environment,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(number)
    trio.run(wait_dead, pid)
