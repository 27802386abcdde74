"""The page on troubleshooting has each log line, and each error of the library."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import trio_etcd_watch

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
MODULES = [
    module
    for module in sorted((ROOT / "trio_etcd_watch").rglob("*.py"))
    # Generated code, a user's server, and a program with its own output.
    if not {"_pb", "testing", "_cli"} & set(module.parts)
]

LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}

SPEAKERS = LEVELS | {"_tell", "_warn"}
"""Methods that get a line and its values; the latter pass it to `warning()`."""

OUTAGES = ("watch stream", "answer to a read")
"""What is missing, according to the lines of `Outage`."""

LEFT_OUT = {
    "a URL of member … is left out: …",
    "only the first … URLs of members are looked at",
}
"""Lines that other modules return for `_following` to log."""


def gaps(text: str) -> str:
    """Return a line with "…" for each value in it."""
    return re.sub(r"%[.\d]*[sdgf]", "…", text)


def joined(parts: Sequence[ast.expr]) -> str:
    """Return an f-string with "…" for each value in it."""
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts
    )


def texts(node: ast.expr) -> set[str]:
    """Return the lines that an expression may evaluate to; none without a text."""
    match node:
        case ast.Constant(str() as text):
            return {gaps(text)}
        case ast.JoinedStr(parts):
            whole = joined(parts)
            return {gaps(whole.replace("…", what)) for what in OUTAGES}
    return set()


def lines_of(module: Path) -> Iterator[str]:
    """Yield the lines that a module logs."""
    tree = ast.parse(module.read_text())
    names = {
        target.id: texts(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(ast.Attribute(attr=name), [_, *_] as arguments) if (
                name in SPEAKERS
            ):
                # `_warn()` of `Outage` has the time before the line.
                given = next(arg for arg in arguments[:2] if ast.unparse(arg) != "now")
                found = texts(given)
                if isinstance(given, ast.Name):
                    found = names.get(given.id, set())
                yield from found
                # A call that passes on another line has no line of its own.
                assert found or ast.unparse(given) == "line", ast.unparse(node)


def logged() -> set[str]:
    """Return all lines with words of their own."""
    lines = {line for module in MODULES for line in lines_of(module)}
    resumed = {f"{what} resumed after … tries in … s" for what in OUTAGES}
    bare = {"…: …", "…"}
    assert "… resumed after … tries in … s" in lines
    assert bare <= lines
    return lines - bare - {"… resumed after … tries in … s"} | resumed | LEFT_OUT


def test_each_line_of_the_log_is_explained() -> None:
    headings = set(re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE))
    lines = logged()
    assert len(lines) >= 15
    assert lines - headings == set()
    # Lines of `_srv`, which are also reasons.
    assert {line for line in headings - lines if not line.startswith("…")} == {
        "target … is outside …, and may be forged"
    }
    assert {line for line in headings - lines if line.startswith("…")} == {
        "… resolves to …"
    }


def words() -> str:
    """Return all texts in the sources, each with "…" for the values in it."""
    found = []
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            match node:
                case ast.JoinedStr(parts):
                    found.append(joined(parts))
                case ast.Constant(str() as text):
                    found.append(text)
    return "\n".join(found)


def test_reasons_are_the_librarys() -> None:
    """In the first column; texts of other programs are marked as such."""
    sources = words()
    reasons = [
        reason
        for row in re.findall(r"^\| (`.+?) \| ", PAGE, re.MULTILINE)
        if "other words of" not in row and "Hostname mismatch" not in row
        for reason in re.findall(r"`([^`]* [^`]*)`", row)
    ]
    assert len(reasons) >= 40
    missing = [
        part
        for reason in reasons
        for part in re.split("…|: |; ", reason.removeprefix("RuntimeError: "))
        if part.strip(" :;,()") and part.strip(" :;,()") not in sources
    ]
    assert missing == []


def test_each_error_is_explained() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    errors = {
        name
        for name in trio_etcd_watch.__all__
        if isinstance(getattr(trio_etcd_watch, name), type)
        and issubclass(getattr(trio_etcd_watch, name), Exception)
    }
    assert len(errors) == 10
    assert errors - explained == set()
