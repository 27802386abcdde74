"""The programs of the documentation, run as its reader would; and what its pages show.

    async with open_program("hot_reload.py", etcd.endpoint) as program:
        await program.lines(1)

A program has 127.0.0.1:2379 for the endpoint, in place of which the test's own is put. It
runs in a copy, in a folder of its own, which is the working directory too.
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
    """Copy it with this endpoint, and with what else is replaced, which must occur."""
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
    """Run a program while the block lasts.

    Args:
        name: of the file in docs/programs.
        endpoint: stands for 127.0.0.1:2379 in it; None if it has no endpoint.
        arguments: what it is called with.
        replaced: what else is replaced in its text, such as a port.
        folder: where it runs; by default in one that is removed afterwards. Whatever it
            reads (a certificate, a bookmark) is put there by the test.
        env: further variables.
    """
    with tempfile.TemporaryDirectory() as default:
        where = folder or Path(default)
        program = write_program(where, name, endpoint, replaced)
        command = [sys.executable, "-u", str(program), *arguments]
        async with open_command(command, env, where) as running:
            yield running


def blocks(page: str, language: str) -> list[str]:
    """The blocks of one language (`text`, `console`, ...) of a page, such as howto/tls.md."""
    text = (DOCS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
