"""The public face: names, modules, docstrings, types, and who may construct what."""

from __future__ import annotations

import inspect
import pickle
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

import trio_etcd_watch
from trio_etcd_watch import (
    Change,
    Changes,
    EndpointStatistics,
    Event,
    Events,
    KeyValue,
    Mirror,
    MirrorStatistics,
    MirrorUpdate,
    PrefixView,
    ResponseHeader,
    Snapshot,
    Watch,
    Watcher,
    WatcherStatistics,
    WatchOptions,
    WatchResponse,
    WatchState,
    WatchStatistics,
    testing,
)
from trio_etcd_watch._face import NoPublicConstructor, construct, publish
from trio_etcd_watch._subscription import State
from trio_etcd_watch.testing import Etcd, key_value

FACES = (trio_etcd_watch, testing)
PUBLIC = [(face, name) for face in FACES for name in face.__all__]
OBJECTS = [getattr(face, name) for face, name in PUBLIC]
CLASSES = [each for each in OBJECTS if inspect.isclass(each)]
FUNCTIONS = [each for each in OBJECTS if inspect.isfunction(each)]
FROM_THE_LIBRARY = [
    Changes,
    Etcd,
    Event,
    Events,
    KeyValue,
    Mirror,
    PrefixView,
    Snapshot,
    Watch,
    WatchResponse,
    Watcher,
]

PRIVATE_PARAMETERS = {vars(cls).get("__init__") for cls in FROM_THE_LIBRARY}
"""Constructors that users never call, so their parameters are private."""


def members(cls: type) -> Iterator[tuple[str, object]]:
    """Yield the members of a class without those from base classes of other packages."""
    for base in cls.__mro__:
        if base.__module__.startswith("trio_etcd_watch"):
            yield from vars(base).items()


def signatures() -> dict[str, Callable[..., object]]:
    """Return all functions and methods that a user calls, and the properties."""
    found = {each.__qualname__: each for each in FUNCTIONS}
    for cls in CLASSES:
        for name, member in members(cls):
            call = member.fget if isinstance(member, property) else member
            call = getattr(call, "__func__", call)
            is_public = not name.startswith("_") or name in {"__init__", "__anext__"}
            if is_public and inspect.isfunction(call):
                found[f"{cls.__name__}.{name}"] = call
    return {
        name: call for name, call in found.items() if call not in PRIVATE_PARAMETERS
    }


def hints_of(thing: Callable[..., object]) -> dict[str, object]:
    """Return the type hints of a signature or of a class."""
    return typing.get_type_hints(thing, localns=vars(trio_etcd_watch))


def types_in(hint: object) -> Iterator[type]:
    """Yield the classes in a type hint."""
    if inspect.isclass(hint) and not isinstance(hint, types.GenericAlias):
        yield hint
    for part in typing.get_args(hint):
        yield from types_in(part)
        if isinstance(part, list):  # a list holds the parameters of a Callable
            for each in part:
                yield from types_in(each)


def is_exported(cls: type) -> bool:
    """Return whether users can import a class from its `__module__`."""
    face = {each.__name__: each for each in FACES}.get(cls.__module__)
    return cls.__name__ in getattr(face, "__all__", ()) and (
        getattr(face, cls.__name__) is cls
    )


@pytest.mark.parametrize("face", FACES, ids=lambda face: str(face.__name__))
def test_nothing_else_can_be_seen(face: types.ModuleType) -> None:
    seen = {
        name
        for name, value in vars(face).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    fixtures = {"etcd", "etcd_server"} if face is testing else set()
    assert seen == {*face.__all__} | fixtures
    modules = {name for name, value in vars(face).items() if inspect.ismodule(value)}
    assert {name for name in modules if not name.startswith("_")} <= {"testing"}
    assert len(set(face.__all__)) == len(face.__all__)


@pytest.mark.parametrize(("face", "name"), PUBLIC, ids=lambda value: str(value))
def test_each_name_has_the_module_of_its_face(
    face: types.ModuleType, name: str
) -> None:
    public = getattr(face, name)
    if inspect.isclass(public) or inspect.isfunction(public):
        assert (public.__module__, public.__qualname__) == (face.__name__, name)
        assert pickle.loads(pickle.dumps(public)) is public
        assert face.__name__.encode() in pickle.dumps(public)
        assert inspect.getdoc(public)


@pytest.mark.parametrize("name", sorted(signatures()))
def test_each_member_has_a_docstring(name: str) -> None:
    owner, _, member = name.rpartition(".")
    if owner and member != "__init__":
        assert inspect.getdoc(getattr(find(owner), member)), name
    else:
        assert inspect.getdoc(find(owner or member)), name


def find(name: str) -> object:
    return next(getattr(face, name) for face in FACES if hasattr(face, name))


@pytest.mark.parametrize("name", sorted(signatures()))
def test_types_in_signatures_are_exported(name: str) -> None:
    call = signatures()[name]
    for part, hint in hints_of(call).items():
        for each in types_in(hint):
            if each.__module__.partition(".")[0] == "trio_etcd_watch":
                assert is_exported(each), (name, part, each)
    for part, annotation in inspect.get_annotations(call).items():
        assert not re.search(r"\| *object\b", str(annotation)), (name, part)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: str(cls.__name__))
