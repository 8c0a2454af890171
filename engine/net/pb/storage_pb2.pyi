from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Refusal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_NONE: _ClassVar[Refusal]
    REFUSAL_STALE_EPOCH: _ClassVar[Refusal]
    REFUSAL_BEHIND_EPOCH: _ClassVar[Refusal]
    REFUSAL_STALE_MEMBERSHIP: _ClassVar[Refusal]
    REFUSAL_UNKNOWN_SEGMENT: _ClassVar[Refusal]
    REFUSAL_DISK_FULL: _ClassVar[Refusal]
    REFUSAL_OVERLOADED: _ClassVar[Refusal]
    REFUSAL_MALFORMED: _ClassVar[Refusal]
REFUSAL_NONE: Refusal
REFUSAL_STALE_EPOCH: Refusal
REFUSAL_BEHIND_EPOCH: Refusal
REFUSAL_STALE_MEMBERSHIP: Refusal
REFUSAL_UNKNOWN_SEGMENT: Refusal
REFUSAL_DISK_FULL: Refusal
REFUSAL_OVERLOADED: Refusal
REFUSAL_MALFORMED: Refusal

class PgFrames(_message.Message):
    __slots__ = ("pg", "membership_epoch", "frames")
    PG_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_EPOCH_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    pg: int
    membership_epoch: int
    frames: bytes
    def __init__(self, pg: _Optional[int] = ..., membership_epoch: _Optional[int] = ..., frames: _Optional[bytes] = ...) -> None: ...

class AppendRequest(_message.Message):
    __slots__ = ("volume", "epoch", "pgs", "vdl", "pgmrpl", "heard")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PGS_FIELD_NUMBER: _ClassVar[int]
    VDL_FIELD_NUMBER: _ClassVar[int]
    PGMRPL_FIELD_NUMBER: _ClassVar[int]
    HEARD_FIELD_NUMBER: _ClassVar[int]
    volume: int
    epoch: int
    pgs: _containers.RepeatedCompositeFieldContainer[PgFrames]
    vdl: int
    pgmrpl: int
    heard: bool
    def __init__(self, volume: _Optional[int] = ..., epoch: _Optional[int] = ..., pgs: _Optional[_Iterable[_Union[PgFrames, _Mapping]]] = ..., vdl: _Optional[int] = ..., pgmrpl: _Optional[int] = ..., heard: _Optional[bool] = ...) -> None: ...

class SegmentAck(_message.Message):
    __slots__ = ("pg", "scl", "membership_epoch")
    PG_FIELD_NUMBER: _ClassVar[int]
    SCL_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_EPOCH_FIELD_NUMBER: _ClassVar[int]
    pg: int
    scl: int
    membership_epoch: int
    def __init__(self, pg: _Optional[int] = ..., scl: _Optional[int] = ..., membership_epoch: _Optional[int] = ...) -> None: ...

