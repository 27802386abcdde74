"""Provides `open_watcher`, the block that runs a watcher and its background tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import final

import trio

from ._channel import Channel, as_channel
from ._connector import Connector
from ._purerpc import PurerpcChannel
from ._watcher import Watcher, close_watcher, start_watcher


def open_watcher(
    channel: Channel | str | Sequence[str] | PurerpcChannel,
) -> AbstractAsyncContextManager[Watcher]:
    """Open a watcher on a cluster.

    Entering does no I/O: the watcher connects for the first watch, mirror or snapshot,
    and again whenever it has to. Leaving the block, also by cancellation, ends every
    watch and closes the connection. An exception of the block is raised unchanged.

    Args:
        channel: a `Channel`, an endpoint, a sequence of endpoints, or a purerpc
            channel, entered or not: its host, port and TLS context are used, but not
            its connection, since that cannot reconnect.

    Raises:
        TypeError, ValueError: An argument is wrong; raised by the call, and the text
            names the argument.
        RuntimeError: Leaving the block found a bug of this package; please report it.
    """
    checked = as_channel(channel)
    return WatcherManager(lambda nursery: Connector(checked, nursery))


@final
class WatcherManager(AbstractAsyncContextManager[Watcher]):
    """The context manager that `open_watcher()` returns.

    The user gets the body's exception unchanged, or one Cancelled, whatever else
    happens. A background task raises nothing but Cancelled, unless it has a bug: then
    the body is cancelled, and the bug is raised, with the body's exception if any.
    KeyboardInterrupt is raised in the user's tasks: ours are protected from it.

    Args:
        connector_in: makes the connector, whose tasks run in the given nursery.
    """

    def __init__(self, connector_in: Callable[[trio.Nursery], Connector]) -> None:
        self._connector_in = connector_in
        self._watcher: Watcher | None = None
        self._tasks = trio.open_nursery(strict_exception_groups=True)

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Watcher:
        await trio.lowlevel.checkpoint()
        if self._watcher is not None:
            raise RuntimeError("entered twice: call open_watcher() for each watcher")
        nursery = await self._tasks.__aenter__()
        self._watcher = start_watcher(self._connector_in(nursery), nursery)
        return self._watcher

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        body: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failure = await self._end_tasks()
        if failure is not None:
            if failure.subgroup(Exception):
                raise RuntimeError(
                    "a bug in trio-etcd-watch; please report it"
                ) from BaseExceptionGroup(
                    "background tasks, and the block",
                    [failure, body] if body else [failure],
                )
            for exc in failure.exceptions:
                if isinstance(exc, KeyboardInterrupt):
                    # It was raised while this task waited for the others.
                    raise exc
            # A task raised a BaseException, such as SystemExit in a signal handler.
            raise failure
        if body is None:
            await trio.lowlevel.checkpoint_if_cancelled()

    async def _end_tasks(self) -> BaseExceptionGroup[BaseException] | None:
        """End the background tasks; return what they raised other than Cancelled."""
        assert self._watcher is not None
        close_watcher(self._watcher)
        try:
            await self._tasks.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            return group.split(trio.Cancelled)[1]
        return None
