"""How the program ends: signals, readers that close or stall, limits and misuse."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import subprocess
import termios

import pytest
import trio

from tests.support.cli import PROGRAM, environment, open_cli, run_cli
from tests.support.helpers import LIMIT, eventually
from trio_etcd_watch.testing import Etcd

PIPE = 65_536
"""The capacity of a pipe on Linux, in bytes."""


def shell(script: str, etcd: Etcd) -> tuple[int, str, str]:
    """Run a bash script in which `cli` is the program; return exit code and output."""
    done = subprocess.run(
        ["bash", "-c", f'cli() {{ exec {" ".join(PROGRAM)} "$@"; }}\n{script}'],
        env=environment(ETCDCTL_ENDPOINTS=etcd.endpoint),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["watch", "mirror"])
async def test_signals(any_etcd: Etcd, command: str, number: signal.Signals) -> None:
    await any_etcd.put("a", "1")
    rev = ["--rev=1"] if command == "watch" else []
    async with open_cli(command, "a", *rev, "--endpoints", any_etcd.endpoint) as cli:
        await cli.lines(3)
        # It dies of the signal itself, which a shell shows as 128 plus the number.
        assert await cli.end(number) == -number
        assert await cli.errors() == b""


async def test_a_signal_while_nobody_answers(any_etcd: Etcd) -> None:
    await any_etcd.pause()
    async with open_cli("get", "a", "--endpoints", any_etcd.endpoint, "-vv") as cli:
        assert cli.process.stderr is not None
        # It has connected to the server.
        with trio.fail_after(LIMIT):
            await cli.process.stderr.receive_some()
        assert await cli.end() == -signal.SIGTERM
        assert b"Traceback" not in await cli.errors()


async def test_a_shell_sees_the_usual_codes(any_etcd: Etcd) -> None:
    script = """
    ( cli watch a ) & pid=$!
    sleep 0.1; until kill -{} $pid 2>/dev/null; do sleep 0.1; done; wait $pid; echo $?
    """
    assert shell(script.format("TERM"), any_etcd)[:2] == (0, "143\n")


async def test_a_signal_that_is_ignored_stays_so(any_etcd: Etcd) -> None:
    """In the background of a script, Ctrl-C is meant for other programs."""
    await any_etcd.put("a", "1")
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        manager = open_cli("watch", "a", "--rev=1", "--endpoints", any_etcd.endpoint)
        cli = await manager.__aenter__()
    finally:
        signal.signal(signal.SIGINT, handler)
    await cli.lines(3)
    cli.process.send_signal(signal.SIGINT)
    await any_etcd.put("a", "2")
    await cli.lines(6)
    assert await cli.end() == -signal.SIGTERM
    await manager.__aexit__(None, None, None)


async def test_head(any_etcd: Etcd) -> None:
    """It ends when its reader does, not only with the next event."""
    await any_etcd.put("a", "1")
    end, printed, errors = shell(
        "( cli watch a --rev=1 ) | head -1; echo ${PIPESTATUS[0]}", any_etcd
    )
    assert (end, printed, errors) == (0, "PUT\n141\n", "")


async def test_head_of_much(any_etcd: Etcd) -> None:
    for number in range(20):
        await any_etcd.put(f"a{number}", "x" * 50_000)
    end, printed, errors = shell(
        '( cli get a --prefix ) | head -1; echo "${PIPESTATUS[0]}"', any_etcd
    )
    assert (end, printed, errors) == (0, "a0\n141\n", "")


@pytest.mark.parametrize("command", ["watch", "get"])
async def test_a_reader_that_stalls(any_etcd: Etcd, command: str) -> None:
    """It can be ended while it waits for a pipe that is full and not read."""
    for number in range(20):
        await any_etcd.put(f"a{number}", "x" * 50_000)
    rev = ["--rev=1"] if command == "watch" else []
    async with open_cli(
        command, "a", "--prefix", *rev, "--endpoints", any_etcd.endpoint
    ) as cli:

        async def is_full() -> bool:
            assert isinstance(cli.process.stdout, trio.lowlevel.FdStream)
            unread = array.array("i", [0])
            fcntl.ioctl(cli.process.stdout.fileno(), termios.FIONREAD, unread)
            return unread[0] >= PIPE

        await eventually(is_full)
        cli.process.terminate()
        with trio.fail_after(LIMIT):
            assert await cli.process.wait() == -signal.SIGTERM
        assert await cli.errors() == b""


async def test_the_output_cannot_be_written(any_etcd: Etcd) -> None:
    await any_etcd.put("a", "1")
    end, printed, errors = shell("( cli get a >/dev/full ); echo $?", any_etcd)
    assert (end, printed) == (0, "1\n")
    assert errors == "trio-etcd-watch: cannot write: No space left on device\n"
    end, printed, errors = shell("( cli get a >&- ); echo $?", any_etcd)
    assert (end, printed, errors) == (0, "1\n", "trio-etcd-watch: stdout is closed\n")
    # There is no stream to print the error on.
    assert shell("( cli get a >&- 2>&- ); echo $?", any_etcd)[1] == "1\n"


async def test_nobody_answers_in_time(any_etcd: Etcd) -> None:
    await any_etcd.pause()
    for command in ("get", "watch", "mirror"):
        done = await run_cli(
            command, "a", "--command-timeout=200ms", "--endpoints", any_etcd.endpoint
        )
        assert (done.returncode, done.stdout) == (5, b"")
        last = done.stderr.splitlines()[-1]
        assert last == b"trio-etcd-watch: no answer within 0.2 s"


async def test_the_limit_is_not_for_what_goes_on(any_etcd: Etcd) -> None:
    await any_etcd.put("a", "1")
    where = ["--command-timeout=8s", "--endpoints", any_etcd.endpoint]
    async with open_cli("mirror", "a", *where) as mirror:
        await mirror.lines(3)
        # What has begun continues without an answer.
        await trio.sleep(8.5)
        await any_etcd.put("a", "2")
        await mirror.lines(6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["watch"], "the following arguments are required: KEY"),
        (["get", "a", "--bookmark=x"], "unrecognized arguments: --bookmark=x"),
        (["get", ""], "key must not be empty"),
        (["get", "a", "--prefix", "--from-key"], "not allowed with argument"),
        (["get", "a", "--endpoints=nonsense"], "did you mean 'nonsense:2379'?"),
        (["get", "a", "--cacert=/absent"], "--cacert: /absent cannot be used"),
    ],
)
async def test_misuse(arguments: list[str], message: str) -> None:
    done = await run_cli(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in done.stderr.decode()


def test_help_that_nobody_reads() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [*PROGRAM, "--help"],
        env=environment(),
        stdout=write_end,
        stderr=subprocess.PIPE,
        timeout=LIMIT,
        check=False,
    )
    os.close(write_end)
    assert done.stderr == b""


async def test_help() -> None:
    done = await run_cli("watch", "--help")
    assert done.returncode == 0
    assert b"exit codes:" in done.stdout
    assert b"--password FILE" not in done.stdout
