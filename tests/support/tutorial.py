"""Follows the tutorial literally, in an empty environment: a program.

    python -m tests.support.tutorial [PAGE ...]

Then it installs what each other page says, in an empty environment for each, and
imports what the programs of the page import. `pip install` finds the wheel of this
tree; what that requires comes from the package index. Port 2379 has to be free.
Benchmarks that take minutes run in this tree, and only if their page is named.
"""

from __future__ import annotations

import ast
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.pages import INSTALLS, LONG, follow, run, steps_of, typed
from tests.support.programs import DOCS, ROOT
from tests.support.wheels import build

PAGE = "tutorial.md"
NAME = "trio-etcd-watch"
SRV = "import trio_etcd_watch; trio_etcd_watch.Channel('etcd+srv://example.com')"
"""Raises an exception if dnspython is missing."""


def environment(desk: Path, programs: Path, wheel: Path) -> dict[str, str]:
    """Return the environment of a reader whose virtual environment is .venv there."""
    path = [desk / ".venv/bin", programs, "/usr/local/bin", "/usr/bin", "/bin"]
    return {k: v for k, v in os.environ.items() if k.startswith("PIP_")} | {
        "HOME": str(desk),
        "PATH": os.pathsep.join(map(str, path)),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_FIND_LINKS": str(wheel.parent),
    }


def imported(page: str) -> set[str]:
    """Return the modules that the programs of a page import."""
    names: set[str] = set()
    for kind, text in ((step.kind, step.text) for step in steps_of(page)):
        if kind == "save":
            base = DOCS if text.startswith("/") else (DOCS / page).parent
            for node in ast.walk(ast.parse((base / text.lstrip("/")).read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module)
    return names


def install(page: str, folder: Path, env: Mapping[str, str]) -> None:
    """Install what the page says, and check that its programs can be imported."""
    commands = [each for each in typed(page) if each.startswith(INSTALLS)]
    run("python3 -m venv .venv", folder, env)
    if not any(NAME in command for command in commands):
        commands.insert(0, f"{INSTALLS}{NAME}")
    for command in commands:
        run(command, folder, env)
    needed = "; ".join(f"import {name}" for name in sorted(imported(page)))
    run(f"python -c {shlex.quote(needed)}", folder, env)
    if "dnspython" in (DOCS / page).read_text():
        run(f"python -c {shlex.quote(SRV)}", folder, env)
    print(f"{page}: {len(commands)} commands, and {len(imported(page))} modules")


def main(chosen: list[str]) -> None:
    """Build the wheel, and follow these pages, by default all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        wheel = build(folder / "build", os.environ.get("CC", "cc"))
        programs = folder / "bin"
        programs.mkdir()
        # Nothing else from the environment of this run is on the path.
        (programs / "python3").symlink_to(Path(sys.executable).resolve())
        pages = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
        for number, page in enumerate(chosen or pages):
            for command in LONG.get(page, ()) if chosen else ():
                # The arguments of the make that runs this are not for it.
                env = {**os.environ, "MAKEFLAGS": ""}
                print(f"{page}: {command}", run(command, ROOT, env), sep="\n")
            desk = folder / f"desk-{number}"
            desk.mkdir()
            env = environment(desk, programs, wheel)
            if page == PAGE:
                follow(PAGE, desk, env)
                print(f"{PAGE}: {len(steps_of(PAGE))} steps, with {wheel.name}")
            elif any(each.startswith(INSTALLS) for each in typed(page)):
                install(page, desk, env)


if __name__ == "__main__":
    main(sys.argv[1:])
