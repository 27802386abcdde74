"""The public face: who may construct what, and under which name a class is known.

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
    """The metaclass of what users get from the library, and never construct.

    Calling such a class raises TypeError; `construct()` makes an instance. A type checker
    refuses the call because the constructor wants something that is private.
    """

    if not TYPE_CHECKING:  # for type checkers a call is that of `__init__`

        def __call__(cls, *args: object, **kwargs: object) -> object:
            """Refuse."""
            article = "an" if cls.__name__[0] in "AEIOU" else "a"
            raise TypeError(
                f"{article} {cls.__name__} comes from the library, and is not constructed"
            )


if TYPE_CHECKING:

    def construct(cls: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make an instance of a class without a public constructor."""

else:
    # Without a function of ours between: one is made for each response.
    construct = type.__call__


@final
class LibraryOnly:
    """An argument of constructors that otherwise take only what users have, too."""

    __slots__ = ()


LIBRARY: Final = LibraryOnly()


def publish(module: str, namespace: dict[str, object], names: Iterable[str]) -> None:
    """Have classes and functions say that they are defined where they are public.

    So reprs and tracebacks name what users import, and what is pickled can be loaded
    after a private module was renamed.
    """
    for name in names:
        public = namespace[name]
        if inspect.isclass(public) and public.__module__ != module:
            # Names in annotations are those of the module that has the source.
            public.__annotations__ = inspect.get_annotations(public, eval_str=True)
            public.__module__ = module
        elif inspect.isfunction(public):
            public.__module__ = module
