"""Runs the commands, which print what a watcher delivers."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import trio

from trio_etcd_watch._channel import Channel
from trio_etcd_watch._errors import ClusterChangedError, HistoryLostError, WatchError
from trio_etcd_watch._opening import open_watcher
from trio_etcd_watch._snapshot import page_read
from trio_etcd_watch._watch import Watch
from trio_etcd_watch._watcher import Watcher

from .arguments import Options
from .bookmark import Bookmark, store
from .failures import FAILED, TIMED_OUT, Failure, failure_of
from .output import Output, OutputError
from .printing import Printer
from .progress import Progress


@final
@dataclass(slots=True, kw_only=True)
class Job:
    """One command, and everything that it needs."""

    options: Options
    channel: Channel
    bookmark: Bookmark | None
    """Where to resume, if a file says so."""
    printer: Printer
    output: Output

    async def run(self) -> None:
        """Run the command; a watch or mirror never returns.

        Raises:
            Failure: the command failed.
            BrokenPipeError: the reader of the output has closed it.
        """
        command = {"watch": self._watch, "get": self._get, "mirror": self._mirror}
        timeout = self.options.command_timeout
        try:
            with trio.move_on_after(math.inf if timeout is None else timeout) as limit:
                async with open_watcher(self.channel) as watcher:
                    await command[self.options.command](watcher, limit)
        except WatchError as exc:
            raise failure_of(exc, self.options.bookmark) from exc
        except OutputError as exc:
            raise Failure(FAILED, str(exc)) from exc
        if limit.cancelled_caught:
            raise Failure(TIMED_OUT, f"no answer within {timeout:g} s")

    @property
    def _range(self) -> dict[str, Any]:
        # The parser lets one at most be given, which their types do not say.
        options = self.options
        return {
            "prefix": options.prefix,
            "range_end": options.range_end,
            "from_key": options.from_key,
        }

    async def _get(self, watcher: Watcher, limit: trio.CancelScope) -> None:
        options = self.options
        has_terminal = sys.stderr is not None and sys.stderr.isatty()
        with Progress(sys.stderr if has_terminal else None) as progress:
            token = page_read.set(progress)
            try:
                snapshot = await watcher.snapshot(
                    options.key, revision=options.revision, **self._range
                )
            finally:
                page_read.reset(token)
        limit.deadline = math.inf
        await self.output.write(self.printer.keys(snapshot), whole=False)

    async def _mirror(self, watcher: Watcher, limit: trio.CancelScope) -> None:
        async with watcher.mirror(self.options.key, **self._range) as mirror:
            limit.deadline = math.inf
            async for update in mirror.changes():
                await self.output.write([self.printer.update(update)])

    async def _watch(self, watcher: Watcher, limit: trio.CancelScope) -> None:
        options = self.options
        async with watcher.watch(
            options.key,
            **self._range,
            start_revision=(
                self.bookmark.next_revision if self.bookmark else options.revision
            ),
            prev_kv=options.prev_kv,
            # Progress notifications keep the bookmark of an idle watch recent, so that
            # it is not compacted.
            progress_notify=options.progress or options.bookmark is not None,
        ) as watch:
            if self.bookmark:
                await self._check_history(watcher, watch, self.bookmark)
            limit.deadline = math.inf
            # From here on no event is missed, whatever ends the program. And a file
            # that cannot be written is reported before anything is printed.
            await self.output.write([], self._note(watch))
            async for response in watch:
                shown = options.progress or not response.is_progress_notify
                lines = [self.printer.response(response)] if shown else []
                await self.output.write(lines, self._note(watch))

    def _note(self, watch: Watch) -> Callable[[], None] | None:
        """Return a function that stores a bookmark after all so far, or None."""
        if self.options.bookmark is None:
            return None
        key, range_end = self.options.range
        cluster_id = watch.created.header.cluster_id
        bookmark = Bookmark(key, range_end, cluster_id, watch.next_revision)
        return functools.partial(store, Path(self.options.bookmark), bookmark)

    async def _check_history(
        self, watcher: Watcher, watch: Watch, bookmark: Bookmark
    ) -> None:
        """Check that the bookmark belongs to this cluster, and to its history."""
        header, known = watch.created.header, bookmark.next_revision - 1
        if {bookmark.cluster_id, header.cluster_id}.isdisjoint({0}) and (
            bookmark.cluster_id != header.cluster_id
        ):
            raise ClusterChangedError(bookmark.cluster_id, header.cluster_id)
        if header.revision < known:
            # The member may lag behind, so a linearizable read decides.
            snapshot = await watcher.snapshot(self.options.range[0])
            if snapshot.header.revision < known:
                raise HistoryLostError(known, snapshot.header.revision)
