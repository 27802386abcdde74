"""The examples in the package's docstrings run unchanged."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import trio_etcd_watch
from tests.support.helpers import LIMIT
from trio_etcd_watch import testing

(FOLDER,) = (Path(path) for path in trio_etcd_watch.__path__)
MODULES = sorted(path for path in FOLDER.rglob("*.py") if path.parent.name != "_pb")

NO_PYTHON = {"_errors.py", "_live_stream.py"}
"""Files whose indented text is no Python: a tree of exceptions, a diagram."""


def examples() -> Iterator[tuple[str, str]]:
    """Yield the indented blocks of all docstrings, each with its place."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for path in MODULES:
        nodes = ast.walk(ast.parse(path.read_text()))
        docs = [
            ast.get_docstring(node) for node in nodes if isinstance(node, documented)
        ]
        found = re.findall(
            r"\n\n((?: {4}.*\n?|\n(?= {4}))+)", "\n\n".join(filter(None, docs))
        )
        for number, block in enumerate(found):
            name = path.relative_to(FOLDER).as_posix()
            if name not in NO_PYTHON:
                yield f"{name} {number}", textwrap.dedent(block)


EXAMPLES = dict(examples())


def test_examples_are_found() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("name", EXAMPLES)
async def test_example_runs(
    name: str, newest_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_ETCD_WATCH_ETCD", newest_binary)
    program = f"async def example():\n{textwrap.indent(EXAMPLES[name], '    ')}"
    names = {**vars(trio_etcd_watch), **vars(testing), "__name__": "example"}
    exec(compile(program, name, "exec"), names)
    with trio.fail_after(LIMIT):
        await names["example"]()


def test_what_prompts_show() -> None:
    for path in MODULES:
        parts = path.relative_to(FOLDER.parent).with_suffix("").parts
        module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
        assert doctest.testmod(module).failed == 0
