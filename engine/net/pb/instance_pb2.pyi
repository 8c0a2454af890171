from engine.net.pb import storage_pb2 as _storage_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FollowReport(_message.Message):
    __slots__ = ("instance", "min_read_lsn", "applied_lsn", "lag_us", "now_us")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    MIN_READ_LSN_FIELD_NUMBER: _ClassVar[int]
    APPLIED_LSN_FIELD_NUMBER: _ClassVar[int]
    LAG_US_FIELD_NUMBER: _ClassVar[int]
    NOW_US_FIELD_NUMBER: _ClassVar[int]
    instance: str
    min_read_lsn: int
    applied_lsn: int
    lag_us: int
    now_us: int
    def __init__(self, instance: _Optional[str] = ..., min_read_lsn: _Optional[int] = ..., applied_lsn: _Optional[int] = ..., lag_us: _Optional[int] = ..., now_us: _Optional[int] = ...) -> None: ...

class PgTail(_message.Message):
    __slots__ = ("pg", "lsn")
    PG_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    pg: int
    lsn: int
    def __init__(self, pg: _Optional[int] = ..., lsn: _Optional[int] = ...) -> None: ...

class FeedBase(_message.Message):
    __slots__ = ("epoch", "vdl", "tails", "memberships")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VDL_FIELD_NUMBER: _ClassVar[int]
    TAILS_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIPS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    vdl: _storage_pb2.CommitPoint
    tails: _containers.RepeatedCompositeFieldContainer[PgTail]
    memberships: _containers.RepeatedCompositeFieldContainer[_storage_pb2.PgMembership]
    def __init__(self, epoch: _Optional[int] = ..., vdl: _Optional[_Union[_storage_pb2.CommitPoint, _Mapping]] = ..., tails: _Optional[_Iterable[_Union[PgTail, _Mapping]]] = ..., memberships: _Optional[_Iterable[_Union[_storage_pb2.PgMembership, _Mapping]]] = ...) -> None: ...

class FeedItem(_message.Message):
    __slots__ = ("base", "frames", "vdl", "grown", "since_us")
    BASE_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    VDL_FIELD_NUMBER: _ClassVar[int]
    GROWN_FIELD_NUMBER: _ClassVar[int]
    SINCE_US_FIELD_NUMBER: _ClassVar[int]
    base: FeedBase
    frames: _containers.RepeatedScalarFieldContainer[bytes]
    vdl: int
    grown: _containers.RepeatedCompositeFieldContainer[_storage_pb2.PgMembership]
    since_us: int
    def __init__(self, base: _Optional[_Union[FeedBase, _Mapping]] = ..., frames: _Optional[_Iterable[bytes]] = ..., vdl: _Optional[int] = ..., grown: _Optional[_Iterable[_Union[_storage_pb2.PgMembership, _Mapping]]] = ..., since_us: _Optional[int] = ...) -> None: ...

class ConfirmedCommitRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConfirmedCommitReply(_message.Message):
    __slots__ = ("epoch", "lsn")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    lsn: int
    def __init__(self, epoch: _Optional[int] = ..., lsn: _Optional[int] = ...) -> None: ...

class InstanceStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InstanceStatusReply(_message.Message):
    __slots__ = ("instance", "role", "state", "pid", "epoch", "vcl", "vdl", "read_lsn", "volume_pages", "lag_us", "connections", "recovery_us", "counters", "replicas", "quorums", "stalled_us", "silent_us", "max_pages", "storage_full", "full_meetings", "tip", "wall_us", "read_us")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VCL_FIELD_NUMBER: _ClassVar[int]
    VDL_FIELD_NUMBER: _ClassVar[int]
    READ_LSN_FIELD_NUMBER: _ClassVar[int]
    VOLUME_PAGES_FIELD_NUMBER: _ClassVar[int]
    LAG_US_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_US_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    QUORUMS_FIELD_NUMBER: _ClassVar[int]
    STALLED_US_FIELD_NUMBER: _ClassVar[int]
    SILENT_US_FIELD_NUMBER: _ClassVar[int]
    MAX_PAGES_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FULL_FIELD_NUMBER: _ClassVar[int]
    FULL_MEETINGS_FIELD_NUMBER: _ClassVar[int]
    TIP_FIELD_NUMBER: _ClassVar[int]
    WALL_US_FIELD_NUMBER: _ClassVar[int]
    READ_US_FIELD_NUMBER: _ClassVar[int]
    instance: str
    role: str
    state: str
    pid: int
    epoch: int
    vcl: int
    vdl: int
    read_lsn: int
    volume_pages: int
    lag_us: int
    connections: int
    recovery_us: int
    counters: _containers.ScalarMap[str, int]
    replicas: _containers.RepeatedCompositeFieldContainer[FollowReport]
    quorums: _containers.RepeatedCompositeFieldContainer[PgQuorum]
    stalled_us: int
    silent_us: int
    max_pages: int
    storage_full: bool
    full_meetings: int
    tip: int
    wall_us: int
    read_us: int
    def __init__(self, instance: _Optional[str] = ..., role: _Optional[str] = ..., state: _Optional[str] = ..., pid: _Optional[int] = ..., epoch: _Optional[int] = ..., vcl: _Optional[int] = ..., vdl: _Optional[int] = ..., read_lsn: _Optional[int] = ..., volume_pages: _Optional[int] = ..., lag_us: _Optional[int] = ..., connections: _Optional[int] = ..., recovery_us: _Optional[int] = ..., counters: _Optional[_Mapping[str, int]] = ..., replicas: _Optional[_Iterable[_Union[FollowReport, _Mapping]]] = ..., quorums: _Optional[_Iterable[_Union[PgQuorum, _Mapping]]] = ..., stalled_us: _Optional[int] = ..., silent_us: _Optional[int] = ..., max_pages: _Optional[int] = ..., storage_full: _Optional[bool] = ..., full_meetings: _Optional[int] = ..., tip: _Optional[int] = ..., wall_us: _Optional[int] = ..., read_us: _Optional[int] = ...) -> None: ...

