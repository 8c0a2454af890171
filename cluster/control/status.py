"""Asking everyone how they are, all at once, for `sextet status`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cluster.control.rows import StorageRow
from engine.errors import SextetError
from engine.net.methods import INSTANCE_STATUS, STORAGE_STATUS
from engine.net.pb import control_pb2 as pb
from engine.net.pb import instance_pb2 as ipb
from engine.net.pb import storage_pb2 as spb
from engine.volume.channels import Channels

STATUS_TIMEOUT_S = 1.0
"""For each one; they are asked concurrently, so this bounds the whole."""


async def gather_status(
    view: pb.ClusterView, nodes: Sequence[StorageRow], channels: Channels
) -> pb.ClusterStatusReply:
    """The view with a report of every instance and storage node; silence is an `error` in it."""
    instances, storage = await asyncio.gather(
        asyncio.gather(*(_instance(instance, channels) for instance in view.instances)),
        asyncio.gather(*(_storage(node, channels) for node in nodes)),
    )
    return pb.ClusterStatusReply(cluster=view, instances=instances, storage=storage)


async def _instance(view: pb.InstanceView, channels: Channels) -> pb.InstanceReport:
    report = pb.InstanceReport(view=view)
    try:
        status = await channels.to(view.address).call(
            INSTANCE_STATUS, ipb.InstanceStatusRequest(), timeout=STATUS_TIMEOUT_S
        )
        report.status.CopyFrom(status)
    except SextetError as error:
        report.error = str(error)
    return report


async def _storage(node: StorageRow, channels: Channels) -> pb.StorageReport:
    report = pb.StorageReport(node=node.name, az=node.az, address=node.address)
    if node.lost:
        report.error = (
            f"wiped: its disk is another one than the {node.lost} segments it should keep were on; "
            "until they are made again they do not count"
        )
    try:
        status = await channels.to(node.address).call(
            STORAGE_STATUS, spb.StorageStatusRequest(), timeout=STATUS_TIMEOUT_S
        )
        report.status.CopyFrom(status)
    except SextetError as error:
        report.error = report.error or str(error)
    return report
