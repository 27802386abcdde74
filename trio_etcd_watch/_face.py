"""Decides which classes users may construct, and gives them their public module names.

Sans-IO.
"""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar, final

P = ParamSpec("P")
T = TypeVar("T")


class NoPublicConstructor(ABCMeta):
    """The metaclass of classes whose instances come from the library only.

    Calling such a class raises TypeError; `construct()` makes an instance. A type
    checker rejects the call because the constructor requires a private argument.
    """

    if not TYPE_CHECKING:  # type checkers take the signature from `__init__`

        def __call__(cls, *args: object, **kwargs: object) -> object:
            """Raise TypeError."""
            article = "an" if cls.__name__[0] in "AEIOU" else "a"
            raise TypeError(
                f"{article} {cls.__name__} cannot be constructed: the library returns it"
            )


if TYPE_CHECKING:

    def construct(cls: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make an instance of a class without a public constructor."""

else:
    # A Python function would cost a call for each response.
    construct = type.__call__


@final
class LibraryOnly:
    """A private argument, for constructors whose other arguments users can make."""

    __slots__ = ()


LIBRARY: Final = LibraryOnly()


def publish(module: str, namespace: dict[str, object], names: Iterable[str]) -> None:
    """Set `__module__` of classes and functions to the module in which they are public.

    So reprs and tracebacks show the name that users import, and pickled objects can
    still be loaded after a private module was renamed.
    """
    for name in names:
        public = namespace[name]
        if inspect.isclass(public) and public.__module__ != module:
            # Annotations refer to names of the module that has the source.
            public.__annotations__ = inspect.get_annotations(public, eval_str=True)
            public.__module__ = module
        elif inspect.isfunction(public):
            public.__module__ = module
