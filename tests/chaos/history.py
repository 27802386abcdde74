"""Reads the true history from etcd's JSON gateway."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from typing import Any, TypeVar

import trio

from tests.support.robustness import DELETE, Event, KeyValue
from trio_etcd_watch.testing import Etcd

T = TypeVar("T")

ANSWER_LIMIT = 5.0
"""Seconds to wait for a server that is paused, or has no leader."""


class Truth:
    """The history according to etcd's JSON gateway, read without the package's code."""

    def __init__(self) -> None:
        self.changes: list[Event] = []
        self.compacted = 0
        """The highest revision that a compaction was requested for."""
        self._shared: dict[object, Any] = {}
        self._lock = trio.Lock()

    async def read(self, member: Etcd) -> int:
        """Read the history up to the newest revision, and return that.

        Raises:
            OSError: the member went away or did not answer; what has come is kept.
        """
        async with self._lock:
            with trio.move_on_after(ANSWER_LIMIT) as scope:
                newest = await member.revision()
            if scope.cancelled_caught:
                raise TimeoutError
            known = self.changes[-1].revision if self.changes else 1
            if known < newest:
                # Not abandoned when cancelled, so that no two threads write at once.
                await trio.to_thread.run_sync(
                    self._read, member.endpoint, known + 1, newest
                )
            return newest

    def last_without_delete(self, revision: int) -> int:
        """Return the last revision up to this one that deletes nothing, or 0.

        Compaction at a DELETE loses that event, and after a crash the newest revision,
        too: https://github.com/etcd-io/etcd/pull/18274, fixed in 3.4.34 and 3.5.16.
        """
        deletes = {each.revision for each in self.changes if each.type == DELETE}
        return next((r for r in range(revision, 1, -1) if r not in deletes), 0)

    def shared(self, event: Event) -> Event:
        """Return the shared instance of an event, because many watches hold it."""
        kv, prev_kv = (
            self.share(event.kv),
            event.prev_kv and self.share(event.prev_kv),
        )
        return self.share(event._replace(kv=kv, prev_kv=prev_kv))

    def share(self, value: T) -> T:
        """Return the shared instance of all values that are equal to this one."""
        shared: T = self._shared.setdefault(value, value)
        return shared

    def _read(self, endpoint: str, start: int, stop: int) -> None:
        for events in _history(endpoint, start, stop):
            self.changes += map(self.shared, events)


def _history(endpoint: str, start: int, stop: int) -> Iterator[list[Event]]:
    """Yield all changes from one revision to another, as the gateway reports them."""
    connection = http.client.HTTPConnection(endpoint, timeout=ANSWER_LIMIT)
    try:
        every_key = {"key": "AA==", "range_end": "AA==", "start_revision": start}
        body = json.dumps({"create_request": every_key})
        connection.request("POST", "/v3/watch", body)
        reply = connection.getresponse()
        revision = start - 1
        while revision < stop:
            line = reply.readline()
            if not line:
                raise ConnectionError("the server ended the history")
            result = json.loads(line)["result"]
            if result.get("canceled"):
                raise RuntimeError(f"the gateway gives no history: {result}")
            events = [_from_json(event) for event in result.get("events", ())]
            if events:
                revision = events[-1].revision
                yield events
    except http.client.HTTPException as exc:
        raise ConnectionError(f"the history broke off: {exc!r}") from exc
    finally:
        connection.close()


async def read_range(
    member: Etcd, keys: tuple[bytes, bytes], revision: int
) -> tuple[KeyValue, ...]:
    """Read a range at a revision, from the JSON gateway.

    Raises:
        EtcdRequestError: the revision is compacted, or the member has no quorum.
        OSError: the member went away or did not answer.
    """
    body = {
        "key": base64.b64encode(keys[0]).decode(),
        "range_end": base64.b64encode(keys[1]).decode(),
        "revision": revision,
    }
    with trio.move_on_after(ANSWER_LIMIT):
        reply = await member.request("/v3/kv/range", body)
        return tuple(_kv_from_json(kv) for kv in reply.get("kvs", ()))
    raise TimeoutError


def _from_json(event: dict[str, Any]) -> Event:
    kv = _kv_from_json(event["kv"])
    return Event(event.get("type", "PUT"), kv, prev_kv=None, is_create=False)


def _kv_from_json(kv: dict[str, Any]) -> KeyValue:
    return KeyValue(
        base64.b64decode(kv["key"]),
        base64.b64decode(kv.get("value", "")),
        int(kv.get("create_revision", 0)),
        int(kv["mod_revision"]),
        int(kv.get("version", 0)),
        int(kv.get("lease", 0)),
    )
