"""The layers of the package: which module may import which, and the public names."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import cast

import pytest

import trio_etcd_watch

PACKAGE = "trio_etcd_watch"
ROOT = Path(__file__).parents[2]

# Modules without I/O, time or randomness: their arguments alone determine what they do,
# so that tests can replay it.
SANS_IO = [
    "_arguments",
    "_backoff",
    "_chain",
    "_changes",
    "_cli.arguments",
    "_cli.bookmark",
    "_cli.failures",
    "_cli.printing",
    "_cli.progress",
    "_batches",
    "_columns",
    "_creations",
    "_cursor",
    "_endpoints",
    "_errors",
    "_face",
    "_fragments",
    "_grpc.frames",
    "_grpc.messages",
    "_grpc.reading",
    "_grpc.steps",
    "_lifecycle",
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
    "_pages",
    "_replica",
    "_requests",
    "_responses",
    "_session",
    "_snapshot",
    "testing._factories",
    "testing._store",
    "_statistics",
    "_subscription",
    "_tokens",
    "_twins",
    "_views",
]
HTTP2 = {"h2", "hpack", "hyperframe"}

IMPURE = {"trio", "purerpc", "socket", "time", "random"} | HTTP2

LAYERS: dict[str, str] = {
    "tools that know no etcd": """
        _backoff _face _log _outage _parsing _purerpc _statistics _twins
    """,
    "HTTP/2 and gRPC": """
        _grpc _grpc.connection _grpc.frames _grpc.http2 _grpc.keepalive _grpc.messages
        _grpc.metadata _grpc.reading _grpc.status _grpc.steps
    """,
    "values: what is sent, what came, and what it means": """
        _pb _pb.columns_pb2 _pb.watch_pb2 _arguments _changes _columns _cursor _errors
        _mapping _pages _pure _requests _responses _verdicts
    """,
    "rules: one stream with its watches; a range at a revision": """
        _batches _chain _creations _fragments _lifecycle _replica _roster _session _snapshot
        _subscription _tokens _views
    """,
    "the cluster: where it is, and a connection to it": """
        _authentication _channel _connector _dialer _discovery _endpoints _following
        _members _resolver _rotation _srv _tls
    """,
    "what goes on over a connection: watches, reads, mirrors": """
        _follower _inbox _live_stream _mirror _reads _stream _watch
    """,
    "the way in": "_opening _options _range_calls _watcher",
    "what imports all of it": "testing _cli",
}
"""From bottom to top: a module imports from its own layer and from those below. The last
layer is folders, which import the package as its users do; no module imports them."""

TYPE_ONLY_CIRCLE = {
    # An error holds the response that it was made from, and a response raises it.
    ("_errors", "_responses"),
    ("_verdicts", "_responses"),
}
"""Pairs of importer and imported: imports for type checkers alone that close a circle."""

TESTED_ELSEWHERE = {
    "": "imports only: its names are tested here",
    ".__main__": "one call: test_cli.py runs it",
    "._cli.commands": "on real servers: test_cli.py, test_cli_bookmark.py",
    "._cli.run": "as processes: test_cli_ends.py, test_cli_terminal.py",
    ".testing._fixtures": "used by other tests under pytest: test_testing.py",
    ".testing._servers": "what `testing` opens: test_testing.py",
    ".testing._memory": "between a watcher and a scripted etcd: test_scripted.py",
    "._grpc": "a docstring only",
    "._pb.columns_pb2": "generated: test_pb.py",
    "._pb.watch_pb2": "generated: test_pb.py",
    "._endpoints": "what a channel accepts as endpoints: test_channel.py",
    "._options": "a type only: python -m tests.typing",
    "._range_calls": "each call has a file: test_watcher.py, test_reads.py, test_mirror.py",
    "._pure": "the values that it makes: test_values.py",
    "._creations": "a queue that only `_session` works with: test_session.py",
    "._pages": "what a reply is decoded to: test_snapshot.py, test_speedups.py",
    "._authentication": "used by the connector alone: test_connector.py",
    "._views": "over a replica: test_changes.py, test_replica.py",
    "._opening": "the block of a watcher: test_watcher.py",
    "._twins": "which decoder runs: test_speedups.py",
    "._statistics": "only data: test_watcher.py",
}
"""Modules without a test file of their name, with the reason."""

PUBLIC = {
    "Changes",
    "Events",
    "Metadata",
    "MetadataLike",
    "PrefixView",
    "PurerpcChannel",
    "TokenSource",
    "WatchOptions",
    "WatchState",
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
    """Return the file of a dotted name, or None if it is no module of this package."""
    path = ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def modules() -> list[str]:
    """Return the dotted names of all modules of this package."""
    files = (ROOT / PACKAGE).rglob("*.py")
    parts = [file.relative_to(ROOT).with_suffix("").parts for file in files]
    return sorted(".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts)


def for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def statements(node: ast.AST, *, types: bool) -> Iterator[ast.AST]:
    """Yield all nodes below a node; with `types`, also those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if types or not for_types_alone(child):
            yield child
            yield from statements(child, types=types)


