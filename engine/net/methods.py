"""Every RPC of the .proto files as a typed constant. Imports no gRPC: a simulator uses them too."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from engine.net.pb import control_pb2, instance_pb2, storage_pb2
from engine.ports import Method

Req = TypeVar("Req", bound=Message)
Rep = TypeVar("Rep", bound=Message)


def _method(
    file: FileDescriptor, name: str, request: type[Req], reply: type[Rep]
) -> Method[Req, Rep]:
    """The method `name` of the file's only service, checked against what the file declares."""
    (service,) = file.services_by_name.values()
    declared = service.methods_by_name[name]
    if (declared.input_type, declared.output_type) != (request.DESCRIPTOR, reply.DESCRIPTOR):
        raise TypeError(f"{name} is declared with other messages in {file.name}")
    return Method(
        service=service.full_name,
        name=name,
        request=request,
        reply=reply,
        client_streaming=declared.client_streaming,
        server_streaming=declared.server_streaming,
    )


_S = storage_pb2
APPEND = _method(_S.DESCRIPTOR, "Append", _S.AppendRequest, _S.AppendAck)
READ_PAGES = _method(_S.DESCRIPTOR, "ReadPages", _S.ReadPagesRequest, _S.ReadPagesReply)
FENCE = _method(_S.DESCRIPTOR, "Fence", _S.FenceRequest, _S.FenceReply)
TRUNCATE = _method(_S.DESCRIPTOR, "Truncate", _S.TruncateRequest, _S.TruncateReply)
FETCH_FRAMES = _method(_S.DESCRIPTOR, "FetchFrames", _S.FetchFramesRequest, _S.FramesChunk)
COPY_PAGES = _method(_S.DESCRIPTOR, "CopyPages", _S.CopyPagesRequest, _S.PagesChunk)
GOSSIP = _method(_S.DESCRIPTOR, "Gossip", _S.GossipRequest, _S.GossipReply)
ASSIGN_SEGMENTS = _method(
    _S.DESCRIPTOR, "AssignSegments", _S.AssignSegmentsRequest, _S.AssignSegmentsReply
)
STORAGE_STATUS = _method(
    _S.DESCRIPTOR, "StorageStatus", _S.StorageStatusRequest, _S.StorageStatusReply
)
FORK_POINT = _method(_S.DESCRIPTOR, "ForkPoint", _S.ForkPointRequest, _S.ForkPointReply)

_I = instance_pb2
FOLLOW = _method(_I.DESCRIPTOR, "Follow", _I.FollowReport, _I.FeedItem)
CONFIRMED_COMMIT = _method(
    _I.DESCRIPTOR, "ConfirmedCommit", _I.ConfirmedCommitRequest, _I.ConfirmedCommitReply
)
INSTANCE_STATUS = _method(
    _I.DESCRIPTOR, "InstanceStatus", _I.InstanceStatusRequest, _I.InstanceStatusReply
)
IMPORT = _method(_I.DESCRIPTOR, "Import", _I.ImportChunk, _I.ImportReply)
EXPORT = _method(_I.DESCRIPTOR, "Export", _I.ExportRequest, _I.ExportChunk)
HOLD_READ_POINT = _method(_I.DESCRIPTOR, "HoldReadPoint", _I.HoldRequest, _I.HeldReadPoint)
BACKTRACK = _method(_I.DESCRIPTOR, "Backtrack", _I.BacktrackChunk, _I.BacktrackReply)
DISMISS_CLIENTS = _method(
    _I.DESCRIPTOR, "DismissClients", _I.DismissClientsRequest, _I.DismissClientsReply
)

_C = control_pb2
REGISTER = _method(_C.DESCRIPTOR, "Register", _C.RegisterRequest, _C.RegisterReply)
WATCH_CLUSTER = _method(_C.DESCRIPTOR, "WatchCluster", _C.WatchClusterRequest, _C.ClusterView)
OPEN_VOLUME = _method(_C.DESCRIPTOR, "OpenVolume", _C.OpenVolumeRequest, _C.OpenVolumeReply)
GROW_VOLUME = _method(_C.DESCRIPTOR, "GrowVolume", _C.GrowVolumeRequest, _C.GrowVolumeReply)
ADOPT_LAYOUT = _method(_C.DESCRIPTOR, "AdoptLayout", _C.AdoptLayoutRequest, _C.AdoptLayoutReply)
DRAIN_STORAGE = _method(_C.DESCRIPTOR, "DrainStorage", _C.DrainStorageRequest, _C.DrainStorageReply)
CLUSTER_STATUS = _method(
    _C.DESCRIPTOR, "ClusterStatus", _C.ClusterStatusRequest, _C.ClusterStatusReply
)
FAILOVER = _method(_C.DESCRIPTOR, "Failover", _C.FailoverRequest, _C.FailoverReply)
RECORD_EVENT = _method(_C.DESCRIPTOR, "RecordEvent", _C.RecordEventRequest, _C.RecordEventReply)
LIST_EVENTS = _method(_C.DESCRIPTOR, "ListEvents", _C.ListEventsRequest, _C.ListEventsReply)
COMMIT_AT = _method(_C.DESCRIPTOR, "CommitAt", _C.CommitAtRequest, _C.CommitAtReply)
FORK_VOLUME = _method(_C.DESCRIPTOR, "ForkVolume", _C.ForkVolumeRequest, _C.ForkVolumeReply)
LIST_VOLUMES = _method(_C.DESCRIPTOR, "ListVolumes", _C.ListVolumesRequest, _C.ListVolumesReply)
