"""Checks that mypy and pyright see the types of the library as they should.

    python -m tests.typing

All public names have complete types. Both checkers accept `uses.py`, and refuse exactly
the lines of `misuses.py` that are marked. Pyright runs as basedpyright, which includes
its own Node.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MISUSES = HERE / "misuses.py"
REFUSED = "  # refused"


def run(module: str, *arguments: object) -> str:
    """Run a checker of this environment; return its standard output."""
    environment = {
        # basedpyright looks there for installed packages.
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}",
        # This tree is checked, wherever the installed package comes from.
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        cwd=ROOT,
        check=False,
    )
    return done.stdout


def of_mypy(file: Path) -> set[int]:
    """Return the lines in which mypy finds an error."""
    output = run("mypy", "--output=json", "--no-warn-unused-ignores", file)
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    errors = [each for each in found if each["severity"] == "error"]
    return {each["line"] for each in errors}


def of_pyright(file: Path) -> set[int]:
    """Return the lines in which pyright finds an error."""
    found = json.loads(run("basedpyright", "--level=error", "--outputjson", file))
    return {
        each["range"]["start"]["line"] + 1
        for each in found["generalDiagnostics"]
        if each["severity"] == "error"
    }


def main() -> None:
    """Exit with what is wrong, if anything is."""
    refused = {
        number
        for number, line in enumerate(MISUSES.read_text().splitlines(), 1)
        if line.endswith(REFUSED)
    }
    wrong = []
    for name, errors_in in (("mypy", of_mypy), ("pyright", of_pyright)):
        if lines := errors_in(HERE / "uses.py"):
            wrong.append(f"{name} refuses lines {sorted(lines)} of uses.py")
        if lines := errors_in(MISUSES) ^ refused:
            wrong.append(
                f"{name} disagrees about lines {sorted(lines)} of {MISUSES.name}"
            )
    report = run("basedpyright", "--verifytypes", "trio_etcd_watch", "--ignoreexternal")
    wanted = (
        f'\nPackage directory: "{ROOT / "trio_etcd_watch"}"\n',
        "\nType completeness score: 100%\n",
    )
    if not all(each in report for each in wanted):
        wrong.append(report)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
