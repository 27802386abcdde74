"""Follows the tutorial to the letter, in an empty environment: a program.

    python -m tests.support.tutorial

`pip install` finds the wheel of this tree; what that requires comes from the package index.
Port 2379 has to be free.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.support.pages import follow, steps_of
from tests.support.wheels import build

PAGE = "tutorial.md"


def main() -> None:
    """Build the wheel, and do what the page says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        wheel = build(folder / "build", os.environ.get("CC", "cc"))
        programs, desk = folder / "bin", folder / "desk"
        programs.mkdir()
        desk.mkdir()
        # Nothing of the environment that runs this is on the path.
        (programs / "python3").symlink_to(Path(sys.executable).resolve())
        path = [desk / ".venv/bin", programs, "/usr/local/bin", "/usr/bin", "/bin"]
        env = {k: v for k, v in os.environ.items() if k.startswith("PIP_")} | {
            "HOME": str(desk),
            "PATH": os.pathsep.join(map(str, path)),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_FIND_LINKS": str(wheel.parent),
        }
        follow(PAGE, desk, env)
        print(f"{PAGE}: {len(steps_of(PAGE))} steps, with {wheel.name}")


if __name__ == "__main__":
    main()
