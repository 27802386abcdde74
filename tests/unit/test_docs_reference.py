"""The reference has every public name, and every flag of the command line."""

from __future__ import annotations

import argparse
import re

from tests.support.programs import DOCS
from tests.support.public import names_of_testing, public_names
from trio_etcd_watch import __all__ as names
from trio_etcd_watch._cli import arguments

PAGES = {path.name: path.read_text() for path in (DOCS / "reference").glob("*.md")}
COMMANDS = PAGES["command-line.md"]


def entries() -> set[str]:
    """Return the full names of all entries."""
    found = set()
    for text in PAGES.values():
        module = ""
        for kind, name in re.findall(
            r"^\.\. (?:py:)?([\w-]+):: (\S+)$", text, re.MULTILINE
        ):
            if kind in {"module", "currentmodule"}:
                module = name
            else:
                found.add(f"{module}.{name}")
    return found


def test_each_public_name_has_an_entry() -> None:
    wanted = {f"trio_etcd_watch.{name}" for name in names}
    wanted |= {f"trio_etcd_watch.testing.{name}" for name in names_of_testing()}
    assert wanted <= public_names()
    assert wanted - entries() == set()


def parsers() -> dict[str, argparse.ArgumentParser]:
    (commands,) = (
        action.choices
        for action in arguments._parser("")._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    assert isinstance(commands, dict)
    return commands


def rows() -> dict[str, str]:
    """Return the text of the page for each flag, by its notation."""
    return dict(re.findall(r"^\| `(-.+?)` \| (.+) \|$", COMMANDS, re.MULTILINE))


def test_each_flag_is_on_the_page() -> None:
    shown = rows()
    wanted: dict[str, set[str]] = {}
    for command, parser in parsers().items():
        for action in parser._actions:
            if action.option_strings and action.help is not argparse.SUPPRESS:
                metavar = f" {action.metavar}" if action.metavar else ""
                flag = "`, `".join(action.option_strings) + metavar
                wanted.setdefault(flag, set()).add(command)
    assert set(shown) == set(wanted)
    for flag, commands in wanted.items():
        if len(commands) < len(parsers()):
            assert all(f"`{command}`" in shown[flag] for command in commands), flag


def test_variables_and_exit_codes_are_on_the_page() -> None:
    for name in re.findall(r"ETCDCTL_\w+", arguments.ENVIRONMENT):
        assert f"`{name}`" in COMMANDS
    codes = re.findall(r"^  ([\d, ]*\d)\b", arguments.EXIT_CODES, re.MULTILINE)
    shown = re.findall(r"^\| ([\d, ]+) \| ", COMMANDS, re.MULTILINE)
    assert shown == codes
