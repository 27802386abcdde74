"""What several tests of the how-to pages need."""

from __future__ import annotations

import re
import shlex

from tests.support.cli import PROGRAM
from tests.support.programs import blocks


def cli_command(page: str) -> list[str]:
    """The call of trio-etcd-watch that a page shows, without what its output goes to."""
    lines = "".join(blocks(page, "console")).splitlines()
    (call,) = (line for line in lines if line.startswith("$ trio-etcd-watch "))
    _, _, *arguments = shlex.split(re.split(r"[|>]", call)[0])
    return [*PROGRAM, *arguments]
