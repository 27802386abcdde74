"""Follows a page of the documentation as its reader does, in several terminals.

The steps are the page's blocks. A program that is included is saved under its name. In a
block of `console` each line with `$` is typed, `^C` is pressed, and all else is what comes
out; a block of `text` is what comes out of a program that runs on. Which terminal a block
belongs to is said by a comment before it, `% terminal: NAME`. Without one it is the first,
where a command is waited for; in the others it runs on.
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
"""Seconds after which a step is stuck."""

INSTALLS = "pip install "
"""How commands begin that `make docs-follow` runs, in empty environments."""

LONG = {
    "performance.md": ("make bench", ".venv/bin/python -m benchmarks.present"),
}
"""Commands of minutes, by page: only `make docs-follow ARGS=PAGE` runs them."""

BLOCK = re.compile(
    r"(?:^% terminal: (?P<terminal>\S+)\n)?"
    r"^```(?P<kind>console|text|\{literalinclude\} \S+)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Step(NamedTuple):
    """One thing that the reader does or sees."""

    terminal: str
    """Empty for the first."""
    kind: str
    """`save`, `type`, `press` or `see`."""
    text: str


def steps_of(page: str) -> list[Step]:
    """The steps of a page, such as tutorial.md."""
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
    """The commands of a page, in their order."""
    return [step.text for step in steps_of(page) if step.kind == "type"]


class Terminal:
    """A terminal in which one program runs on."""

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
        """Read as much as the page shows, and compare."""
        stream = self._process.stdout
        assert stream is not None
        timer = threading.Timer(LIMIT, self._process.kill)
        timer.start()
        seen = "".join(stream.readline() for _ in text.splitlines())
        timer.cancel()
        assert seen == text, f"the page has {text!r}, and the program said {seen!r}"

    def press(self) -> None:
        """Press Ctrl-C, and wait for the end."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(LIMIT)

    def close(self) -> None:
        """End it in any case."""
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
    """Do what the page says, step by step.

    Args:
        page: such as tutorial.md.
        folder: where the reader is.
        env: the environment of each command.
        change: what is typed, and saved, instead.
        skip: a pattern of commands that are left out.
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
    """Type a command, and wait for its end; return what it says."""
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
