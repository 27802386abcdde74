"""The way out: what a watch asks for becomes the requests that are sent.

Sans-IO.
"""

from __future__ import annotations

from dataclasses import dataclass

from ._arguments import check_int, key_range
from ._cursor import MAX_REVISION
from ._pb import watch_pb2 as pb

DEFAULT_MAX_BUFFERED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSpec:
    """The settings of one watch, which stay the same on every stream."""

    key: bytes
    range_end: bytes
    start_revision: int = 0
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False
    progress_notify: bool = False
    """Whether the user gets progress notifications; they are always requested."""
    created_notify: bool = False
    resume_notify: bool = False
    """Whether each later creation is delivered too: a mirror then proves itself."""
    max_buffered_events: int = 10_000
    max_buffered_bytes: int = DEFAULT_MAX_BUFFERED_BYTES


def watch_spec(
    key: str | bytes,
    *,
    prefix: bool = False,
    range_end: str | bytes | None = None,
    from_key: bool = False,
    start_revision: int = 0,
    prev_kv: bool = False,
    no_put: bool = False,
    no_delete: bool = False,
    progress_notify: bool = False,
    created_notify: bool = False,
    max_buffered_events: int = 10_000,
    max_buffered_bytes: int = DEFAULT_MAX_BUFFERED_BYTES,
) -> WatchSpec:
    """Check the arguments of `Watcher.watch()`, and return them as a spec.

    Raises:
        TypeError, ValueError: an argument is wrong; the text names it and its value.
    """
    start, end = key_range(key, prefix=prefix, range_end=range_end, from_key=from_key)
    check_int("start_revision", start_revision, low=0, high=MAX_REVISION)
    check_int("max_buffered_events", max_buffered_events, low=1, high=MAX_REVISION)
    check_int("max_buffered_bytes", max_buffered_bytes, low=1, high=MAX_REVISION)
    if no_put and no_delete:
        raise ValueError("no_put and no_delete exclude each other; nothing is left")
    return WatchSpec(
        key=start,
        range_end=end,
        start_revision=start_revision,
        prev_kv=prev_kv,
        no_put=no_put,
        no_delete=no_delete,
        progress_notify=progress_notify,
        created_notify=created_notify,
        max_buffered_events=max_buffered_events,
        max_buffered_bytes=max_buffered_bytes,
    )


def mirror_spec(key: bytes, range_end: bytes, start_revision: int) -> WatchSpec:
    """Return the spec of the watch of a mirror."""
    return WatchSpec(
        key=key,
        range_end=range_end,
        start_revision=start_revision,
        progress_notify=True,
        created_notify=True,
        resume_notify=True,
        # The mirror consumes events as they come, so this watch is never parked.
        max_buffered_events=MAX_REVISION,
        max_buffered_bytes=MAX_REVISION,
    )


def create_request(
    spec: WatchSpec, start_revision: int, *, fragment: bool = False
) -> bytes:
    """Return the request that creates this watch from start_revision on.

    Args:
        spec: what the watch asks for.
        start_revision: the first revision to watch; 0 is from now.
        fragment: whether large responses are to come in fragments (fragments_on_demand).
            The time that etcd takes to split a response grows with the square of its
            events, and all watches of the stream wait meanwhile, so this is only for a
            watch that needs it.
    """
    create = pb.WatchCreateRequest(
        key=spec.key,
        range_end=spec.range_end,
        start_revision=start_revision,
        prev_kv=spec.prev_kv,
        fragment=fragment,
    )
    # progress_always: whether or not the user wants to see them.
    create.progress_notify = True
    if spec.no_put:
        create.filters.append(pb.WatchCreateRequest.NOPUT)
    if spec.no_delete:
        create.filters.append(pb.WatchCreateRequest.NODELETE)
    return pb.WatchRequest(create_request=create).SerializeToString()


def cancel_request(watch_id: int) -> bytes:
    """Return the request that cancels the watch of this id."""
    cancel = pb.WatchCancelRequest(watch_id=watch_id)
    return pb.WatchRequest(cancel_request=cancel).SerializeToString()


def progress_request() -> bytes:
    """Return the request for one progress notification to the whole stream."""
    progress = pb.WatchProgressRequest()
    return pb.WatchRequest(progress_request=progress).SerializeToString()
