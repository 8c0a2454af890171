"""What a running cluster's storage nodes know of its archive, and no object of it says: where it ends."""

from __future__ import annotations

import asyncio

from cluster.local.folder import Folder
from cluster.local.layout import load
from cluster.local.state import running_state
from engine.archive.catalogue import generations
from engine.archive.source import Source
from engine.errors import SextetError
from engine.net.grpc_transport import GrpcTransport
from engine.net.methods import WATCH_CLUSTER
from engine.net.pb import control_pb2 as pb
from engine.ports import Stream
from engine.types import LSN
from engine.volume.channels import Channels
from engine.volume.fencing import membership_from_pb

PATIENCE_S = 5.0


async def told_of(folder: Folder, archive: str) -> LSN:
    """Up to where storage nodes have heard that the log is in `archive` or one before it; 0 if it is of no
    cluster that runs here, or nobody answers. Ask before looking at the objects: they come first."""
    layout = load(folder.data)
    if layout is None or running_state(folder) is None:
        return 0
    for cluster in layout.running:
        if cluster.archive and generations(cluster.archive, [f"{archive}/"]):
            channels = Channels(GrpcTransport())
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await _ask(channels, layout.control_address, cluster.name)
            except (SextetError, TimeoutError):
                return 0
            finally:
                await channels.close()
    return 0


async def _ask(channels: Channels, control: str, cluster: str) -> LSN:
    stream: Stream[pb.WatchClusterRequest, pb.ClusterView] = channels.to(control).stream(
        WATCH_CLUSTER, pb.WatchClusterRequest(cluster=cluster)
    )
    try:
        view = await stream.recv()
    finally:
        stream.close()
    if view is None:
        return 0
    source = Source(channels, view.volume, f"verify-{cluster}")
    source.memberships = {m.pg: membership_from_pb(m) for m in view.memberships}
    return (await source.look(0)).archived
