"""The command line as a gRPC client of a running cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cluster.cli.console import err
from cluster.cli.errors import CommandFailed, NotRunning, not_running
from cluster.local.adopt import adopt
from cluster.local.folder import Folder
from cluster.local.layout import Layout, load
from cluster.local.state import running_state
from engine.errors import SextetError, Unavailable
from engine.net.grpc_transport import GrpcTransport
from engine.net.methods import CLUSTER_STATUS, COMMIT_AT
from engine.net.pb import control_pb2 as pb
from engine.ports import Channel
from engine.types import CommitMark
from engine.volume.fencing import commit_from_pb

STATUS_TIMEOUT_S = 5.0
PAST_TIMEOUT_S = 2.0


def running_layout(folder: Folder) -> Layout:
    """The layout of a running installation. Raises NotRunning."""
    layout = load(folder.data)
    if layout is None or running_state(folder) is None:
        raise not_running(folder)
    return layout


@asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[Channel]:
    channel = GrpcTransport().connect(address)
    try:
        yield channel
    finally:
        await channel.close()


async def cluster_status(folder: Folder, layout: Layout, cluster: str) -> pb.ClusterStatusReply:
    """What the control plane gathers. Raises NotRunning if it does not answer."""
    layout.cluster(cluster)
    try:
        async with channel_to(layout.control_address) as control:
            return await control.call(
                CLUSTER_STATUS,
                pb.ClusterStatusRequest(cluster=cluster),
                timeout=STATUS_TIMEOUT_S,
            )
    except Unavailable as error:
        raise NotRunning(
            f"the control plane does not answer ({error}); look at {folder.log('control')}"
        ) from error


async def oldest_readable(layout: Layout, cluster: str) -> CommitMark | None:
    """Where the hot window begins; None if that cannot be told now."""
    try:
        async with channel_to(layout.control_address) as control:
            reply = await control.call(
                COMMIT_AT, pb.CommitAtRequest(cluster=cluster), timeout=PAST_TIMEOUT_S
            )
    except SextetError:
        return None
    return commit_from_pb(reply.oldest) if reply.oldest.lsn else None


def adopt_layout(folder: Folder) -> bool:
    """Have the control plane take over the layout. If it is away: False, and a word about it.

    Raises NotRunning.
    """
    if asyncio.run(adopt(running_layout(folder))):
        return True
    say_control_is_away()
    return False


def say_control_is_away() -> None:
    err.print("[yellow]![/yellow] the control plane is away; it hears of this when it is back")


def writer_of(status: pb.ClusterStatusReply) -> pb.InstanceReport:
    """The writer's report. Raises CommandFailed if it cannot be used now."""
    for report in status.instances:
        if report.view.role == "writer":
            if report.status.state == "available":
                return report
            state = report.status.state or report.error
            raise CommandFailed(f"the writer {report.view.name} is not available: {state}")
    raise CommandFailed(f"cluster {status.cluster.cluster} has no writer")
