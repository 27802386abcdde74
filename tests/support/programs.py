"""Runs the programs of the documentation as readers do, and extracts pages' blocks.

    async with open_program("hot_reload.py", etcd.endpoint) as program:
        await program.lines(1)

The endpoint in a program, 127.0.0.1:2379, is replaced by that of the test. The program
runs in a copy, with the folder of the copy as its working directory.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

from tests.support.cli import Cli, open_command

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PROGRAMS = DOCS / "programs"
ENDPOINT = "127.0.0.1:2379"


def write_program(
    folder: Path, name: str, endpoint: str | None, replaced: Mapping[str, str]
) -> Path:
    """Copy a program with this endpoint and all other replacements made."""
    text = (PROGRAMS / name).read_text()
    replaced = replaced if endpoint is None else {ENDPOINT: endpoint, **replaced}
    for old, new in replaced.items():
        assert old in text, f"{name} has no {old}"
        text = text.replace(old, new)
    copy = folder / name
    copy.write_text(text)
    return copy


@asynccontextmanager
async def open_program(
    name: str,
    endpoint: str | None,
    *arguments: str,
    replaced: Mapping[str, str] = MappingProxyType({}),
    folder: Path | None = None,
    **env: str,
) -> AsyncGenerator[Cli]:
    """Run a program for the length of the block.

    Args:
        name: the name of the file in docs/programs.
        endpoint: replaces 127.0.0.1:2379 in it; None if it has no endpoint.
        arguments: the arguments of the program.
        replaced: further replacements in its text, such as a port.
        folder: the working directory; by default one that is removed afterwards. The
            test puts what the program reads (a certificate, a bookmark) there.
        env: further variables.
    """
    with tempfile.TemporaryDirectory() as default:
        where = folder or Path(default)
        program = write_program(where, name, endpoint, replaced)
        command = [sys.executable, "-u", str(program), *arguments]
        async with open_command(command, env, where) as running:
            yield running


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of a language (`text`, `console`, ...) of a page."""
    text = (DOCS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
