"""The generated messages are up to date, compatible with etcd, and in no one's way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aetcd.rpc
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from trio_etcd_watch._pb import watch_pb2

ROOT = Path(__file__).parents[2]
GENERATED = "trio_etcd_watch/_pb"
OURS = watch_pb2.DESCRIPTOR.message_types_by_name


def test_generated_code_is_current(tmp_path: Path) -> None:
    # The command of `make protos`.
    subprocess.run(
        [
            *(sys.executable, "-m", "protoc", f"--proto_path={GENERATED}=protos"),
            *(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"),
            *sorted(str(file) for file in Path("protos").glob("*.proto")),
        ],
        cwd=ROOT,
        check=True,
    )
    fresh = {file.name: file.read_text() for file in (tmp_path / GENERATED).iterdir()}
    committed = {
        file.name: file.read_text()
        for file in (ROOT / GENERATED).glob("*.py*")
        if file.name != "__init__.py"
    }
    assert committed == fresh, "run `make protos`"


def wire_format(message: Descriptor) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yield what determines a message's bytes: its fields, and its enums' values.

    Names of types have no package, because ours differs from etcd's.
    """
    file = FileDescriptorProto.FromString(message.file.serialized_pb)
    proto = next(found for found in file.message_type if found.name == message.name)
    oneofs = [oneof.name for oneof in proto.oneof_decl]
    for field in proto.field:
        oneof = oneofs[field.oneof_index] if field.HasField("oneof_index") else None
        type_name = field.type_name.split(".", 2)[-1]  # ".package.Event" -> "Event"
        label = FieldDescriptorProto.Label.Name(field.label)
        kind = FieldDescriptorProto.Type.Name(field.type)
        yield field.name, (field.number, label, kind, type_name, oneof)
    for enum in proto.enum_type:
        for value in enum.value:
            yield f"{enum.name}.{value.name}", (value.number,)


@pytest.mark.parametrize("name", sorted(OURS))
def test_wire_format_is_etcds(name: str) -> None:
    theirs = dict(wire_format(getattr(aetcd.rpc, name).DESCRIPTOR))
    for part, ours in wire_format(OURS[name]):
        assert (part, ours) == (part, theirs[part])


# etcd3's generated code is from 2019, and works only with protobuf's Python runtime.
@pytest.mark.parametrize(("other", "runtime"), [("aetcd", "upb"), ("etcd3", "python")])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_imports_beside_other_clients(other: str, runtime: str, first: str) -> None:
    ours = "trio_etcd_watch._pb.watch_pb2"
    order = [ours, other] if first == "ours" else [other, ours]
    subprocess.run(
        [sys.executable, "-c", f"import {', '.join(order)}"],
        env=os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": runtime},
        check=True,
    )
