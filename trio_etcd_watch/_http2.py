"""HTTP/2 and gRPC without I/O: purerpc's connection, mended.

Drives `purerpc.grpclib` and the h2 under it, and is the only file that knows them. What
they drop or die of (a reset, GOAWAY, an answer that is not gRPC) becomes the end of
that call, or of the connection, as a `StreamLost` with its reason.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, TypeAlias
from urllib.parse import unquote

import h2.errors
import h2.exceptions
import h2.settings
import purerpc.client
from purerpc.grpclib.config import GRPCConfiguration
from purerpc.grpclib.connection import GRPCConnection

from ._errors import Status, StatusCode, StreamLost
from ._frames import CONNECTION_WINDOW, MAX_FRAME_SIZE, STREAM_WINDOW

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
"""Pairs of names and values; a value is bytes where the name ends in `-bin`."""

MAX_HEADER_LIST_SIZE = 65_536
"""Of a response, in bytes."""

USER_AGENT = "trio-etcd-watch"

_DEFAULT_WINDOW = 65_535
_METADATA_NAME = re.compile(r"[0-9a-z_.-]+")
_RESERVED = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
"""Names that we send ourselves, or that HTTP/2 forbids (RFC 9113, 8.2.2)."""
_METADATA_VALUE = re.compile(r"[\x20-\x7e]*")

# What purerpc and h2 raise over bytes that break the protocol. h2 makes its own of what
# hyperframe and hpack raise, but lets through UnicodeDecodeError (a header value that is
# not UTF-8) and IndexError (an empty header name); int() refuses a grpc-status of
# thousands of digits with ValueError. A fuzz of 70,000 sessions met no other.
_PEER_ERRORS = (h2.exceptions.ProtocolError, ValueError, IndexError)


# At DEBUG hpack logs every header, and so every auth token.
if logging.getLogger("hpack").level == logging.NOTSET:
    logging.getLogger("hpack").setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class ResponseStarted:
    """DATA of this stream may come now."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The server has ended this call, or broken it."""

    stream_id: int
    end: Status | StreamLost


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """The server said GOAWAY."""

    reason: StreamLost


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """More may be sent, on one stream or on all."""


Event: TypeAlias = ResponseStarted | CallEnded | ConnectionEnded | WindowOpened


