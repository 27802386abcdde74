"""Sets up the program, runs its command, and ends the process.

The command runs in one task; others wait for signals, and for the reader to close the
output. Whichever comes first decides how the program ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import trio

from trio_etcd_watch import __version__
from trio_etcd_watch._log import printable

from .arguments import Options, parse
from .bookmark import Bookmark, BookmarkError, load
from .commands import Job
from .connecting import SetupError, channel_of
from .failures import FAILED, WRONG, Failure
from .output import Output
from .printing import Human, Json, Printer

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)

_SIGPIPE = getattr(signal, "SIGPIPE", 13)


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the program; return its exit code, or the negative of the ending signal."""
    try:
        options = _parse(arguments, environ)
        _log_to_stderr(options.verbosity)
        _check_stdout()
        job = Job(
            options=options,
            bookmark=_load_bookmark(options),
            channel=channel_of(options.connection),
            printer=_printer(options, environ),
            output=Output(),
        )
        return trio.run(_supervise, job)
    except KeyboardInterrupt:
        return -signal.SIGINT
    except (SetupError, BookmarkError) as exc:
        return _complain(Failure(WRONG, str(exc)))
    except Failure as exc:
        return _complain(exc)


def _parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Options:
    try:
        return parse(arguments, environ, __version__)
    except SystemExit:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            # Nobody reads the help; Python would report that again at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise


def end_process(end: int) -> NoReturn:
    """End the process with what `run()` returned: an exit code, or a signal.

    A signal is raised, so that shells and supervisors see it; Ctrl-C also ends the
    script that runs the program.
    """
    if end < 0:
        signal.signal(-end, signal.SIG_DFL)
        os.kill(os.getpid(), -end)
        # In a container, the kernel does not deliver the signal to the first process.
        end = 128 - end
    sys.exit(end)


async def _supervise(job: Job) -> int:
    """Run the command until it, a signal or the reader of the output ends it.

    Raises:
        Failure: the command has failed.
    """
    ends: list[int | Failure] = []

    async def work() -> None:
        try:
            await job.run()
            ends.append(0)
        except Failure as exc:
            ends.append(exc)
        except BrokenPipeError:
            ends.append(-_SIGPIPE)
        nursery.cancel_scope.cancel(reason="the command has ended")

    async def listen(signals: AsyncIterator[int]) -> None:
        async for number in signals:
            ends.append(-number)
            job.output.limit_write()
            nursery.cancel_scope.cancel(reason="a signal ends it")

    async def notice_closed() -> None:
        await job.output.wait_closed()
        ends.append(-_SIGPIPE)
        nursery.cancel_scope.cancel(reason="nobody reads the output")

    with _receiving_signals() as signals:
        async with trio.open_nursery() as nursery:
            if signals is not None:
                nursery.start_soon(listen, signals)
            nursery.start_soon(notice_closed)
            nursery.start_soon(work)
    if isinstance(ends[0], Failure):
        raise ends[0]
    return ends[0]


@contextlib.contextmanager
def _receiving_signals() -> Iterator[AsyncIterator[int] | None]:
    # A shell that starts the program in the background makes it ignore SIGINT.
    wanted = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    if not wanted:
        yield None
        return
    with trio.open_signal_receiver(*wanted) as signals:
        yield signals


def _load_bookmark(options: Options) -> Bookmark | None:
    if options.bookmark is None:
        return None
    return load(Path(options.bookmark), *options.range)


def _check_stdout() -> None:
    # The next file that is opened would get the descriptor of stdout.
    if sys.stdout is None:
        raise Failure(FAILED, "stdout is closed")


def _printer(options: Options, environ: Mapping[str, str]) -> Printer:
    if options.json:
        return Json()
    terminal = os.isatty(1)
    plain = environ.get("NO_COLOR") or environ.get("TERM", "dumb") == "dumb"
    return Human(terminal=terminal, coloured=terminal and not plain)


def _log_to_stderr(verbosity: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s trio-etcd-watch: %(message)s")
    )
    logger = logging.getLogger("trio_etcd_watch")
    logger.addHandler(handler)
    logger.setLevel(_LEVELS[min(verbosity, 2)])
    if verbosity:
        # These lines say which endpoints are known, and where from.
        logger.getChild("endpoints").setLevel(logging.DEBUG)


def _complain(failure: Failure) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"trio-etcd-watch: {printable(failure)}\n")
    return failure.code
