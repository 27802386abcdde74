"""Unparsable messages raise one error, with each implementation of protobuf."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from trio_etcd_watch._parsing import parse
from trio_etcd_watch._pb import watch_pb2 as pb

ROOT = Path(__file__).parents[2]

IMPLEMENTATIONS = ["upb", "python"]

# Text fields with a byte that is not UTF-8: a token, a reason, a name, a URL. The
# others are truncated, or end a group that has not begun.
BROKEN = [
    ("AuthenticateResponse", b"\x12\x01\xff"),
    ("AuthenticateResponse", b"\x12\x7f"),
    ("WatchResponse", b"\x32\x01\xff"),
    ("WatchResponse", b"\x0c"),
    ("RangeResponse", b"\x12\x7f"),
    ("MemberListResponse", b"\x12\x03\x12\x01\xff"),
    ("MemberListResponse", b"\x12\x03\x22\x01\xff"),
    ("MemberListResponse", b"\x12\x7f"),
]


def run(program: str, implementation: str) -> None:
    """Run a program on one implementation of protobuf, with our decoder in Python."""
    runtime = {
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation,
        "TRIO_ETCD_WATCH_PURE": "1",
    }
    check = f"""
from google.protobuf.internal import api_implementation
assert api_implementation.Type() == {implementation!r}
"""
    subprocess.run(
        [sys.executable, "-c", check + program],
        env=os.environ | runtime,
        cwd=ROOT,
        check=True,
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_cannot_be_parsed_is_one_error(implementation: str) -> None:
    program = f"""
from trio_etcd_watch._parsing import parse
from trio_etcd_watch._pb import watch_pb2 as pb
for name, data in {BROKEN!r}:
    try:
        parse(getattr(pb, name), data)
    except ValueError as exc:
        assert type(exc) is ValueError, (name, data)
        assert str(exc) == f"{{len(data)}} bytes are not a {{name}}", exc
    else:
        raise AssertionError((name, data))
"""
    run(program, implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_response_that_cannot_be_parsed_is_a_lost_stream(implementation: str) -> None:
    program = f"""
from trio_etcd_watch._grpc.status import StreamLost
from trio_etcd_watch._pages import decode_range
from trio_etcd_watch._responses import decode
for name, data in {BROKEN!r}:
    if name not in ("WatchResponse", "RangeResponse"):
        continue
    try:
        decode(data) if name == "WatchResponse" else decode_range(data)
    except StreamLost as exc:
        kind = "watch" if name == "WatchResponse" else "range"
        assert str(exc).endswith(f"{{len(data)}} bytes are not a {{kind}} response"), exc
    else:
        raise AssertionError((name, data))
"""
    run(program, implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_token_that_cannot_be_parsed_is_a_lost_stream(implementation: str) -> None:
    program = f"""
import trio
from tests.support.members import Member
from tests.support.peer import serve_tcp
from trio_etcd_watch import Channel, Credentials
from trio_etcd_watch._connector import Connector
from trio_etcd_watch._grpc.status import StreamLost
async def main():
    member = Member()
    async with serve_tcp(member.serve) as endpoint, trio.open_nursery() as nursery:
        channel = Channel(endpoint, credentials=Credentials("root", "s3cret"))
        connector = Connector(channel, nursery)
        for name, member.token_reply in {BROKEN!r}:
            if name != "AuthenticateResponse":
                continue
            try:
                await connector.connect()
            except StreamLost as exc:
                assert str(exc) == "the answer to Authenticate cannot be parsed", exc
            else:
                raise AssertionError(member.token_reply)
        nursery.cancel_scope.cancel(reason="the test is over")
trio.run(main)
"""
    run(program, implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_list_that_cannot_be_parsed_changes_nothing(implementation: str) -> None:
    program = f"""
import trio
from tests.support.following import cluster
from tests.support.members import Member
async def main():
    member = Member(urls=["http://m2:1"])
    async with cluster(member) as made:
        await made.connect()
        await made.settle(1)
        for name, member.list_reply in {BROKEN!r}:
            if name == "MemberListResponse":
                (await made.connect()).close("the test wants another")
                await made.connect()
                await made.settle(len(member.lists) + 1)
                assert made.known("member") == ["m2:1"]
        assert len(member.lists) == 4
trio.run(main)
"""
    run(program, implementation)


def test_what_is_parsed_is_returned() -> None:
    message = pb.AuthenticateResponse(token="t")
    assert parse(pb.AuthenticateResponse, message.SerializeToString()) == message


def test_a_range_has_no_text() -> None:
    """Callers of the parser need not expect text that is not UTF-8 (`_stream`)."""
    file = FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    fields = {message.name: message.field for message in file.message_type}

    def texts(name: str) -> Iterator[str]:
        for field in fields[name]:
            if field.type == FieldDescriptorProto.TYPE_STRING:
                yield f"{name}.{field.name}"
            elif field.type == FieldDescriptorProto.TYPE_MESSAGE:
                yield from texts(field.type_name.rpartition(".")[2])

    assert list(texts("RangeResponse")) == []
    assert list(texts("WatchResponse")) == ["WatchResponse.cancel_reason"]
    assert list(texts("MemberListResponse")) == ["Member.name", "Member.clientURLs"]