class Http2(GRPCConnection):  # type: ignore[misc]  # purerpc has no types
    """purerpc's connection, with no event dropped and none fatal to its neighbours."""

    def __init__(self) -> None:
        super().__init__(GRPCConfiguration(client_side=True, user_agent=USER_AGENT))

    def _set_h2_connection_local_settings(self) -> None:
        codes = h2.settings.SettingCodes
        self.h2_connection.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                codes.ENABLE_PUSH: 0,
                codes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                codes.MAX_FRAME_SIZE: MAX_FRAME_SIZE,
                codes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_SIZE,
            },
        )
        self.h2_connection.max_inbound_frame_size = MAX_FRAME_SIZE
        self.h2_connection.decoder.max_header_list_size = MAX_HEADER_LIST_SIZE

    def initiate_connection(self) -> None:
        self.h2_connection.initiate_connection()
        self.h2_connection.increment_flow_control_window(
            CONNECTION_WINDOW - _DEFAULT_WINDOW
        )

    def open(self, scheme: str, authority: str, path: str, metadata: Metadata) -> int:
        """Start a request of `/service/method`; return its stream id.

        Raises:
            StreamLost: this connection cannot carry another stream.
        """
        service, method = path.removeprefix("/").split("/")
        try:
            stream_id: int = self.get_next_available_stream_id()
            self.start_request(
                stream_id,
                scheme,
                service,
                method,
                authority=authority,
                custom_metadata=metadata,
            )
        except h2.exceptions.H2Error as exc:
            raise StreamLost(f"no new stream on this connection: {exc!r}") from exc
        return stream_id

    def reset(self, stream_id: int) -> None:
        """Send RST_STREAM (CANCEL), unless both sides have ended the stream."""
        try:
            self.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
        except h2.exceptions.ProtocolError:
            return

    def ping(self) -> None:
        """Send PING; any byte will do for an answer."""
        self.h2_connection.ping(bytes(8))

    def receive(self, frame: bytes) -> list[Event]:
        """Take one whole frame that is not DATA of an open response.

        Raises:
            StreamLost: it breaks the protocol; the connection is of no more use.
        """
        try:
            events: list[Event] = self.receive_data(frame)
        except _PEER_ERRORS as exc:
            raise StreamLost(f"the server broke HTTP/2: {exc!r}") from exc
        return events

    # What purerpc makes of h2's events

    def _window_updated(self, event: Any) -> list[Event]:
        return [WindowOpened()]

    def _remote_settings_changed(self, event: Any) -> list[Event]:
        return [WindowOpened()]

    def _response_received(self, event: Any) -> list[Event]:
        headers = dict(event.headers)
        status, kind = headers.get(":status"), headers.get("content-type", "")
        end: Status | StreamLost
        if status != "200":
            end = StreamLost(f"not gRPC: the server answers HTTP status {status}")
        elif not kind.startswith("application/grpc"):
            end = StreamLost(f"not gRPC: the server answers content-type {kind!r}")
        elif event.stream_ended:
            end = _status_of(headers)
        else:
            return [ResponseStarted(event.stream_id)]
        return [CallEnded(event.stream_id, end)]

    def _trailers_received(self, event: Any) -> list[Event]:
        return [CallEnded(event.stream_id, _status_of(dict(event.headers)))]

    def _data_received(self, event: Any) -> list[Event]:
        # DATA of a stream whose response has begun does not come here.
        if not event.flow_controlled_length:
            return []
        # h2 has taken it off the connection's window, which others share.
        self.acknowledge_received_data(event.stream_id, event.flow_controlled_length)
        reason = StreamLost("not gRPC: DATA outside of a response")
        return [CallEnded(event.stream_id, reason)]

    def _stream_ended(self, event: Any) -> list[Event]:
        # After a status this is no news, and `Connection` knows the call no more.
        reason = StreamLost("the server ended the stream without a status")
        return [CallEnded(event.stream_id, reason)]

    def _stream_reset(self, event: Any) -> list[Event]:
        reason = StreamLost(f"the server reset the stream ({_code(event.error_code)})")
        return [CallEnded(event.stream_id, reason)]

    def _connection_terminated(self, event: Any) -> list[Event]:
        # Also after a graceful one: h2 closes, and fails on what is still open.
        text = bytes(event.additional_data or b"").decode("ascii", "backslashreplace")
        return [
            ConnectionEnded(
                StreamLost(f"the server said GOAWAY ({_code(event.error_code)}) {text}")
            )
        ]


def _status_of(headers: dict[str, str]) -> Status | StreamLost:
    code = headers.get("grpc-status", "")
    if not (code.isascii() and code.isdigit()):
        return StreamLost("the server ended the stream without a status")
    return Status(StatusCode(int(code)), unquote(headers.get("grpc-message", "")))


def _code(code: object) -> str:
    return code.name if isinstance(code, h2.errors.ErrorCodes) else str(code)


def check_metadata(pairs: Metadata) -> None:
    """Refuse metadata that HTTP/2 or gRPC cannot carry; h2 3.2 would send it.

    Raises:
        TypeError, ValueError: naming the metadata, but never its value.
    """
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, str | bytes):
            raise TypeError(f"metadata must map str to str or bytes, got {name!r}")
        if name in _RESERVED:
            raise ValueError(f"metadata name {name!r} is HTTP/2's or gRPC's own")
        if not _METADATA_NAME.fullmatch(name) or name.startswith("grpc-"):
            raise ValueError(
                f"metadata name must be of a-z 0-9 _ . - and not begin with grpc-, "
                f"got {name!r}"
            )
        if name.endswith("-bin") is not isinstance(value, bytes):
            raise TypeError(
                f"metadata {name!r}: a value must be bytes if, and only if, its name "
                f"ends in -bin"
            )
        if isinstance(value, str) and not _METADATA_VALUE.fullmatch(value):
            raise ValueError(f"metadata {name!r}: its value must be printable ASCII")


def address_of(channel: object) -> tuple[str, int, SSLContext | None] | None:
    """Return host, port and TLS context of a purerpc channel; None for all else."""
    if not isinstance(channel, purerpc.client._Channel):
        return None
    return channel._host, channel._port, channel._ssl_context
