"""Checks the documentation that was built: a program, which `make docs` runs.

    python -m tests.support.built_docs build/docs

Each public name must be in the reference and be found by a search; the target of each
link to a page, or to an anchor on a page, must exist. This program needs only the
standard library and this package.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

from tests.support.public import public_names


class _Page(HTMLParser):
    """The links of a page, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.places.add(value or "")
            elif (name == "href" and tag in {"a", "link"}) or name == "src":
                self.links.add(value or "")


def dead_links(folder: Path) -> list[str]:
    """Return the links within the site whose target does not exist."""
    pages = {path: _Page(path.read_text()) for path in folder.rglob("*.html")}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:|//", link):
                continue
            file, place = urldefrag(link)
            file = file.partition("?")[0]
            target = (path.parent / unquote(file)).resolve() if file else path
            if not target.exists() or (
                target in pages and unquote(place) not in pages[target].places
            ):
                dead.append(f"{path.relative_to(folder)}: {link}")
    return dead


def names_in_inventory(folder: Path) -> set[str]:
    """Return the Python names in objects.inv."""
    data = (folder / "objects.inv").read_bytes()
    # The file begins with four lines of text.
    rest = data.split(b"\n", 4)[4]
    lines = zlib.decompress(rest).decode().splitlines()
    return {line.split()[0] for line in lines if line.split()[1].startswith("py:")}


def names_in_search(folder: Path) -> set[str]:
    """Return the names that a search finds as objects."""
    text = (folder / "searchindex.js").read_text()
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    return {
        f"{prefix}.{entry[-1]}".lstrip(".")
        for prefix, entries in index["objects"].items()
        for entry in entries
    }


def main(folder: Path) -> None:
    """Print what is wrong, and fail if anything is."""
    names = public_names()
    missing = names - names_in_inventory(folder)
    unfound = names - names_in_search(folder)
    dead = dead_links(folder)
    for text, found in (
        ("not in the reference", missing),
        ("not found by a search", unfound),
        ("a link that leads nowhere", dead),
    ):
        for each in sorted(found):
            print(f"{text}: {each}")
    if missing or unfound or dead:
        sys.exit(1)
    pages = len(list(folder.rglob("*.html")))
    print(
        f"{len(names)} public names are found, and all links of {pages} pages lead on"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
