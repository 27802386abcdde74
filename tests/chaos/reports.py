"""Writes reports like etcd's own robustness suite, for its validator to judge.

The format is that of Go's package `go.etcd.io/etcd/tests/v3/robustness/report`: a
folder for each client, with its operations and watches, and the log of each member.
"""

from __future__ import annotations

import base64
import functools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from tests.chaos.history import ANSWER_LIMIT
from trio_etcd_watch import Event, KeyValue, WatchResponse
from trio_etcd_watch.testing import Delete, Etcd, EtcdRequestError, Put

CLIENT_ERRORS = (
    "mvcc: required revision has been compacted",
    "mvcc: required revision is a future revision",
)
"""Reasons to refuse a compaction that show that it was not done."""

HASHED_FROM = 20
"""Values of at least this many bytes are written as their hash."""


@dataclass(slots=True)
class ClientReport:
    """The operations and watches of one client."""

    operations: list[dict[str, Any]] = field(default_factory=list)
    watches: list[dict[str, Any]] = field(default_factory=list)


def write_clients(folder: Path, clients: Sequence[ClientReport]) -> None:
    """Write the clients' part of a report, replacing any earlier one."""
    for number, client in enumerate(clients, start=1):
        target = folder / f"client-{number}"
        target.mkdir(parents=True, exist_ok=True)
        for name, values in (
            ("operations.json", client.operations),
            ("watch.json", client.watches),
        ):
            text = "\n".join(json.dumps(value) for value in values)
            (target / name).write_text(text)


def copy_logs(folder: Path, members: Sequence[Etcd]) -> None:
    """Copy the members' logs into a report, once the members have ended."""
    for number, member in enumerate(members):
        log = Path("member", "wal")
        shutil.copytree(member.data_dir / log, folder / f"server-{number}" / log)


