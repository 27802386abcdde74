"""Drives h2, and translates its events into those of gRPC calls; does no I/O.

A reset, a GOAWAY or an answer that is not gRPC ends the call, or the connection, with a
`StreamLost` that gives the reason. Works with h2 3.2 and with every version 4.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from .frames import CONNECTION_WINDOW, STREAM_WINDOW
from .messages import MAX_FRAME_SIZE
from .metadata import Metadata, header_fields
from .status import CallEnd, Status, StatusCode, StreamLost, TooManyPings

MAX_HEADER_LIST_SIZE = 65_536
"""The largest header list of a response, in bytes."""

USER_AGENT = "trio-etcd-watch"

_DEFAULT_WINDOW = 65_535

# What bytes that break the protocol can raise. h2 converts the exceptions of hyperframe
# and hpack to its own, but 3.2 lets IndexError through (an empty header name); int()
# raises ValueError for a grpc-status of thousands of digits. Fuzzing 70,000 sessions
# found no other.
_PEER_ERRORS = (h2.exceptions.ProtocolError, ValueError, IndexError)


# At DEBUG hpack logs every header, including auth tokens.
if logging.getLogger("hpack").level == logging.NOTSET:
    logging.getLogger("hpack").setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class ResponseStarted:
    """The response of this stream has begun: DATA may follow."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The server has ended this call, or violated the protocol on it."""

    stream_id: int
    end: CallEnd


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """The server sent GOAWAY."""

    reason: StreamLost


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """More may be sent, on one stream or on all."""


Event: TypeAlias = ResponseStarted | CallEnded | ConnectionEnded | WindowOpened


class Http2:
    """The state of one connection, as a client."""

    def __init__(self) -> None:
        codes = h2.settings.SettingCodes
        # Header fields stay bytes, since a peer could send undecodable ones.
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                codes.ENABLE_PUSH: 0,
                codes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                codes.MAX_FRAME_SIZE: MAX_FRAME_SIZE,
                codes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_SIZE,
            },
        )
        self._h2.max_inbound_frame_size = MAX_FRAME_SIZE
        self._h2.decoder.max_header_list_size = MAX_HEADER_LIST_SIZE

    def initiate_connection(self) -> None:
        """Queue the connection preface and our SETTINGS for sending."""
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - _DEFAULT_WINDOW)

    def data_to_send(self) -> bytes:
        """Return the bytes to send, and forget them."""
        data: bytes = self._h2.data_to_send()
        return data

    def open(self, scheme: str, authority: str, path: str, metadata: Metadata) -> int:
        """Start a request of `/service/method`; return its stream id.

        Raises:
            StreamLost: this connection cannot carry another stream.
        """
        headers = [
            (":method", "POST"),
            (":scheme", scheme),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", USER_AGENT),
            *header_fields(metadata),
        ]
        try:
            stream_id: int = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, headers)
        except h2.exceptions.H2Error as exc:
            raise StreamLost(f"no new stream on this connection: {exc!r}") from exc
        return stream_id

    def flow_control_window(self, stream_id: int) -> int:
        """Return how many bytes the next DATA frame of this stream may have."""
        window: int = self._h2.local_flow_control_window(stream_id)
        largest: int = self._h2.max_outbound_frame_size
        return min(window, largest)

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Send one frame of DATA, within `flow_control_window()`."""
        self._h2.send_data(stream_id, data, end_stream=end_stream)

    def reset(self, stream_id: int) -> None:
        """Send RST_STREAM (CANCEL), unless both sides have ended the stream."""
        try:
            self._h2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
        except h2.exceptions.ProtocolError:
            return

    def ping(self) -> None:
        """Send PING; any byte that arrives afterwards counts as the answer."""
        self._h2.ping(bytes(8))

    def receive(self, frame: bytes) -> list[Event]:
        """Parse one whole frame that is not DATA of an open response.

        Raises:
            StreamLost: it breaks the protocol; the connection cannot be used any more.
        """
        try:
            events = self._h2.receive_data(frame)
            return [ours for event in events for ours in self._meaning_of(event)]
        except _PEER_ERRORS as exc:
            raise StreamLost(f"the server broke HTTP/2: {exc!r}") from exc

    # h2 has more events, which do not affect a call: pings, acknowledgements,
    # informational responses, priorities, unknown frames.

    def _meaning_of(self, event: Any) -> Iterable[Event]:
        match event:
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                return (WindowOpened(),)
            case h2.events.ResponseReceived():
                return (_response_received(event),)
            case h2.events.TrailersReceived():
                end = _status_of(_fields(event.headers))
                return (CallEnded(event.stream_id, end),)
            case h2.events.DataReceived():
                return self._data_received(event)
            case h2.events.StreamEnded():
                # After a status `Connection` has forgotten the call, and ignores this.
                return (_broken(event, "the server ended the stream without a status"),)
            case h2.events.StreamReset():
                code = _name_of(event.error_code)
                return (_broken(event, f"the server reset the stream ({code})"),)
            case h2.events.ConnectionTerminated():
                return (_connection_terminated(event),)
            case _:
                return ()

    def _data_received(self, event: Any) -> Iterable[Event]:
        # `FrameReader` handles the DATA of a stream whose response has begun.
        if not event.flow_controlled_length:
            return ()
        # h2 has subtracted it from the connection's window, which streams share.
        self._h2.acknowledge_received_data(
            event.flow_controlled_length, event.stream_id
        )
        return (_broken(event, "not gRPC: DATA outside of a response"),)


def _response_received(event: Any) -> Event:
    headers = _fields(event.headers)
    status, kind = headers.get(":status"), headers.get("content-type", "")
    if status != "200":
        return _broken(event, f"not gRPC: the server answers HTTP status {status}")
    if not kind.startswith("application/grpc"):
        return _broken(event, f"not gRPC: the server answers content-type {kind!r}")
    if event.stream_ended:
        return CallEnded(event.stream_id, _status_of(headers))
    return ResponseStarted(event.stream_id)


def _connection_terminated(event: Any) -> Event:
    # A graceful GOAWAY is an end, too: h2 then raises for streams still open.
    text = bytes(event.additional_data or b"").decode("ascii", "backslashreplace")
    code = _name_of(event.error_code)
    # How gRPC servers report too many pings (gRFC A8, "Throttling").
    pinged = code == "ENHANCE_YOUR_CALM" and text == "too_many_pings"
    kind = TooManyPings if pinged else StreamLost
    return ConnectionEnded(kind(f"the server said GOAWAY ({code}) {text}"))


def _broken(event: Any, reason: str) -> CallEnded:
    return CallEnded(event.stream_id, StreamLost(reason))


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {
        name.decode("utf-8", "backslashreplace"): value.decode(
            "utf-8", "backslashreplace"
        )
        for name, value in headers
    }


def _status_of(headers: dict[str, str]) -> CallEnd:
    code = headers.get("grpc-status", "")
    if not (code.isascii() and code.isdigit()):
        return StreamLost("the server ended the stream without a status")
    return Status(StatusCode(int(code)), unquote(headers.get("grpc-message", "")))


def _name_of(code: object) -> str:
    return code.name if isinstance(code, h2.errors.ErrorCodes) else str(code)