class AppendAck(_message.Message):
    __slots__ = ("segments", "refusal", "epoch", "detail")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[SegmentAck]
    refusal: Refusal
    epoch: int
    detail: str
    def __init__(self, segments: _Optional[_Iterable[_Union[SegmentAck, _Mapping]]] = ..., refusal: _Optional[_Union[Refusal, str]] = ..., epoch: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class ReadPagesRequest(_message.Message):
    __slots__ = ("volume", "epoch", "pg", "pages", "read_lsn", "pg_lsn", "for_repair")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PG_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    READ_LSN_FIELD_NUMBER: _ClassVar[int]
    PG_LSN_FIELD_NUMBER: _ClassVar[int]
    FOR_REPAIR_FIELD_NUMBER: _ClassVar[int]
    volume: int
    epoch: int
    pg: int
    pages: _containers.RepeatedScalarFieldContainer[int]
    read_lsn: int
    pg_lsn: int
    for_repair: bool
    def __init__(self, volume: _Optional[int] = ..., epoch: _Optional[int] = ..., pg: _Optional[int] = ..., pages: _Optional[_Iterable[int]] = ..., read_lsn: _Optional[int] = ..., pg_lsn: _Optional[int] = ..., for_repair: _Optional[bool] = ...) -> None: ...

class PageImage(_message.Message):
    __slots__ = ("page", "lsn", "image")
    PAGE_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    page: int
    lsn: int
    image: bytes
    def __init__(self, page: _Optional[int] = ..., lsn: _Optional[int] = ..., image: _Optional[bytes] = ...) -> None: ...

class ReadPagesReply(_message.Message):
    __slots__ = ("pages", "scl")
    PAGES_FIELD_NUMBER: _ClassVar[int]
    SCL_FIELD_NUMBER: _ClassVar[int]
    pages: _containers.RepeatedCompositeFieldContainer[PageImage]
    scl: int
    def __init__(self, pages: _Optional[_Iterable[_Union[PageImage, _Mapping]]] = ..., scl: _Optional[int] = ...) -> None: ...

class TruncationRange(_message.Message):
    __slots__ = ("epoch", "low", "high")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    low: int
    high: int
    def __init__(self, epoch: _Optional[int] = ..., low: _Optional[int] = ..., high: _Optional[int] = ...) -> None: ...

class CommitPoint(_message.Message):
    __slots__ = ("lsn", "time_us", "pages")
    LSN_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    lsn: int
    time_us: int
    pages: int
    def __init__(self, lsn: _Optional[int] = ..., time_us: _Optional[int] = ..., pages: _Optional[int] = ...) -> None: ...

class LsnRun(_message.Message):
    __slots__ = ("first", "last", "prev")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    PREV_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    prev: int
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ..., prev: _Optional[int] = ...) -> None: ...

class SegmentState(_message.Message):
    __slots__ = ("pg", "incarnation", "epoch", "membership_epoch", "scl", "known_vdl", "tail", "runs", "commits", "damaged", "hot_from")
    PG_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_EPOCH_FIELD_NUMBER: _ClassVar[int]
    SCL_FIELD_NUMBER: _ClassVar[int]
    KNOWN_VDL_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    HOT_FROM_FIELD_NUMBER: _ClassVar[int]
    pg: int
    incarnation: str
    epoch: int
    membership_epoch: int
    scl: int
    known_vdl: int
    tail: int
    runs: _containers.RepeatedCompositeFieldContainer[LsnRun]
    commits: _containers.RepeatedCompositeFieldContainer[CommitPoint]
    damaged: bool
    hot_from: int
    def __init__(self, pg: _Optional[int] = ..., incarnation: _Optional[str] = ..., epoch: _Optional[int] = ..., membership_epoch: _Optional[int] = ..., scl: _Optional[int] = ..., known_vdl: _Optional[int] = ..., tail: _Optional[int] = ..., runs: _Optional[_Iterable[_Union[LsnRun, _Mapping]]] = ..., commits: _Optional[_Iterable[_Union[CommitPoint, _Mapping]]] = ..., damaged: _Optional[bool] = ..., hot_from: _Optional[int] = ...) -> None: ...

class FenceRequest(_message.Message):
    __slots__ = ("volume", "epoch", "writer")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    volume: int
    epoch: int
    writer: str
    def __init__(self, volume: _Optional[int] = ..., epoch: _Optional[int] = ..., writer: _Optional[str] = ...) -> None: ...

class FenceReply(_message.Message):
    __slots__ = ("segments", "truncations")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATIONS_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[SegmentState]
    truncations: _containers.RepeatedCompositeFieldContainer[TruncationRange]
    def __init__(self, segments: _Optional[_Iterable[_Union[SegmentState, _Mapping]]] = ..., truncations: _Optional[_Iterable[_Union[TruncationRange, _Mapping]]] = ...) -> None: ...

class TruncateRequest(_message.Message):
    __slots__ = ("volume", "epoch", "truncations")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TRUNCATIONS_FIELD_NUMBER: _ClassVar[int]
    volume: int
    epoch: int
    truncations: _containers.RepeatedCompositeFieldContainer[TruncationRange]
    def __init__(self, volume: _Optional[int] = ..., epoch: _Optional[int] = ..., truncations: _Optional[_Iterable[_Union[TruncationRange, _Mapping]]] = ...) -> None: ...

