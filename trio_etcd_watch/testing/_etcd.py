"""Starts, kills, pauses, restarts and ends one etcd process for tests.

It works on POSIX only, since pausing uses a signal.
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
"""The name of the directory that survives `Etcd.kill()` and `Etcd.stop()`."""

_START_LIMIT: Final = 60.0
"""Seconds after which a server that does not serve has failed; a loaded CI is slow."""

_TRY_LIMIT: Final = 1.0
"""Seconds for one check whether it serves; another process on its port may not
reply."""

_KILL_LIMIT: Final = 5.0
"""Seconds that clean-up waits for a killed process, which ends at once or is stuck."""

_POLL_INTERVAL: Final = 0.01
"""Seconds between two checks of a process."""

_REFUSED_BY_AUTH: Final = frozenset({3, 7, 16})
"""The codes INVALID_ARGUMENT (no user), PERMISSION_DENIED and UNAUTHENTICATED: etcd
does serve if it refuses a request with one of them."""

# Run by a Python process that then becomes etcd: preexec_fn is not safe with threads.
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
        log: what etcd logged since it was started.
    """

    def __init__(self, message: str, log: str) -> None:
        """Describe the failure, with the end of the log."""
        # A wrong argument is reported before 20 lines of usage.
        tail = log.splitlines()[-30:]
        super().__init__("\n    ".join([f"{message}; its log:", *tail]))
        self.log = log


@final
class Etcd(Gateway, trio.abc.AsyncResource, metaclass=NoPublicConstructor):
    """A running etcd, its data, and a client that writes. Made by `open_etcd()`.

    It is not bound to a `trio.run()`: another one can continue with it. Each request
    raises `EtcdRequestError` if the server refuses it, and `OSError` if the server
    cannot be reached or goes away before it has replied. A request that is cancelled
    may still take effect; with a paused server, only after it is resumed.

    Attributes:
        endpoint: where etcd serves clients, as `host:port`; the same after a restart.
        token: if set, sent with each request, as the reply of
            `/v3/auth/authenticate` gives it.
        version: the version, such as `(3, 5, 1)`.
        data_dir: the data, which survives `kill()` and `stop()`.
        log_path: the log since the first start.
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
        """Describe the process; `start()` runs it."""
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
        """The process id; if etcd does not run, that of its last process."""
        if self._process is None:
            msg = "etcd has not been started"
            raise RuntimeError(msg)
        return self._process.pid

    async def start(self, *, wait: bool = True) -> None:
        """Start etcd on the data and the ports that it had.

        Cancellation leaves the process running, as `wait=False` does.

        Args:
            wait: if True, return once etcd serves reads and writes, which a member of a
                cluster without a quorum never does; if False, return once it listens.

        Raises:
            EtcdStartError: etcd ended, or does not serve in time.
            RuntimeError: etcd is running.
        """
        if self._is_running():
            msg = "etcd is running"
            raise RuntimeError(msg)
        self._process = self._spawn()
        await self._wait_ready(self._listens, "listen")
        if wait:
            await self.wait_serving()

    async def wait_serving(self) -> None:
        """Return once etcd serves reads and writes; cancellation does not affect it.

        Raises:
            EtcdStartError: etcd ended, or does not serve in time.
        """
        await self._wait_ready(self._serves, "serve")

    async def kill(self) -> None:
        """End etcd as a crash does (SIGKILL), and wait for its end.

        Nothing happens if it does not run. The signal is sent even when cancelled.
        """
        self._signal(signal.SIGKILL)
        await self._wait_until(lambda: not self._is_running())

    async def stop(self) -> None:
        """Shut etcd down (SIGTERM), even if it is paused, and wait for its end.

        Nothing happens if it does not run. The signal is sent even when cancelled.
        """
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        await self._wait_until(lambda: not self._is_running())

    async def restart(self) -> None:
        """Call `stop()`, then `start()`; cancellation leaves what was reached."""
        await self.stop()
        await self.start()

    async def pause(self) -> None:
        """Pause the process (SIGSTOP): connections stay open, and nobody answers.

        Returns once all its threads have stopped. The signal is sent even when
        cancelled. Nothing happens if it does not run.
        """
        self._signal(signal.SIGSTOP)
        await self._wait_until(lambda: self._is_stopped() or not self._is_running())

    async def resume(self) -> None:
        """Continue the process after `pause()` (SIGCONT), even when cancelled."""
        self._signal(signal.SIGCONT)
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """Resume etcd, start it if it does not run, and delete every key.

        Revisions keep counting. Cancellation leaves the state that was reached.
        """
        await self.resume()
        if not self._is_running():
            await self.start()
        await self.delete("", prefix=True)

    async def aclose(self) -> None:
        """End the process, and remove its directory, even when cancelled."""
        # Not SIGTERM: the data is removed anyway, and a leader that is told to stop
        # waits 5 seconds and more for a successor.
        with trio.move_on_after(_KILL_LIMIT, shield=True):
            await self.kill()
        self._close_idle()
        self._resources.close()

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)  # no effect once it has ended

    def _is_stopped(self) -> bool:
        # Without WEXITED, which would consume the exit status that Popen needs.
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
                process_group=0,  # Ctrl-C must not reach it: we end it ourselves
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

    The parent-death signal is sent when the parent *thread* ends, and the calling
    thread may end earlier than etcd should: it may be a worker thread that calls
    `trio.run()`.
    """
    started: Future[subprocess.Popen[bytes]] = Future()

    def live() -> None:
        try:
            process = spawn()
        except BaseException as exc:
            started.set_exception(exc)
            return
        started.set_result(process)
        # WNOWAIT leaves the exit status for Popen, which may also have read it already.
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    threading.Thread(target=live, name="parent of etcd", daemon=True).start()
    return started.result()
