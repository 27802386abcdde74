"""`Snapshot`, and the base of all read-only mappings of a range in key order. Sans-IO."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TypeVar, final, overload

from ._arguments import as_bytes
from ._face import LibraryOnly, NoPublicConstructor
from ._responses import KeyValue, ResponseHeader

T = TypeVar("T")


class KeyMapping(Mapping[bytes, KeyValue], metaclass=NoPublicConstructor):
    """A read-only mapping that takes a `str` for its UTF-8, as the rest of the API."""

    __slots__ = ()

    @abstractmethod
    def _find(self, key: bytes) -> KeyValue | None:
        """Return the value of this key; None if it does not exist in the range."""

    def __getitem__(self, key: bytes | str) -> KeyValue:
        found = self._find(as_bytes("key", key))
        if found is None:
            raise KeyError(key)
        return found

    def __contains__(self, key: object) -> bool:
        return (
            isinstance(key, bytes | str)
            and self._find(as_bytes("key", key)) is not None
        )

    @overload
    def get(self, key: bytes | str, /) -> KeyValue | None: ...
    @overload
    def get(self, key: bytes | str, default: KeyValue, /) -> KeyValue: ...
    @overload
    def get(self, key: bytes | str, default: T, /) -> KeyValue | T: ...
    def get(self, key: bytes | str, default: object = None, /) -> object:
        """Return the value of this key, or the default if it does not exist."""
        found = self._find(as_bytes("key", key))
        return default if found is None else found


@final
class Snapshot(KeyMapping):
    """A range as it was at one revision. Immutable; made by the library only.

    Iteration and `items()` go in key order; look-ups take `str` (UTF-8) or `bytes`.
    """

    __slots__ = ("_data", "_header", "_revision")

    def __init__(
        self,
        header: ResponseHeader,
        revision: int,
        data: dict[bytes, KeyValue],
        _: LibraryOnly,
    ) -> None:
        # `data` is in key order, and the caller no longer changes it.
        self._header = header
        self._revision = revision
        self._data = data

    @property
    def revision(self) -> int:
        """The revision of all keys; a watch from `revision + 1` continues it exactly."""
        return self._revision

    @property
    def header(self) -> ResponseHeader:
        """The member that answered, and the newest revision of its store at that time."""
        return self._header

    def _find(self, key: bytes) -> KeyValue | None:
        return self._data.get(key)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._data)

    def __reversed__(self) -> Iterator[bytes]:
        return reversed(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"<Snapshot of {len(self)} keys at revision {self.revision}>"


def data_of(snapshot: Snapshot) -> dict[bytes, KeyValue]:
    """Return its keys, in order, for who wants a dict's speed and changes nothing."""
    return snapshot._data
