"""The public names, and which of them need an entry in the reference."""

from __future__ import annotations

import inspect

import trio_etcd_watch
from trio_etcd_watch import testing

NO_ENTRY = {
    # Methods of every mapping, which the page describes once.
    "trio_etcd_watch.Mirror.get",
    "trio_etcd_watch.PrefixView.get",
    "trio_etcd_watch.Snapshot.get",
    # Its fields are the arguments of `Watcher.watch()`.
    *(
        f"trio_etcd_watch.WatchOptions.{name}"
        for name in trio_etcd_watch.WatchOptions.__annotations__
    ),
    # For the library itself, though without an underscore.
    "trio_etcd_watch.WatchResponse.after",
    "trio_etcd_watch.WatchResponse.merged",
    *(f"trio_etcd_watch.testing.{name}.field" for name in ("Put", "Delete")),
    *(f"trio_etcd_watch.testing.{name}.to_json" for name in ("Put", "Delete")),
    # They are its arguments, which its entry describes.
    *(
        f"trio_etcd_watch.Channel.{name}"
        for name in inspect.signature(trio_etcd_watch.Channel).parameters
    ),
}
"""Public names without an entry of their own."""


def names_of_testing() -> set[str]:
    """What `trio_etcd_watch.testing` has, with its fixtures."""
    return {*testing.__all__, "etcd", "etcd_server"}


def public_names() -> set[str]:
    """Return all public names, with the public attributes of each class."""
    names = {f"trio_etcd_watch.{name}" for name in trio_etcd_watch.__all__}
    names |= {"trio_etcd_watch.__version__", "trio_etcd_watch.__speedups__"}
    names |= {f"trio_etcd_watch.testing.{name}" for name in names_of_testing()}
    for name in list(names):
        module = testing if ".testing." in name else trio_etcd_watch
        obj = getattr(module, name.rpartition(".")[2])
        if inspect.isclass(obj):
            names |= {f"{name}.{each}" for each in attributes(obj)}
    return names - NO_ENTRY


def attributes(cls: type) -> set[str]:
    """Return the public attributes that classes of this package define for a class."""
    bases = [
        base for base in cls.__mro__ if base.__module__.startswith("trio_etcd_watch")
    ]
    found = {name for base in bases for name in vars(base)}
    found |= {name for base in bases for name in vars(base).get("__annotations__", ())}
    return {name for name in found if not name.startswith("_")}