class TruncateReply(_message.Message):
    __slots__ = ("segments",)
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[SegmentAck]
    def __init__(self, segments: _Optional[_Iterable[_Union[SegmentAck, _Mapping]]] = ...) -> None: ...

class FetchFramesRequest(_message.Message):
    __slots__ = ("volume", "pg", "after", "upto", "epoch")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    PG_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    UPTO_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    volume: int
    pg: int
    after: int
    upto: int
    epoch: int
    def __init__(self, volume: _Optional[int] = ..., pg: _Optional[int] = ..., after: _Optional[int] = ..., upto: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class FramesChunk(_message.Message):
    __slots__ = ("frames", "scl", "hot_from")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    SCL_FIELD_NUMBER: _ClassVar[int]
    HOT_FROM_FIELD_NUMBER: _ClassVar[int]
    frames: bytes
    scl: int
    hot_from: int
    def __init__(self, frames: _Optional[bytes] = ..., scl: _Optional[int] = ..., hot_from: _Optional[int] = ...) -> None: ...

class CopyPagesRequest(_message.Message):
    __slots__ = ("volume", "pg", "epoch")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    PG_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    volume: int
    pg: int
    epoch: int
    def __init__(self, volume: _Optional[int] = ..., pg: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class PagesChunk(_message.Message):
    __slots__ = ("as_of", "pages", "commits", "last")
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    as_of: int
    pages: _containers.RepeatedCompositeFieldContainer[PageImage]
    commits: _containers.RepeatedCompositeFieldContainer[CommitPoint]
    last: bool
    def __init__(self, as_of: _Optional[int] = ..., pages: _Optional[_Iterable[_Union[PageImage, _Mapping]]] = ..., commits: _Optional[_Iterable[_Union[CommitPoint, _Mapping]]] = ..., last: _Optional[bool] = ...) -> None: ...

class GossipSegment(_message.Message):
    __slots__ = ("volume", "pg", "scl", "damaged", "membership_epoch")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    PG_FIELD_NUMBER: _ClassVar[int]
    SCL_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_EPOCH_FIELD_NUMBER: _ClassVar[int]
    volume: int
    pg: int
    scl: int
    damaged: bool
    membership_epoch: int
    def __init__(self, volume: _Optional[int] = ..., pg: _Optional[int] = ..., scl: _Optional[int] = ..., damaged: _Optional[bool] = ..., membership_epoch: _Optional[int] = ...) -> None: ...

class GossipVolume(_message.Message):
    __slots__ = ("volume", "epoch", "vdl", "pgmrpl", "truncations", "archived")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VDL_FIELD_NUMBER: _ClassVar[int]
    PGMRPL_FIELD_NUMBER: _ClassVar[int]
    TRUNCATIONS_FIELD_NUMBER: _ClassVar[int]
    ARCHIVED_FIELD_NUMBER: _ClassVar[int]
    volume: int
    epoch: int
    vdl: int
    pgmrpl: int
    truncations: _containers.RepeatedCompositeFieldContainer[TruncationRange]
    archived: int
    def __init__(self, volume: _Optional[int] = ..., epoch: _Optional[int] = ..., vdl: _Optional[int] = ..., pgmrpl: _Optional[int] = ..., truncations: _Optional[_Iterable[_Union[TruncationRange, _Mapping]]] = ..., archived: _Optional[int] = ...) -> None: ...

class GossipRequest(_message.Message):
    __slots__ = ("node", "segments", "volumes")
    NODE_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    node: str
    segments: _containers.RepeatedCompositeFieldContainer[GossipSegment]
    volumes: _containers.RepeatedCompositeFieldContainer[GossipVolume]
    def __init__(self, node: _Optional[str] = ..., segments: _Optional[_Iterable[_Union[GossipSegment, _Mapping]]] = ..., volumes: _Optional[_Iterable[_Union[GossipVolume, _Mapping]]] = ...) -> None: ...

class GossipReply(_message.Message):
    __slots__ = ("segments", "volumes")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[GossipSegment]
    volumes: _containers.RepeatedCompositeFieldContainer[GossipVolume]
    def __init__(self, segments: _Optional[_Iterable[_Union[GossipSegment, _Mapping]]] = ..., volumes: _Optional[_Iterable[_Union[GossipVolume, _Mapping]]] = ...) -> None: ...

class MemberInfo(_message.Message):
    __slots__ = ("node", "az", "address", "incarnation")
    NODE_FIELD_NUMBER: _ClassVar[int]
    AZ_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    node: str
    az: str
    address: str
    incarnation: str
    def __init__(self, node: _Optional[str] = ..., az: _Optional[str] = ..., address: _Optional[str] = ..., incarnation: _Optional[str] = ...) -> None: ...

class PgMembership(_message.Message):
    __slots__ = ("pg", "epoch", "members", "old", "new")
    PG_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    OLD_FIELD_NUMBER: _ClassVar[int]
    NEW_FIELD_NUMBER: _ClassVar[int]
    pg: int
    epoch: int
    members: _containers.RepeatedCompositeFieldContainer[MemberInfo]
    old: MemberInfo
    new: MemberInfo
    def __init__(self, pg: _Optional[int] = ..., epoch: _Optional[int] = ..., members: _Optional[_Iterable[_Union[MemberInfo, _Mapping]]] = ..., old: _Optional[_Union[MemberInfo, _Mapping]] = ..., new: _Optional[_Union[MemberInfo, _Mapping]] = ...) -> None: ...

class Ancestor(_message.Message):
    __slots__ = ("volume", "lsn")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    volume: int
    lsn: int
    def __init__(self, volume: _Optional[int] = ..., lsn: _Optional[int] = ...) -> None: ...

class Fork(_message.Message):
    __slots__ = ("ancestry", "tail", "commit")
    ANCESTRY_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ancestry: _containers.RepeatedCompositeFieldContainer[Ancestor]
    tail: int
    commit: CommitPoint
    def __init__(self, ancestry: _Optional[_Iterable[_Union[Ancestor, _Mapping]]] = ..., tail: _Optional[int] = ..., commit: _Optional[_Union[CommitPoint, _Mapping]] = ...) -> None: ...

class ForkPointRequest(_message.Message):
    __slots__ = ("volume", "lsn", "at_lsn", "at_time_us")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    AT_LSN_FIELD_NUMBER: _ClassVar[int]
    AT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    volume: int
    lsn: int
    at_lsn: int
    at_time_us: int
    def __init__(self, volume: _Optional[int] = ..., lsn: _Optional[int] = ..., at_lsn: _Optional[int] = ..., at_time_us: _Optional[int] = ...) -> None: ...

class ForkGroup(_message.Message):
    __slots__ = ("pg", "tail", "whole", "floor", "ancestry", "commit", "oldest")
    PG_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    ANCESTRY_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    pg: int
    tail: int
    whole: bool
    floor: int
    ancestry: _containers.RepeatedCompositeFieldContainer[Ancestor]
    commit: CommitPoint
    oldest: CommitPoint
    def __init__(self, pg: _Optional[int] = ..., tail: _Optional[int] = ..., whole: _Optional[bool] = ..., floor: _Optional[int] = ..., ancestry: _Optional[_Iterable[_Union[Ancestor, _Mapping]]] = ..., commit: _Optional[_Union[CommitPoint, _Mapping]] = ..., oldest: _Optional[_Union[CommitPoint, _Mapping]] = ...) -> None: ...

class ForkPointReply(_message.Message):
    __slots__ = ("node", "groups")
    NODE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    node: str
    groups: _containers.RepeatedCompositeFieldContainer[ForkGroup]
    def __init__(self, node: _Optional[str] = ..., groups: _Optional[_Iterable[_Union[ForkGroup, _Mapping]]] = ...) -> None: ...

class SegmentAssignment(_message.Message):
    __slots__ = ("volume", "membership", "incarnation", "create", "drop", "fork")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    FORK_FIELD_NUMBER: _ClassVar[int]
    volume: int
    membership: PgMembership
    incarnation: str
    create: bool
    drop: bool
    fork: Fork
    def __init__(self, volume: _Optional[int] = ..., membership: _Optional[_Union[PgMembership, _Mapping]] = ..., incarnation: _Optional[str] = ..., create: _Optional[bool] = ..., drop: _Optional[bool] = ..., fork: _Optional[_Union[Fork, _Mapping]] = ...) -> None: ...

class AssignSegmentsRequest(_message.Message):
    __slots__ = ("segments",)
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[SegmentAssignment]
    def __init__(self, segments: _Optional[_Iterable[_Union[SegmentAssignment, _Mapping]]] = ...) -> None: ...

class AssignSegmentsReply(_message.Message):
    __slots__ = ("refused", "newer")
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    NEWER_FIELD_NUMBER: _ClassVar[int]
    refused: _containers.RepeatedCompositeFieldContainer[SegmentAssignment]
    newer: _containers.RepeatedCompositeFieldContainer[PgMembership]
    def __init__(self, refused: _Optional[_Iterable[_Union[SegmentAssignment, _Mapping]]] = ..., newer: _Optional[_Iterable[_Union[PgMembership, _Mapping]]] = ...) -> None: ...

class StorageStatusRequest(_message.Message):
    __slots__ = ("brief",)
    BRIEF_FIELD_NUMBER: _ClassVar[int]
    brief: bool
    def __init__(self, brief: _Optional[bool] = ...) -> None: ...

class SegmentStatus(_message.Message):
    __slots__ = ("volume", "pg", "scl", "epoch", "applied", "hot_from", "pages", "pending_frames", "damaged", "membership_epoch", "incarnation", "own_pages", "shared_pages")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    PG_FIELD_NUMBER: _ClassVar[int]
    SCL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    HOT_FROM_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    PENDING_FRAMES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    OWN_PAGES_FIELD_NUMBER: _ClassVar[int]
    SHARED_PAGES_FIELD_NUMBER: _ClassVar[int]
    volume: int
    pg: int
    scl: int
    epoch: int
    applied: int
    hot_from: int
    pages: int
    pending_frames: int
    damaged: bool
    membership_epoch: int
    incarnation: str
    own_pages: int
    shared_pages: int
    def __init__(self, volume: _Optional[int] = ..., pg: _Optional[int] = ..., scl: _Optional[int] = ..., epoch: _Optional[int] = ..., applied: _Optional[int] = ..., hot_from: _Optional[int] = ..., pages: _Optional[int] = ..., pending_frames: _Optional[int] = ..., damaged: _Optional[bool] = ..., membership_epoch: _Optional[int] = ..., incarnation: _Optional[str] = ..., own_pages: _Optional[int] = ..., shared_pages: _Optional[int] = ...) -> None: ...

class StorageStatusReply(_message.Message):
    __slots__ = ("node", "az", "pid", "state", "incarnation", "segments", "counters", "wal_bytes", "syncing_us")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    AZ_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    WAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SYNCING_US_FIELD_NUMBER: _ClassVar[int]
    node: str
    az: str
    pid: int
    state: str
    incarnation: str
    segments: _containers.RepeatedCompositeFieldContainer[SegmentStatus]
    counters: _containers.ScalarMap[str, int]
    wal_bytes: int
    syncing_us: int
    def __init__(self, node: _Optional[str] = ..., az: _Optional[str] = ..., pid: _Optional[int] = ..., state: _Optional[str] = ..., incarnation: _Optional[str] = ..., segments: _Optional[_Iterable[_Union[SegmentStatus, _Mapping]]] = ..., counters: _Optional[_Mapping[str, int]] = ..., wal_bytes: _Optional[int] = ..., syncing_us: _Optional[int] = ...) -> None: ...
