"""No file cites a rule by number, or a document outside the repository.

Each rule has a name (docs/explanation/guarantees.md), which code and tests cite.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

MADE = {"build", "dist"}
HISTORY = {"CHANGELOG.md", "NOTICE"}
"""Files that describe the past."""

# The brackets keep this line from matching itself.
FOREIGN = re.compile(r"[r]ule [0-9]|[s]ection [0-9]|the [d]esign|the [s]eed")


def texts() -> Iterator[Path]:
    """Yield all files of the tree but those that are built or about the past."""
    folders = [ROOT / ".github", ROOT / ".ci"]
    for path in sorted(ROOT.iterdir()):
        if path.name in MADE | HISTORY or path.name.startswith("."):
            continue
        if path.is_dir():
            folders.append(path)
        else:
            yield path
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file())


def test_no_rule_by_number_and_no_document_from_elsewhere() -> None:
    found = []
    for path in texts():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a picture, or a compiled file
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            for number, line in enumerate(lines, 1)
            if FOREIGN.search(line)
        ]
    assert found == []
