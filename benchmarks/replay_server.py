"""Serve one prepared Watch stream to every client that connects.

All bytes are prepared before the first client connects, so that sending costs the
server some microseconds per 256 KiB, and the client is what is measured. The server
implements just enough of HTTP/2 for one stream, and obeys the client's flow control,
which begins at 64 KiB in Go.

The stream has a Created reply for each creation that the client sends. Once all watches
are created, the responses follow, with revisions that increase by one per event. As in
grpc-go, each message begins a DATA frame, and a message above 16,384 bytes continues in
further frames.
"""

from __future__ import annotations

import argparse
import select
import socket
import struct
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from trio_etcd_watch._pb import watch_pb2 as pb

FIRST_REVISION: Final = 3_000_000
"""The revision of the first event."""
KEY_SIZE: Final = len("/config/service/key000")
VALUE_SIZE: Final = 64

_CHUNK: Final = 256 * 1024
"""Maximum number of bytes per call of `send()` or `recv()`."""
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_STREAM: Final = 1
_MAX_FRAME: Final = 16_384
_MAX_WINDOW: Final = 2**31 - 1
_DEFAULT_WINDOW: Final = 65_535
_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 4, 6, 8
_ACK: Final = 0x1
_END_HEADERS: Final = 0x4
_INITIAL_WINDOW_SIZE: Final = 4
# HPACK: the 8th entry of the static table, then a literal for its 31st.
_RESPONSE_HEADERS: Final = b"\x88\x5f\x10application/grpc"


def checksum(events: int) -> int:
    """Return the sum of `metering.Meter` after this number of events."""
    revisions = FIRST_REVISION * events + events * (events - 1) // 2
    return events * (KEY_SIZE + VALUE_SIZE) + revisions


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">LBL", len(payload) << 8 | kind, flags, stream_id) + payload


@dataclass(slots=True)
class Script:
    """The DATA frames of the stream, as one byte string with two indexes."""

    frames: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("Q", [0]))
    """For each n, the number of bytes up to the end of the n-th frame."""
    flow: array[int] = field(default_factory=lambda: array("Q", [0]))
    """For each n, the number of those bytes that count for flow control."""

    def add(self, response: pb.WatchResponse) -> None:
        """Append one message."""
        message = response.SerializeToString()
        data = b"\0" + len(message).to_bytes(4) + message
        for start in range(0, len(data), _MAX_FRAME):
            part = data[start : start + _MAX_FRAME]
            self.frames += _frame(_DATA, 0, _STREAM, part)
            self.ends.append(len(self.frames))
            self.flow.append(self.flow[-1] + len(part))


def make_script(
    *, watches: int, responses: int, events_per_response: int, busy: int
) -> Script:
    """Prepare the stream.

    Args:
        watches: How many creations to answer.
        responses: How many responses follow.
        events_per_response: How many events each of them has.
        busy: How many of the watches get events; they take turns.
    """
    script = Script()
    response = pb.WatchResponse(created=True)
    header = response.header
    header.cluster_id, header.member_id = 0xCDF818194E3A8C32, 0x8E9E05C52164694D
    header.revision, header.raft_term = FIRST_REVISION - 1, 2
    for watch_id in range(watches):
        response.watch_id = watch_id
        script.add(response)
    response.created = False
    events = [response.events.add() for _ in range(events_per_response)]
    for event in events:
        event.kv.value = b"v" * VALUE_SIZE
    revision = FIRST_REVISION
    for i in range(responses):
        response.watch_id = i % busy
        for event in events:
            kv = event.kv
            kv.key = b"/config/service/key%03d" % (revision % 1000)
            kv.mod_revision = revision
            # A mirror checks that a key is created, and its versions consecutive.
            kv.create_revision = FIRST_REVISION + revision % 1000
            kv.version = (revision - FIRST_REVISION) // 1000 + 1
            revision += 1
        header.revision = revision - 1
        script.add(response)
    return script


