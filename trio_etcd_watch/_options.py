"""Defines the options of a watch as a type, for functions that pass them on."""

from __future__ import annotations

from typing import TypedDict

from ._channel import MetadataLike


class WatchOptions(TypedDict, total=False):
    """The arguments of `Watcher.watch()` other than its range, all of them optional.

    Use it in the signature of a function of your own that passes them on:
    `def follow(watcher: Watcher, **options: Unpack[WatchOptions])`.
    """

    start_revision: int
    prev_kv: bool
    no_put: bool
    no_delete: bool
    progress_notify: bool
    created_notify: bool
    require_leader: bool
    metadata: MetadataLike
    max_buffered_events: int
    max_buffered_bytes: int