def imports(module: str, *, types: bool = True) -> set[str]:
    """Return the dotted names that a module of this package imports itself.

    Imports inside functions count. With `types`, so do those for type checkers alone,
    since an annotation depends on the other module, too.
    """
    file = source_of(module)
    assert file is not None, f"{module} does not exist: remove it from the list"
    package = module.split(".")
    if file.name != "__init__.py":
        package.pop()

    found: set[str] = set()
    for node in statements(ast.parse(file.read_text(), file), types=types):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                submodule = f"{origin}.{alias.name}"
                found.add(submodule if source_of(submodule) else origin)
    return found


def own(names: Iterable[str]) -> set[str]:
    """Return the names in this package, relative to it."""
    dotted = (name for name in names if name.startswith(f"{PACKAGE}."))
    return {name.removeprefix(f"{PACKAGE}.") for name in dotted}


def layer_of(name: str) -> int:
    """Return the number of a module's layer, from the bottom."""
    for number, layer in enumerate(LAYERS.values()):
        if name in layer.split():
            return number
    assert name.partition(".")[0] in {"testing", "_cli", "__main__"}, (
        f"{name} has no place in LAYERS"
    )
    return len(LAYERS) - 1


def reach(module: str) -> dict[str, str]:
    """Follow the imports of a module through all modules of this package.

    Returns:
        The top-level name of each foreign module, with the module that imports it.
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


@pytest.mark.parametrize("name", sorted(own(modules())))
def test_no_module_imports_upward(name: str) -> None:
    imported = own(imports(f"{PACKAGE}.{name}"))
    here = layer_of(name)
    assert [other for other in imported if layer_of(other) > here] == []


def test_each_module_has_one_layer() -> None:
    named = [name for layer in LAYERS.values() for name in layer.split()]
    assert len(named) == len(set(named))
    assert set(named) <= own(modules())


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle; none if there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return cast("list[str]", exc.args[1])
    return []


def test_no_circle() -> None:
    # `from . import _pure` does not count as an import of the package itself.
    graph = {name: own(imports(f"{PACKAGE}.{name}")) for name in own(modules())}
    at_run_time = {
        name: own(imports(f"{PACKAGE}.{name}", types=False)) for name in graph
    }
    assert circle(at_run_time) == []
    for importer, imported in TYPE_ONLY_CIRCLE:
        assert imported in graph[importer] - at_run_time[importer]
    for excused in [set(), *(TYPE_ONLY_CIRCLE - {one} for one in TYPE_ONLY_CIRCLE)]:
        assert circle(without(graph, excused)), "one of TYPE_ONLY_CIRCLE is none"
    assert circle(without(graph, TYPE_ONLY_CIRCLE)) == []


def without(
    graph: dict[str, set[str]], edges: set[tuple[str, str]]
) -> dict[str, set[str]]:
    return {
        importer: {name for name in names if (importer, name) not in edges}
        for importer, names in graph.items()
    }


def test_grpc_knows_nothing_of_etcd() -> None:
    for name in own(modules()):
        if name.partition(".")[0] == "_grpc":
            others = own(imports(f"{PACKAGE}.{name}"))
            assert {n for n in others if n.partition(".")[0] != "_grpc"} <= {"_twins"}


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
"""Modules that are imported only for SRV records or for following members."""


def test_without_srv_and_following_their_modules_are_not_imported() -> None:
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
