from trio_etcd_watch._pb import watch_pb2 as _watch_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KeyValueColumns(_message.Message):
    __slots__ = ("key", "create_revision", "mod_revision", "version", "value", "lease")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CREATE_REVISION_FIELD_NUMBER: _ClassVar[int]
    MOD_REVISION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    key: _containers.RepeatedScalarFieldContainer[bytes]
    create_revision: _containers.RepeatedScalarFieldContainer[int]
    mod_revision: _containers.RepeatedScalarFieldContainer[int]
    version: _containers.RepeatedScalarFieldContainer[int]
    value: _containers.RepeatedScalarFieldContainer[bytes]
    lease: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, key: _Optional[_Iterable[bytes]] = ..., create_revision: _Optional[_Iterable[int]] = ..., mod_revision: _Optional[_Iterable[int]] = ..., version: _Optional[_Iterable[int]] = ..., value: _Optional[_Iterable[bytes]] = ..., lease: _Optional[_Iterable[int]] = ...) -> None: ...

class EventColumns(_message.Message):
    __slots__ = ("type", "kv", "prev_kv")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    KV_FIELD_NUMBER: _ClassVar[int]
    PREV_KV_FIELD_NUMBER: _ClassVar[int]
    type: _containers.RepeatedScalarFieldContainer[int]
    kv: KeyValueColumns
    prev_kv: KeyValueColumns
    def __init__(self, type: _Optional[_Iterable[int]] = ..., kv: _Optional[_Union[KeyValueColumns, _Mapping]] = ..., prev_kv: _Optional[_Union[KeyValueColumns, _Mapping]] = ...) -> None: ...

class WatchResponseColumns(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: EventColumns
    def __init__(self, events: _Optional[_Union[EventColumns, _Mapping]] = ...) -> None: ...

class RangeResponseColumns(_message.Message):
    __slots__ = ("kvs",)
    KVS_FIELD_NUMBER: _ClassVar[int]
    kvs: KeyValueColumns
    def __init__(self, kvs: _Optional[_Union[KeyValueColumns, _Mapping]] = ...) -> None: ...

class WatchResponseApart(_message.Message):
    __slots__ = ("header", "watch_id", "created", "canceled", "compact_revision", "cancel_reason", "fragment", "events")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    WATCH_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    CANCELED_FIELD_NUMBER: _ClassVar[int]
    COMPACT_REVISION_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REASON_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    header: _watch_pb2.ResponseHeader
    watch_id: int
    created: bool
    canceled: bool
    compact_revision: int
    cancel_reason: str
    fragment: bool
    events: _containers.RepeatedCompositeFieldContainer[EventApart]
    def __init__(self, header: _Optional[_Union[_watch_pb2.ResponseHeader, _Mapping]] = ..., watch_id: _Optional[int] = ..., created: bool = ..., canceled: bool = ..., compact_revision: _Optional[int] = ..., cancel_reason: _Optional[str] = ..., fragment: bool = ..., events: _Optional[_Iterable[_Union[EventApart, _Mapping]]] = ...) -> None: ...

class EventApart(_message.Message):
    __slots__ = ("type", "kv", "prev_kv")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    KV_FIELD_NUMBER: _ClassVar[int]
    PREV_KV_FIELD_NUMBER: _ClassVar[int]
    type: int
    kv: _watch_pb2.KeyValue
    prev_kv: _watch_pb2.KeyValue
    def __init__(self, type: _Optional[int] = ..., kv: _Optional[_Union[_watch_pb2.KeyValue, _Mapping]] = ..., prev_kv: _Optional[_Union[_watch_pb2.KeyValue, _Mapping]] = ...) -> None: ...

class KeysApart(_message.Message):
    __slots__ = ("kvs",)
    KVS_FIELD_NUMBER: _ClassVar[int]
    kvs: _containers.RepeatedCompositeFieldContainer[_watch_pb2.KeyValue]
    def __init__(self, kvs: _Optional[_Iterable[_Union[_watch_pb2.KeyValue, _Mapping]]] = ...) -> None: ...

class EventsMerged(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _watch_pb2.Event
    def __init__(self, events: _Optional[_Union[_watch_pb2.Event, _Mapping]] = ...) -> None: ...

class KeysMerged(_message.Message):
    __slots__ = ("kvs",)
    KVS_FIELD_NUMBER: _ClassVar[int]
    kvs: _watch_pb2.KeyValue
    def __init__(self, kvs: _Optional[_Union[_watch_pb2.KeyValue, _Mapping]] = ...) -> None: ...