class Recorder:
    """Does KV operations over the JSON gateway, one after the other, and records them.

    Args:
        stream_ids: ids for clients. One that lost an answer continues under another id,
            because its request may still be in progress.
        began: the `time.monotonic_ns()` that times are relative to.
    """

    def __init__(
        self, report: ClientReport, stream_ids: Iterator[int], began: int
    ) -> None:
        self._report = report
        self._stream_ids = stream_ids
        self._stream_id = next(stream_ids)
        self._began = began

    async def write(self, member: Etcd, operations: Sequence[Put | Delete]) -> int:
        """Write in one revision, and return that; 0 if no answer came."""
        request = _txn([_operation(each) for each in operations])
        if len(operations) == 1 and isinstance(operations[0], Put):
            path, body = "/v3/kv/put", operations[0].to_json()
        else:
            success = [{each.field: each.to_json()} for each in operations]
            path, body = "/v3/kv/txn", {"success": success}  # type: ignore[dict-item]  # JSON of either kind

        def answer(reply: dict[str, Any]) -> dict[str, Any]:
            results = [
                {
                    "Deleted": int(
                        each.get("response_delete_range", {}).get("deleted", 0)
                    )
                }
                for each in reply.get("responses", [{}])
            ]
            txn = {"Failure": False, "Results": results}
            return {"Txn": txn, "Revision": _revision(reply)}

        reply = await self._record(member, request, path, body, answer)
        return _revision(reply) if reply else 0

    async def read(
        self, member: Etcd, start: str, end: str = "", revision: int = 0
    ) -> None:
        """Read a range, at the newest or an earlier revision."""
        options = {"Start": start, "End": end, "Limit": 0, "KeysOnly": False}
        request = {"Type": "range", "Range": options | {"Revision": revision}}
        body = {
            "key": base64.b64encode(start.encode()).decode(),
            "range_end": base64.b64encode(end.encode()).decode(),
            "revision": revision,
        }

        def answer(reply: dict[str, Any]) -> dict[str, Any]:
            kvs = [_range_kv(each) for each in reply.get("kvs", [])]
            range_ = {"KVs": kvs, "Count": int(reply.get("count", 0))}
            return {"Range": range_, "Revision": _revision(reply)}

        await self._record(member, request, "/v3/kv/range", body, answer)

    async def compact(self, member: Etcd, revision: int) -> None:
        """Compact the history before this revision."""
        request = {"Type": "compact", "Compact": {"Revision": revision}}
        await self._record(
            member,
            request,
            "/v3/kv/compaction",
            {"revision": revision},
            # The revision in the answer is not that of a linearizable read.
            lambda reply: {"Compact": {}, "Revision": -1},
        )

    async def _record(
        self,
        member: Etcd,
        request: dict[str, Any],
        path: str,
        body: Mapping[str, Any],
        answer: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> dict[str, Any] | None:
        """Record the operation also when cancelled; the server may still do it."""
        called = self._now()
        output: dict[str, Any] = {"Error": "no answer"}
        reply = None
        stream_id = self._stream_id
        try:
            with trio.move_on_after(ANSWER_LIMIT):
                reply = await member.request(path, body)
                output = answer(reply)
        except (OSError, EtcdRequestError) as exc:
            output = {"Error": str(exc)}
            for known in CLIENT_ERRORS:
                if request["Type"] == "compact" and known in str(exc):
                    output = {"ClientError": known}
        finally:
            if "Error" in output:
                self._stream_id = next(self._stream_ids)
            self._report.operations.append(
                {
                    "ClientId": stream_id,
                    "Input": request,
                    "Call": called,
                    "Output": output,
                    "Return": max(self._now(), called + 1),
                }
            )
        return reply

    def _now(self) -> int:
        return time.monotonic_ns() - self._began


def watch_operation(
    key: str, start: int, *, prefix: bool, prev_kv: bool, progress_notify: bool
) -> dict[str, Any]:
    """Return a watch to which responses are added; a start of 0 means from now."""
    request = {
        "Key": key,
        "Revision": start,
        "WithPrefix": prefix,
        "WithProgressNotify": progress_notify,
        "WithPrevKV": prev_kv,
    }
    return {"Request": request, "Responses": []}


def watch_response(response: WatchResponse) -> dict[str, Any]:
    return {
        "Events": [_event(each) for each in response.events],
        "IsProgressNotify": response.is_progress_notify,
        "Revision": response.header.revision,
    }


def bookmark(next_revision: int) -> dict[str, Any]:
    """Return `Watch.next_revision` as progress: everything below it has come."""
    return {"Events": [], "IsProgressNotify": True, "Revision": next_revision - 1}


def _event(event: Event) -> dict[str, Any]:
    noted: dict[str, Any] = {
        "Type": f"{event.type.name.lower()}-operation",
        "Key": event.kv.key.decode(),
        "Value": value_or_hash(event.kv.value),
        "Revision": event.kv.mod_revision,
        "IsCreate": event.is_create,
    }
    if event.prev_kv is not None:
        noted["PrevValue"] = _value_revision(event.prev_kv)
    return noted


def _value_revision(kv: KeyValue) -> dict[str, Any]:
    return {
        "Value": value_or_hash(kv.value),
        "ModRevision": kv.mod_revision,
        "Version": kv.version,
    }


def _range_kv(kv: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Key": base64.b64decode(kv["key"]).decode(),
        "Value": value_or_hash(base64.b64decode(kv.get("value", ""))),
        "ModRevision": int(kv["mod_revision"]),
        "Version": int(kv["version"]),
    }


def _txn(operations: list[dict[str, Any]]) -> dict[str, Any]:
    txn = {
        "Conditions": [],
        "OperationsOnSuccess": operations,
        "OperationsOnFailure": [],
    }
    return {"Type": "txn", "Txn": txn}


def _operation(operation: Put | Delete) -> dict[str, Any]:
    key = _text(operation.key)
    if isinstance(operation, Delete):
        return {"Type": "delete-operation", "Delete": {"Key": key}}
    value = value_or_hash(_text(operation.value).encode())
    return {"Type": "put-operation", "Put": {"Key": key, "Value": value}}


@functools.lru_cache(maxsize=100_000)
def _fnv1a(value: bytes) -> int:
    digest = 0x811C9DC5
    for byte in value:
        digest = (digest ^ byte) * 0x01000193 & 0xFFFFFFFF
    return digest


def value_or_hash(value: bytes) -> dict[str, Any]:
    if len(value) < HASHED_FROM:
        return {"Value": value.decode()}
    return {"Hash": _fnv1a(value)}


def _revision(reply: Mapping[str, Any]) -> int:
    return int(reply["header"]["revision"])


def _text(text: str | bytes) -> str:
    return text.decode() if isinstance(text, bytes) else text
