"""Client with bare Trio: a task reads frames, and one per watch reads a memory channel.

This is a lower bound for the cost of a client of this structure. Nothing is checked,
resumed or bounded, and there is no flow control: the largest window of HTTP/2 is opened
at the start.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.settings
import trio

from benchmarks.metering import PREFIX, PREFIX_END, Job, Meter, read_job
from trio_etcd_watch._pb import watch_pb2 as pb
from trio_etcd_watch._responses import RawResponse, decode

LARGEST_WINDOW = 2**31 - 1
HEADER_SIZE = 9
SETTINGS_ACK = b"\0\0\0\x04\x01\0\0\0\0"


def opening_bytes(job: Job) -> bytes:
    """Return all bytes to send but one acknowledgment: a stream and its creations."""
    connection = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
    )
    connection.initiate_connection()
    connection.update_settings(
        {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: LARGEST_WINDOW}
    )
    connection.increment_flow_control_window(LARGEST_WINDOW - 65_535)
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":authority": job.endpoint,
        ":path": "/etcdserverpb.Watch/Watch",
        "te": "trailers",
        "content-type": "application/grpc+proto",
    }
    connection.send_headers(1, list(headers.items()))
    request = pb.WatchRequest()
    request.create_request.key = PREFIX
    request.create_request.range_end = PREFIX_END
    request.create_request.start_revision = job.start_revision
    message = request.SerializeToString()
    prefixed = b"\0" + len(message).to_bytes(4) + message
    # These frames are not made by h2, which would wait for the server's window.
    frame = len(prefixed).to_bytes(3) + b"\0\0" + (1).to_bytes(4) + prefixed
    return bytes(connection.data_to_send() + frame * job.watches)


class Messages:
    """Splits the received bytes into the messages of the only stream."""

    def __init__(self) -> None:
        """Begin without data."""
        self._frames = bytearray()
        self._data = bytearray()

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that are complete."""
        frames = self._frames
        frames += data
        at = 0
        while at + HEADER_SIZE <= len(frames):
            size = int.from_bytes(frames[at : at + 3])
            end = at + HEADER_SIZE + size
            if end > len(frames):
                break
            if frames[at + 3] == 0:  # DATA
                self._data += frames[at + HEADER_SIZE : end]
            at = end
        del frames[:at]
        at = 0
        while at + 5 <= len(self._data):
            end = at + 5 + int.from_bytes(self._data[at + 1 : at + 5])
            if end > len(self._data):
                break
            yield bytes(self._data[at + 5 : end])
            at = end
        del self._data[:at]


async def consume(
    channel: trio.MemoryReceiveChannel[RawResponse], meter: Meter, end: trio.CancelScope
) -> None:
    """Count the events of one watch."""
    async for response in channel:
        if meter.add(response.events):
            meter.report()
            end.cancel()


async def main() -> None:
    """Read until all events have arrived."""
    job = read_job("replay", "latency")
    meter = Meter(job)
    stream = await trio.open_tcp_stream(job.host, job.port)
    await stream.send_all(opening_bytes(job) + SETTINGS_ACK)
    async with trio.open_nursery() as nursery:
        channels = []
        for _ in range(job.watches):
            send, receive = trio.open_memory_channel[RawResponse](math.inf)
            channels.append(send)
            nursery.start_soon(consume, receive, meter, nursery.cancel_scope)
        messages = Messages()
        while True:
            for message in messages.receive(await stream.receive_some(122_880)):
                response = decode(message)
                if response.events:
                    channels[response.watch_id].send_nowait(response)


if __name__ == "__main__":
    trio.run(main)