class Connection:
    """The connection of one client."""

    def __init__(
        self, sock: socket.socket, script: Script, watches: int, settle: float
    ) -> None:
        """Serve the script, which is made for this number of watches.

        The first event follows `settle` seconds after the last Created reply.
        """
        self._sock = sock
        self._script = script
        self._watches = watches
        self._settle = settle
        self._received = bytearray()
        self._preface_seen = False
        self._requests = bytearray()
        self._creations = 0
        self._play_at = float("inf")
        # Control frames are sent before further frames of the script.
        self._control = bytearray(
            _frame(
                _SETTINGS, 0, 0, struct.pack(">HL", _INITIAL_WINDOW_SIZE, _MAX_WINDOW)
            )
            + _frame(_WINDOW_UPDATE, 0, 0, (_MAX_WINDOW - _DEFAULT_WINDOW).to_bytes(4))
        )
        self._unsent = memoryview(b"")
        self._frames_sent = 0
        self._initial_window = _DEFAULT_WINDOW
        self._windows = {0: _DEFAULT_WINDOW, _STREAM: _DEFAULT_WINDOW}

    def serve(self) -> None:
        """Serve the client until it disconnects."""
        sock = self._sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        while True:
            if not self._unsent:
                self._unsent = memoryview(self._next_chunk())
            settled = time.monotonic() >= self._play_at
            readable, writable, _ = select.select(
                [sock], [sock] if self._unsent else [], [], None if settled else 0.05
            )
            if writable:
                self._unsent = self._unsent[sock.send(self._unsent) :]
            if readable:
                data = sock.recv(_CHUNK)
                if not data:
                    return
                self._received += data
                self._read_frames()

    def _next_chunk(self) -> bytes:
        """Return the complete frames that may be sent now."""
        if self._control:
            chunk, self._control = bytes(self._control), bytearray()
            return chunk
        script, first = self._script, self._frames_sent
        window = min(self._windows.values())
        last = min(
            bisect_right(script.flow, script.flow[first] + window) - 1,
            bisect_right(script.ends, script.ends[first] + _CHUNK) - 1,
        )
        if time.monotonic() < self._play_at:
            last = min(last, self._creations)
        if last <= first:
            return b""
        for stream_id in self._windows:
            self._windows[stream_id] -= script.flow[last] - script.flow[first]
        self._frames_sent = last
        return bytes(script.frames[script.ends[first] : script.ends[last]])

    def _read_frames(self) -> None:
        received = self._received
        if not self._preface_seen:
            if len(received) < len(_PREFACE):
                return
            if not received.startswith(_PREFACE):
                raise ValueError("the client does not speak HTTP/2")
            del received[: len(_PREFACE)]
            self._preface_seen = True
        start = 0
        while start + 9 <= len(received):
            word, flags, stream_id = struct.unpack_from(">LBL", received, start)
            end = start + 9 + (word >> 8)
            if end > len(received):
                break
            payload = bytes(received[start + 9 : end])
            self._read_frame(word & 0xFF, flags, stream_id, payload)
            start = end
        del received[:start]

    def _read_frame(
        self, kind: int, flags: int, stream_id: int, payload: bytes
    ) -> None:
        if stream_id not in self._windows:
            raise ValueError(f"there is no stream {stream_id}, only {_STREAM}")
        if kind == _HEADERS:
            self._control += _frame(_HEADERS, _END_HEADERS, _STREAM, _RESPONSE_HEADERS)
        elif kind == _DATA:
            self._requests += payload
            self._read_requests()
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in struct.iter_unpack(">HL", payload):
                if name == _INITIAL_WINDOW_SIZE:
                    self._windows[_STREAM] += value - self._initial_window
                    self._initial_window = value
            self._control += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            # Go and gRPC also use PING to compute how large their windows should be.
            self._control += _frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE:
            self._windows[stream_id] += int.from_bytes(payload)

    def _read_requests(self) -> None:
        requests = self._requests
        while len(requests) >= 5:
            end = 5 + int.from_bytes(requests[1:5])
            if len(requests) < end:
                break
            request = pb.WatchRequest.FromString(bytes(requests[5:end]))
            del requests[:end]
            if request.HasField("create_request"):
                self._creations += 1
                if self._creations > self._watches:
                    # It has parked or lost a watch, so the run is not comparable.
                    raise ValueError("the client creates a watch again")
        if self._creations == self._watches and self._play_at == float("inf"):
            self._play_at = time.monotonic() + self._settle


def _clients(listener: socket.socket) -> Iterator[socket.socket]:
    while True:
        sock, _ = listener.accept()
        with sock:
            yield sock


def main() -> None:
    """Prepare the stream, print the endpoint, and serve clients one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watches", type=int, default=1)
    parser.add_argument("--responses", type=int, required=True)
    parser.add_argument("--events-per-response", type=int, default=1)
    parser.add_argument("--busy", type=int, default=1)
    parser.add_argument(
        "--settle",
        type=float,
        default=0.3,
        help="seconds between the last Created reply and the first event, so that the "
        "client is idle when its clock starts (default: %(default)s)",
    )
    args = parser.parse_args()
    script = make_script(
        watches=args.watches,
        responses=args.responses,
        events_per_response=args.events_per_response,
        busy=args.busy,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        print(f"{host}:{port}", flush=True)
        for sock in _clients(listener):
            with suppress(ConnectionError):
                Connection(sock, script, args.watches, args.settle).serve()


if __name__ == "__main__":
    main()
