from engine.net.pb import storage_pb2 as _storage_pb2
from engine.net.pb import instance_pb2 as _instance_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegisterRequest(_message.Message):
    __slots__ = ("name", "kind", "az", "address", "pid", "incarnation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    AZ_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    az: str
    address: str
    pid: int
    incarnation: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., az: _Optional[str] = ..., address: _Optional[str] = ..., pid: _Optional[int] = ..., incarnation: _Optional[str] = ...) -> None: ...

class RegisterReply(_message.Message):
    __slots__ = ("segments",)
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[_storage_pb2.SegmentAssignment]
    def __init__(self, segments: _Optional[_Iterable[_Union[_storage_pb2.SegmentAssignment, _Mapping]]] = ...) -> None: ...

class WatchClusterRequest(_message.Message):
    __slots__ = ("cluster",)
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    def __init__(self, cluster: _Optional[str] = ...) -> None: ...

class InstanceView(_message.Message):
    __slots__ = ("name", "az", "address", "role", "socket", "tier", "size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AZ_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    SOCKET_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    az: str
    address: str
    role: str
    socket: str
    tier: int
    size: str
    def __init__(self, name: _Optional[str] = ..., az: _Optional[str] = ..., address: _Optional[str] = ..., role: _Optional[str] = ..., socket: _Optional[str] = ..., tier: _Optional[int] = ..., size: _Optional[str] = ...) -> None: ...

class ClusterView(_message.Message):
    __slots__ = ("cluster", "volume", "max_pages", "instances", "memberships", "volume_epoch", "version", "fork")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    MAX_PAGES_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIPS_FIELD_NUMBER: _ClassVar[int]
    VOLUME_EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FORK_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    volume: int
    max_pages: int
    instances: _containers.RepeatedCompositeFieldContainer[InstanceView]
    memberships: _containers.RepeatedCompositeFieldContainer[_storage_pb2.PgMembership]
    volume_epoch: int
    version: int
    fork: _storage_pb2.CommitPoint
    def __init__(self, cluster: _Optional[str] = ..., volume: _Optional[int] = ..., max_pages: _Optional[int] = ..., instances: _Optional[_Iterable[_Union[InstanceView, _Mapping]]] = ..., memberships: _Optional[_Iterable[_Union[_storage_pb2.PgMembership, _Mapping]]] = ..., volume_epoch: _Optional[int] = ..., version: _Optional[int] = ..., fork: _Optional[_Union[_storage_pb2.CommitPoint, _Mapping]] = ...) -> None: ...

class OpenVolumeRequest(_message.Message):
    __slots__ = ("cluster", "instance")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    instance: str
    def __init__(self, cluster: _Optional[str] = ..., instance: _Optional[str] = ...) -> None: ...

class OpenVolumeReply(_message.Message):
    __slots__ = ("volume", "epoch", "max_pages", "memberships", "storage_full")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MAX_PAGES_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIPS_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FULL_FIELD_NUMBER: _ClassVar[int]
    volume: int
    epoch: int
    max_pages: int
    memberships: _containers.RepeatedCompositeFieldContainer[_storage_pb2.PgMembership]
    storage_full: bool
    def __init__(self, volume: _Optional[int] = ..., epoch: _Optional[int] = ..., max_pages: _Optional[int] = ..., memberships: _Optional[_Iterable[_Union[_storage_pb2.PgMembership, _Mapping]]] = ..., storage_full: _Optional[bool] = ...) -> None: ...

class GrowVolumeRequest(_message.Message):
    __slots__ = ("cluster", "epoch", "pg")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PG_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    epoch: int
    pg: int
    def __init__(self, cluster: _Optional[str] = ..., epoch: _Optional[int] = ..., pg: _Optional[int] = ...) -> None: ...

class GrowVolumeReply(_message.Message):
    __slots__ = ("memberships",)
    MEMBERSHIPS_FIELD_NUMBER: _ClassVar[int]
    memberships: _containers.RepeatedCompositeFieldContainer[_storage_pb2.PgMembership]
    def __init__(self, memberships: _Optional[_Iterable[_Union[_storage_pb2.PgMembership, _Mapping]]] = ...) -> None: ...

class AdoptLayoutRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AdoptLayoutReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClusterStatusRequest(_message.Message):
    __slots__ = ("cluster",)
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    def __init__(self, cluster: _Optional[str] = ...) -> None: ...

class InstanceReport(_message.Message):
    __slots__ = ("view", "status", "error")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    view: InstanceView
    status: _instance_pb2.InstanceStatusReply
    error: str
    def __init__(self, view: _Optional[_Union[InstanceView, _Mapping]] = ..., status: _Optional[_Union[_instance_pb2.InstanceStatusReply, _Mapping]] = ..., error: _Optional[str] = ...) -> None: ...

class StorageReport(_message.Message):
    __slots__ = ("node", "az", "address", "status", "error", "drained")
    NODE_FIELD_NUMBER: _ClassVar[int]
    AZ_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    node: str
    az: str
    address: str
    status: _storage_pb2.StorageStatusReply
    error: str
    drained: bool
    def __init__(self, node: _Optional[str] = ..., az: _Optional[str] = ..., address: _Optional[str] = ..., status: _Optional[_Union[_storage_pb2.StorageStatusReply, _Mapping]] = ..., error: _Optional[str] = ..., drained: _Optional[bool] = ...) -> None: ...

class ClusterStatusReply(_message.Message):
    __slots__ = ("cluster", "instances", "storage")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FIELD_NUMBER: _ClassVar[int]
    cluster: ClusterView
    instances: _containers.RepeatedCompositeFieldContainer[InstanceReport]
    storage: _containers.RepeatedCompositeFieldContainer[StorageReport]
    def __init__(self, cluster: _Optional[_Union[ClusterView, _Mapping]] = ..., instances: _Optional[_Iterable[_Union[InstanceReport, _Mapping]]] = ..., storage: _Optional[_Iterable[_Union[StorageReport, _Mapping]]] = ...) -> None: ...

class FailoverRequest(_message.Message):
    __slots__ = ("cluster", "to")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    to: str
    def __init__(self, cluster: _Optional[str] = ..., to: _Optional[str] = ...) -> None: ...

class FailoverReply(_message.Message):
    __slots__ = ("writer", "instead_of", "epoch", "duration_us")
    WRITER_FIELD_NUMBER: _ClassVar[int]
    INSTEAD_OF_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DURATION_US_FIELD_NUMBER: _ClassVar[int]
    writer: str
    instead_of: str
    epoch: int
    duration_us: int
    def __init__(self, writer: _Optional[str] = ..., instead_of: _Optional[str] = ..., epoch: _Optional[int] = ..., duration_us: _Optional[int] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("time_us", "subject", "what")
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    time_us: int
    subject: str
    what: str
    def __init__(self, time_us: _Optional[int] = ..., subject: _Optional[str] = ..., what: _Optional[str] = ...) -> None: ...

class ListEventsReply(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class RecordEventRequest(_message.Message):
    __slots__ = ("subject", "what")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    subject: str
    what: str
    def __init__(self, subject: _Optional[str] = ..., what: _Optional[str] = ...) -> None: ...

class RecordEventReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainStorageRequest(_message.Message):
    __slots__ = ("node", "undo")
    NODE_FIELD_NUMBER: _ClassVar[int]
    UNDO_FIELD_NUMBER: _ClassVar[int]
    node: str
    undo: bool
    def __init__(self, node: _Optional[str] = ..., undo: _Optional[bool] = ...) -> None: ...

class DrainStorageReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ForkVolumeRequest(_message.Message):
    __slots__ = ("cluster", "at_lsn", "at_time_us")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    AT_LSN_FIELD_NUMBER: _ClassVar[int]
    AT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    at_lsn: int
    at_time_us: int
    def __init__(self, cluster: _Optional[str] = ..., at_lsn: _Optional[int] = ..., at_time_us: _Optional[int] = ...) -> None: ...

class CommitAtRequest(_message.Message):
    __slots__ = ("cluster", "at_lsn", "at_time_us")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    AT_LSN_FIELD_NUMBER: _ClassVar[int]
    AT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    at_lsn: int
    at_time_us: int
    def __init__(self, cluster: _Optional[str] = ..., at_lsn: _Optional[int] = ..., at_time_us: _Optional[int] = ...) -> None: ...

class CommitAtReply(_message.Message):
    __slots__ = ("commit", "oldest")
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    commit: _storage_pb2.CommitPoint
    oldest: _storage_pb2.CommitPoint
    def __init__(self, commit: _Optional[_Union[_storage_pb2.CommitPoint, _Mapping]] = ..., oldest: _Optional[_Union[_storage_pb2.CommitPoint, _Mapping]] = ...) -> None: ...

class ForkVolumeReply(_message.Message):
    __slots__ = ("volume", "commit", "copy")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    COPY_FIELD_NUMBER: _ClassVar[int]
    volume: int
    commit: _storage_pb2.CommitPoint
    copy: str
    def __init__(self, volume: _Optional[int] = ..., commit: _Optional[_Union[_storage_pb2.CommitPoint, _Mapping]] = ..., copy: _Optional[str] = ...) -> None: ...

class ListVolumesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VolumeInfo(_message.Message):
    __slots__ = ("cluster", "volume", "parent", "source", "fork", "made", "copy", "groups", "unknown", "own_pages", "shared_pages", "own_stored")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FORK_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    COPY_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    OWN_PAGES_FIELD_NUMBER: _ClassVar[int]
    SHARED_PAGES_FIELD_NUMBER: _ClassVar[int]
    OWN_STORED_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    volume: int
    parent: int
    source: str
    fork: _storage_pb2.CommitPoint
    made: bool
    copy: str
    groups: int
    unknown: int
    own_pages: int
    shared_pages: int
    own_stored: int
    def __init__(self, cluster: _Optional[str] = ..., volume: _Optional[int] = ..., parent: _Optional[int] = ..., source: _Optional[str] = ..., fork: _Optional[_Union[_storage_pb2.CommitPoint, _Mapping]] = ..., made: _Optional[bool] = ..., copy: _Optional[str] = ..., groups: _Optional[int] = ..., unknown: _Optional[int] = ..., own_pages: _Optional[int] = ..., shared_pages: _Optional[int] = ..., own_stored: _Optional[int] = ...) -> None: ...

class ListVolumesReply(_message.Message):
    __slots__ = ("volumes",)
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    volumes: _containers.RepeatedCompositeFieldContainer[VolumeInfo]
    def __init__(self, volumes: _Optional[_Iterable[_Union[VolumeInfo, _Mapping]]] = ...) -> None: ...