def test_types_of_fields_are_exported(cls: type) -> None:
    for name, hint in hints_of(cls).items():
        for each in types_in(hint) if not name.startswith("_") else ():
            if each.__module__.partition(".")[0] == "trio_etcd_watch":
                assert is_exported(each), (name, each)


@pytest.mark.parametrize("cls", FROM_THE_LIBRARY, ids=lambda cls: str(cls.__name__))
def test_what_comes_from_the_library_is_not_constructed(cls: type) -> None:
    article = "an" if cls in {Etcd, Event, Events} else "a"
    words = f"^{article} {cls.__name__} cannot be constructed: the library returns it$"
    if cls in {Event, KeyValue}:  # the message of the class in C is Python's
        words += f"|^cannot create 'trio_etcd_watch.{cls.__name__}' instances$"
    for arguments in ((), (1,), (1, 2, 3)):
        with pytest.raises(TypeError, match=words):
            cls(*arguments)
    with pytest.raises(TypeError, match=words):
        cls(key=1)


def test_the_list_of_what_is_not_constructed_is_complete() -> None:
    refusing = {cls for cls in CLASSES if isinstance(cls, NoPublicConstructor)}
    # If these two are classes in C, they refuse without the metaclass.
    assert refusing | {KeyValue, Event} == set(FROM_THE_LIBRARY)


def test_construct() -> None:
    class Made(metaclass=NoPublicConstructor):
        def __init__(self, number: int, *, name: str) -> None:
            self.seen = number, name

    assert construct(Made, 7, name="a").seen == (7, "a")


def test_publish() -> None:
    @dataclass
    class Plain:
        number: int

    def function() -> None: ...

    namespace: dict[str, object] = {"Plain": Plain, "function": function, "TEXT": "a"}
    publish("some.module", namespace, namespace)
    assert Plain.__module__ == function.__module__ == "some.module"
    # The annotations are kept, although `__module__` names a module without these types.
    assert Plain.__annotations__ == {"number": int}
    assert repr(Plain).startswith("<class 'some.module.")


def test_publish_leaves_a_class_that_names_its_public_module_as_it_is() -> None:
    class Plain: ...

    class Named:
        __module__ = "some.module"
        plain: Plain

    publish("some.module", {"Named": Named}, ["Named"])
    assert Named.__module__ == "some.module"
    # That module does not know the name, so it could not be evaluated.
    assert Named.__annotations__ == {"plain": "Plain"}


A = key_value("a", mod_revision=5)
VALUES = [
    Change(b"a", None, A),
    MirrorUpdate(5, (Change(b"a", None, A),), resynced=False),
    ResponseHeader(1, 2, 3, 4),
    EndpointStatistics("a:1", "srv", True),
    MirrorStatistics(5, 1, 0, True, None),
    WatchStatistics("live", 1, 1, 0, 0, None, None),
    WatcherStatistics(1, 0, 1, 0, 0, (), 1, 0, None, 9, 1, 1, 0, True),
    testing.snapshot([A]),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_survive_pickling(value: object) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(value, protocol)
        assert pickle.loads(data) == value
        assert b"trio_etcd_watch._" not in data


def test_options_are_those_of_a_watch() -> None:
    accepted, passed_on = hints_of(Watcher.watch), hints_of(WatchOptions)
    options = accepted.keys() - {"key", "prefix", "range_end", "from_key", "return"}
    assert {name: accepted[name] for name in options} == passed_on


def test_states_are_those_of_watches() -> None:
    assert set(typing.get_args(WatchState)) == {state.value for state in State}
