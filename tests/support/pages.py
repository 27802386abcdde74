"""Follows a page of the documentation as its reader does, in several terminals.

The steps are the page's blocks. An included program is saved under its name. In a
`console` block each line with `$` is typed, `^C` is pressed, and the rest is the
expected output; a `text` block is output of a program that is still running. A comment
before a block, `% terminal: NAME`, names its terminal. The default is the first
terminal, where each command is run to its end; in the others commands keep running.
"""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.support.programs import DOCS

LIMIT = 60.0
"""Seconds after which a step counts as stuck."""

INSTALLS = "pip install "
"""The beginning of commands that `make docs-follow` runs, in empty environments."""

LONG = {
    "performance.md": ("make bench", ".venv/bin/python -m benchmarks.present"),
}
"""By page, commands that take minutes; only `make docs-follow ARGS=PAGE` runs them."""

BLOCK = re.compile(
    r"(?:^% terminal: (?P<terminal>\S+)\n)?"
    r"^```(?P<kind>console|text|\{literalinclude\} \S+)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Step(NamedTuple):
    """One action of the reader, or one output that the reader sees."""

    terminal: str
    """The name of the terminal; empty for the first."""
    kind: str
    """One of `save`, `type`, `press` and `see`."""
    text: str


def steps_of(page: str) -> list[Step]:
    """Return the steps of a page, such as tutorial.md."""
    return [
        step
        for block in BLOCK.finditer((DOCS / page).read_text())
        for step in _steps(block["terminal"] or "", block["kind"], block["body"])
    ]


def _steps(terminal: str, kind: str, body: str) -> list[Step]:
    if kind == "text":
        return [Step(terminal, "see", body)]
    if kind != "console":
        return [Step("", "save", kind.split()[1])]
    steps: list[Step] = []
    for part in re.split(r"^(?=\$ |\^C$)", body, flags=re.MULTILINE):
        line, _, rest = part.partition("\n")
        if line == "^C":
            steps.append(Step(terminal, "press", line))
        elif line.startswith("$ "):
            steps += [Step(terminal, "type", line[2:]), Step(terminal, "see", rest)]
    return [step for step in steps if step.text]


def typed(page: str) -> list[str]:
    """Return the commands of a page, in order."""
    return [step.text for step in steps_of(page) if step.kind == "type"]


class Terminal:
    """A terminal in which one program keeps running."""

    def __init__(self, command: str, folder: Path, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=folder,
            env={**env, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def see(self, text: str) -> None:
        """Read as much output as the page shows, and compare it."""
        stream = self._process.stdout
        assert stream is not None
        timer = threading.Timer(LIMIT, self._process.kill)
        timer.start()
        seen = "".join(stream.readline() for _ in text.splitlines())
        timer.cancel()
        assert seen == text, f"the page has {text!r}, and the program said {seen!r}"

    def press(self) -> None:
        """Press Ctrl-C, and wait for the program to end."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(LIMIT)

    def close(self) -> None:
        """End the program in any case."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def follow(
    page: str,
    folder: Path,
    env: Mapping[str, str],
    change: Callable[[str], str] = lambda text: text,
    skip: str = "(?!)",
) -> None:
    """Follow a page step by step.

    Args:
        page: the name of the page, such as tutorial.md.
        folder: the working directory of the reader.
        env: the environment of each command.
        change: replacements in what is typed and saved.
        skip: a pattern of commands to leave out.
    """
    with ExitStack() as open_terminals:
        terminals: dict[str, Terminal] = {}
        output = ""
        for terminal, kind, text in steps_of(page):
            if kind == "save":
                program = DOCS / text.lstrip("/")
                (folder / program.name).write_text(change(program.read_text()))
            elif kind == "type" and re.match(skip, text):
                output = ""
            elif kind == "type" and terminal:
                terminals[terminal] = Terminal(change(text), folder, env)
                open_terminals.callback(terminals[terminal].close)
            elif kind == "type":
                output = run(change(text), folder, env)
            elif kind == "press":
                terminals[terminal].press()
            elif terminal:
                terminals[terminal].see(text)
            else:
                assert output == text, f"the page has {text!r}, and it was {output!r}"


def run(command: str, folder: Path, env: Mapping[str, str]) -> str:
    """Run a command to its end; return its output."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        timeout=1800,
        check=True,
    )
    return done.stdout
