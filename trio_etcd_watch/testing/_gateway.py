"""Writes to and queries an etcd over HTTP, by its own JSON gateway, for tests.

This is another way than that of the watch client, so that neither hides a fault of the
other. It uses `http.client` in a worker thread, and no Trio streams, because nothing
here may be bound to one `trio.run()`: a server of a test session outlives many of them.
"""

from __future__ import annotations

import base64
import http.client
import json
import selectors
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, final

import trio

_UNKNOWN = 2
"""gRPC's status code UNKNOWN."""


class EtcdRequestError(RuntimeError):
    """The server refused a request.

    Attributes:
        message: the server's text.
        code: the gRPC status code; 2, UNKNOWN, where the server gives none.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@final
@dataclass(frozen=True, slots=True)
class Put:
    """An operation of `Etcd.txn()` that sets a key."""

    field: ClassVar[str] = "request_put"
    key: str | bytes
    """The key to set."""
    value: str | bytes
    """The value to set."""

    def to_json(self) -> dict[str, str]:
        """Return the fields of a `PutRequest`."""
        return {"key": _base64(self.key), "value": _base64(self.value)}


@final
@dataclass(frozen=True, slots=True)
class Delete:
    """An operation of `Etcd.txn()` that deletes a key, or all that start with it."""

    field: ClassVar[str] = "request_delete_range"
    key: str | bytes
    """The key to delete, or its beginning."""
    prefix: bool = False
    """Whether to delete every key that starts with `key`."""

    def to_json(self) -> dict[str, str]:
        """Return the fields of a `DeleteRangeRequest`."""
        if not self.prefix:
            return {"key": _base64(self.key)}
        # In etcd's API a key of one zero byte is the first of all keys, and a
        # range_end of one zero byte is the end of all keys.
        return {
            "key": _base64(self.key or b"\0"),
            "range_end": _base64(_after_prefix(_to_bytes(self.key)) or b"\0"),
        }


class Gateway:
    """Sends requests to one server, over connections that are kept alive.

    Each method raises `EtcdRequestError` if the server refuses the request, and OSError
    if the server cannot be reached or goes away before it has replied. A request that
    is cancelled may still take effect; with a paused server, only after it is resumed.

    Attributes:
        endpoint: where the server serves clients, as `host:port`.
        token: if set, sent with each request, as the reply of
            `/v3/auth/authenticate` gives it.
    """

    def __init__(self, endpoint: str, ssl_context: ssl.SSLContext | None) -> None:
        self.endpoint = endpoint
        self.token: str | None = None
        self._ssl_context = ssl_context
        self._idle: list[http.client.HTTPConnection] = []

    async def put(self, key: str | bytes, value: str | bytes) -> int:
        """Set a key, and return the revision of the put."""
        return _revision(await self.request("/v3/kv/put", Put(key, value).to_json()))

    async def delete(self, key: str | bytes, *, prefix: bool = False) -> int:
        """Delete a key, or all that start with it; return the revision afterwards.

        Deleting nothing makes no new revision.
        """
        body = Delete(key, prefix).to_json()
        return _revision(await self.request("/v3/kv/deleterange", body))

    async def txn(self, *operations: Put | Delete) -> int:
        """Do all operations in one revision, and return it; no key may occur twice."""
        success = [{each.field: each.to_json()} for each in operations]
        return _revision(await self.request("/v3/kv/txn", {"success": success}))

    async def compact(self, revision: int, *, physical: bool = True) -> None:
        """Compact the history below a revision.

        Args:
            revision: the oldest revision that can still be read and watched.
            physical: whether to return only once the history is gone from the disk,
                too.
        """
        body = {"revision": revision, "physical": physical}
        await self.request("/v3/kv/compaction", body)

    async def revision(self) -> int:
        """Return the newest revision."""
        # Any key will do; this one is "\0" in base64.
        return _revision(await self.request("/v3/kv/range", {"key": "AA=="}))

    async def metrics(self) -> dict[str, float]:
        """Return the samples of `/metrics`: `name{label="value",...}` to value."""
        text = (await self._request("GET", "/metrics")).decode()
        samples = (line for line in text.splitlines() if line[:1] not in {"", "#"})
        return {
            name: float(value)
            for name, _, value in (sample.rpartition(" ") for sample in samples)
        }

    async def request(
        self, path: str, body: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """Send any unary request: auth, members, leases, ...

        Args:
            path: such as `/v3/lease/grant`, from the `google.api.http` options in
                etcd's `rpc.proto`.
            body: the fields of the request, as protobuf's JSON: bytes are base64.

        Returns:
            The fields of the reply, as protobuf's JSON: fields with default values are
            left out, 64-bit integers are strings, bytes are base64.
        """
        data = await self._request("POST", path, json.dumps(body or {}).encode())
        reply: dict[str, Any] = json.loads(data)
        return reply

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _request(
        self, method: str, path: str, body: bytes | None = None
    ) -> bytes:
        headers = {"Authorization": self.token} if self.token else {}
        in_use: list[http.client.HTTPConnection] = []

        def exchange() -> tuple[int, bytes]:
            connection = self._idle_or_new()
            in_use.append(connection)
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                reply = response.status, response.read()
            except BaseException:
                connection.close()
                raise
            if connection.sock is not None:  # None: the reply said to close it
                self._idle.append(connection)
            return reply

        try:
            status, data = await trio.to_thread.run_sync(
                exchange, abandon_on_cancel=True
            )
        except trio.Cancelled:
            for connection in in_use:
                _wake(connection)
            raise
        except http.client.HTTPException as exc:
            msg = f"the reply of {self.endpoint} broke off: {exc!r}"
            raise ConnectionError(msg) from exc
        if status != HTTPStatus.OK:
            raise _refusal(status, data)
        return data

    def _idle_or_new(self) -> http.client.HTTPConnection:
        # Several threads may be here at once, so a check for an empty list could fail.
        with suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if not _is_dropped(connection):
                    return connection
                connection.close()
        if self._ssl_context is None:
            return http.client.HTTPConnection(self.endpoint)
        return http.client.HTTPSConnection(self.endpoint, context=self._ssl_context)


def _is_dropped(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has closed an idle connection: then EOF is readable."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection.sock, selectors.EVENT_READ)
        return bool(selector.select(timeout=0))


def _wake(connection: http.client.HTTPConnection) -> None:
    """Make the thread that waits for a reply fail; it closes the connection."""
    sock: socket.socket | None = connection.sock
    if sock is not None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _refusal(status: int, data: bytes) -> EtcdRequestError:
    try:
        reply: dict[str, Any] = json.loads(data)
    except ValueError:
        text = data.decode(errors="replace").strip()
        return EtcdRequestError(f"HTTP status {status}: {text}", _UNKNOWN)
    # etcd 3.6 has only "message", which 3.4 does not have.
    message = reply.get("message") or reply.get("error") or str(reply)
    return EtcdRequestError(message, reply.get("code", _UNKNOWN))


def _to_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _base64(text: str | bytes) -> str:
    return base64.b64encode(_to_bytes(text)).decode()


def _after_prefix(prefix: bytes) -> bytes:
    """Return the first key after all that start with `prefix`; b"" if none is."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""


def _revision(reply: Mapping[str, Any]) -> int:
    return int(reply["header"]["revision"])
