"""The map of the package: who may import what, and which names are public."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import trio_etcd_watch

PACKAGE = "trio_etcd_watch"
ROOT = Path(__file__).parents[2]

# Modules that may know neither I/O nor time nor chance: what they do is decided by
# their arguments alone, so that tests can replay it.
SANS_IO = [
    "_backoff",
    "_chain",
    "_changes",
    "_cli.arguments",
    "_cli.bookmark",
    "_cli.failures",
    "_cli.printing",
    "_cli.progress",
    "_columns",
    "_creations",
    "_cursor",
    "_endpoints",
    "_errors",
    "_fragments",
    "_grpc.frames",
    "_grpc.messages",
    "_log",
    "_members",
    "_outage",
    "_parsing",
    "_verdicts",
    "_grpc.metadata",
    "_grpc.status",
    "_pure",
    "_roster",
    "_rotation",
    "_srv",
    "_mapping",
    "_replica",
    "_runs",
    "_requests",
    "_responses",
    "_session",
    "_snapshot",
    "testing._factories",
    "testing._store",
    "_statistics",
    "_subscription",
    "_twins",
]
IMPURE = {"trio", "purerpc", "socket", "time", "random"}

HTTP2 = {"h2", "hpack", "hyperframe"}

TESTED_ELSEWHERE = {
    "": "imports only: its names are looked at here",
    ".__main__": "one call: test_cli.py runs it",
    "._cli.commands": "on real servers: test_cli.py, test_cli_bookmark.py",
    "._cli.run": "as processes: test_cli_ends.py, test_cli_terminal.py",
    ".testing._memory": "between a watcher and a scripted etcd: test_scripted.py",
    "._grpc": "a docstring only",
    "._pb.columns_pb2": "generated: test_pb.py",
    "._pb.watch_pb2": "generated: test_pb.py",
    "._endpoints": "what a channel takes for endpoints: test_channel.py",
    "._pure": "the values that it makes: test_values.py",
    "._creations": "a queue that only `_session` works with: test_session.py",
    "._opening": "the block of a watcher: test_watcher.py",
    "._twins": "which decoder runs: test_speedups.py",
    "._roster": "the half of `_session` that knows no replies: test_session.py",
    "._statistics": "nothing but data: test_watcher.py",
    "._subscription": "nothing but data, which `_session` works on: test_session.py",
}
"""Modules without a test file of their name, and why."""

PUBLIC = {
    "open_watcher",
    "Channel",
    "Credentials",
    "Watcher",
    "Watch",
    "WatchResponse",
    "ResponseHeader",
    "EndpointStatistics",
    "Event",
    "EventType",
    "KeyValue",
    "WatchError",
    "WatchCanceledError",
    "CompactedError",
    "PermissionDeniedError",
    "FutureRevisionError",
    "HistoryLostError",
    "RpcError",
    "Change",
    "Mirror",
    "MirrorStatistics",
    "MirrorUpdate",
    "Snapshot",
    "StatusCode",
    "NoLeaderError",
    "AuthenticationError",
    "ClusterChangedError",
    "WatcherStatistics",
    "WatchStatistics",
}


def source_of(module: str) -> Path | None:
    """The file of a dotted name, if it is a module of this package."""
    path = ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def modules() -> list[str]:
    """The dotted names of all modules of this package."""
    files = (ROOT / PACKAGE).rglob("*.py")
    parts = [file.relative_to(ROOT).with_suffix("").parts for file in files]
    return sorted(".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts)


def imports(module: str) -> set[str]:
    """The dotted names that a module of this package imports itself.

    Imports for the type checker alone count: an annotation is knowledge too.
    """
    file = source_of(module)
    assert file is not None, f"{module} is gone: take it off the list"
    package = module.split(".")
    if file.name != "__init__.py":
        package.pop()

    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(), file)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                submodule = f"{origin}.{alias.name}"
                found.add(submodule if source_of(submodule) else origin)
    return found


def reach(module: str) -> dict[str, str]:
    """All that a module imports, by way of this package's modules too.

    Returns:
        The top-level name of each foreign module, and who imports it.
    """
    foreign: dict[str, str] = {}
    seen, waiting = {module}, [module]
    while waiting:
        importer = waiting.pop()
        for name in imports(importer):
            if source_of(name) is None:
                foreign[name.partition(".")[0]] = importer
            elif name not in seen:
                seen.add(name)
                waiting.append(name)
    return foreign


@pytest.mark.parametrize("name", SANS_IO)
def test_sans_io_modules_reach_nothing_impure(name: str) -> None:
    foreign = reach(f"{PACKAGE}.{name}")
    assert {top: by for top, by in foreign.items() if top in IMPURE} == {}


def test_the_walk_sees_imports_through_other_modules() -> None:
    assert "google" in reach(f"{PACKAGE}._session")  # by way of _requests and _pb
    assert IMPURE & reach(f"{PACKAGE}._stream").keys()


def test_only_http2_imports_h2() -> None:
    importers = {
        module
        for module in modules()
        if HTTP2 & {name.partition(".")[0] for name in imports(module)}
    }
    assert importers == {f"{PACKAGE}._grpc.http2"}


def test_only_the_program_imports_the_command_line() -> None:
    program = f"{PACKAGE}.__main__"
    assert f"{PACKAGE}._cli.run" in imports(program)
    importers = {
        module
        for module in modules()
        if any(name.startswith(f"{PACKAGE}._cli") for name in imports(module))
    }
    assert {each for each in importers if f"{PACKAGE}._cli" not in each} == {program}
    assert not any(program in imports(module) for module in modules())


def test_only_the_resolver_imports_dnspython() -> None:
    importers = {
        module
        for module in modules()
        if "dns" in {name.partition(".")[0] for name in imports(module)}
    }
    assert importers == {f"{PACKAGE}._resolver"}


LAZY = ("_resolver", "_discovery", "_srv", "_following", "_members")
"""What only those import who look up names, or follow members."""


def test_who_wants_neither_names_nor_members_imports_nothing_for_them() -> None:
    program = f"""
import sys
sys.modules["dns"] = None  # as if it were not there
import trio
import {PACKAGE} as package
async def main():
    async with package.open_watcher(package.Channel("https://etcd:2379")):
        pass
trio.run(main)
assert not [name for name in {LAZY} if "{PACKAGE}." + name in sys.modules]
assert [name for name in sys.modules if name.split(".")[0] == "dns"] == ["dns"]
async def follow():
    channel = package.Channel("https://etcd:2379", follow_members=True)
    async with package.open_watcher(channel):
        pass
trio.run(follow)
assert "{PACKAGE}._members" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_public_names() -> None:
    assert set(trio_etcd_watch.__all__) == PUBLIC
    assert [name for name in PUBLIC if not hasattr(trio_etcd_watch, name)] == []


def test_modules_are_private() -> None:
    children = {module.split(".")[1] for module in modules() if "." in module}
    assert {name for name in children if not name.startswith("_")} == {"testing"}


def test_each_module_has_a_test_file_of_its_name() -> None:
    files = {file.stem for file in (ROOT / "tests").rglob("test_*.py")}
    names = {module: module.rpartition(".")[2].lstrip("_") for module in modules()}
    without = {module for module, name in names.items() if f"test_{name}" not in files}
    assert without == {f"{PACKAGE}{module}" for module in TESTED_ELSEWHERE}
