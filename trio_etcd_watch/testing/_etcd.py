"""One etcd process of the tests': started, hurt, repaired and ended.

POSIX only: pausing is a signal.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, final

import trio

from trio_etcd_watch._face import LibraryOnly, NoPublicConstructor

from ._gateway import EtcdRequestError, Gateway

DATA: Final = "data"
"""The folder of what survives `Etcd.kill()` and `Etcd.stop()`."""

_START_LIMIT: Final = 60.0
"""Seconds until a server that does not serve counts as failed; a loaded CI is slow."""

_TRY_LIMIT: Final = 1.0
"""Seconds for one look whether it serves; who took its port may never reply."""

_KILL_LIMIT: Final = 5.0
"""Seconds that clean-up waits for a killed process: it ends at once, or is stuck."""

_POLL_INTERVAL: Final = 0.01
"""Seconds between two looks at a process."""

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
class Etcd(Gateway, trio.abc.AsyncResource, metaclass=NoPublicConstructor):
    """A running etcd, its data, and a client that writes. Made by `open_etcd()`.

    It belongs to no `trio.run()`, so one may go on with what another started. Each request
    raises `EtcdRequestError` if the server refuses it, and `OSError` if the server cannot
    be reached or goes away before it has replied. A request that is cancelled may still
    take effect; with a paused server, only after it was resumed.

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
        _: LibraryOnly,
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
        self.data_dir: Path = directory / DATA
        self.log_path: Path = directory / "etcd.log"
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
        dies_with_us = sys.platform == "linux"  # its directory stays then
        if dies_with_us:
            guard = [sys.executable, "-ISc", _DIE_WITH_PARENT, str(os.getpid())]
            command = [*guard, *command]

        def spawn() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                process_group=0,  # Ctrl-C is ours alone: we end it when we are done
            )

        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            return _spawn_from_thread(spawn) if dies_with_us else spawn()

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


def _spawn_from_thread(
    spawn: Callable[[], subprocess.Popen[bytes]],
) -> subprocess.Popen[bytes]:
    """Start a process from a thread that lives as long as the process.

    The parent-death signal comes when the parent *thread* ends, and ours may be one
    that ends before etcd is to: `trio.run()` in a worker thread, say.
    """
    started: Future[subprocess.Popen[bytes]] = Future()

    def live() -> None:
        try:
            process = spawn()
        except BaseException as exc:
            started.set_exception(exc)
            return
        started.set_result(process)
        # Its exit status is left for Popen, which may also have it already.
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    threading.Thread(target=live, name="parent of etcd", daemon=True).start()
    return started.result()