class PgQuorum(_message.Message):
    __slots__ = ("pg", "write", "read", "pgcl")
    PG_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    PGCL_FIELD_NUMBER: _ClassVar[int]
    pg: int
    write: bool
    read: bool
    pgcl: int
    def __init__(self, pg: _Optional[int] = ..., write: _Optional[bool] = ..., read: _Optional[bool] = ..., pgcl: _Optional[int] = ...) -> None: ...

class ImportChunk(_message.Message):
    __slots__ = ("page_count", "pages")
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    page_count: int
    pages: bytes
    def __init__(self, page_count: _Optional[int] = ..., pages: _Optional[bytes] = ...) -> None: ...

class ImportReply(_message.Message):
    __slots__ = ("commit_lsn", "redo_bytes")
    COMMIT_LSN_FIELD_NUMBER: _ClassVar[int]
    REDO_BYTES_FIELD_NUMBER: _ClassVar[int]
    commit_lsn: int
    redo_bytes: int
    def __init__(self, commit_lsn: _Optional[int] = ..., redo_bytes: _Optional[int] = ...) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("as_of",)
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    as_of: _storage_pb2.CommitPoint
    def __init__(self, as_of: _Optional[_Union[_storage_pb2.CommitPoint, _Mapping]] = ...) -> None: ...

class ExportChunk(_message.Message):
    __slots__ = ("page_count", "read_lsn", "pages")
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    READ_LSN_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    page_count: int
    read_lsn: int
    pages: bytes
    def __init__(self, page_count: _Optional[int] = ..., read_lsn: _Optional[int] = ..., pages: _Optional[bytes] = ...) -> None: ...

class HoldRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HeldReadPoint(_message.Message):
    __slots__ = ("epoch", "commit")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    commit: _storage_pb2.CommitPoint
    def __init__(self, epoch: _Optional[int] = ..., commit: _Optional[_Union[_storage_pb2.CommitPoint, _Mapping]] = ...) -> None: ...

class BacktrackChunk(_message.Message):
    __slots__ = ("past", "pages")
    PAST_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    past: _storage_pb2.CommitPoint
    pages: bytes
    def __init__(self, past: _Optional[_Union[_storage_pb2.CommitPoint, _Mapping]] = ..., pages: _Optional[bytes] = ...) -> None: ...

class BacktrackReply(_message.Message):
    __slots__ = ("before", "commit", "changed_pages", "unclosed")
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    CHANGED_PAGES_FIELD_NUMBER: _ClassVar[int]
    UNCLOSED_FIELD_NUMBER: _ClassVar[int]
    before: _storage_pb2.CommitPoint
    commit: _storage_pb2.CommitPoint
    changed_pages: int
    unclosed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, before: _Optional[_Union[_storage_pb2.CommitPoint, _Mapping]] = ..., commit: _Optional[_Union[_storage_pb2.CommitPoint, _Mapping]] = ..., changed_pages: _Optional[int] = ..., unclosed: _Optional[_Iterable[str]] = ...) -> None: ...

class DismissClientsRequest(_message.Message):
    __slots__ = ("why", "after_lsn")
    WHY_FIELD_NUMBER: _ClassVar[int]
    AFTER_LSN_FIELD_NUMBER: _ClassVar[int]
    why: str
    after_lsn: int
    def __init__(self, why: _Optional[str] = ..., after_lsn: _Optional[int] = ...) -> None: ...

class DismissClientsReply(_message.Message):
    __slots__ = ("read_lsn",)
    READ_LSN_FIELD_NUMBER: _ClassVar[int]
    read_lsn: int
    def __init__(self, read_lsn: _Optional[int] = ...) -> None: ...
