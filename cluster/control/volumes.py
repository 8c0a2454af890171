"""Which volumes there are, whose clones they are, and how much of each is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from cluster.control.catalog import Catalog
from cluster.control.rows import StorageRow, VolumeRow
from engine.errors import SextetError
from engine.net.methods import STORAGE_STATUS
from engine.net.pb import control_pb2 as pb
from engine.net.pb import storage_pb2 as spb
from engine.types import PgNo, VolumeId
from engine.volume.channels import Channels
from engine.volume.fencing import commit_to_pb

ANSWER_S = 2.0


async def list_volumes(catalog: Catalog, channels: Channels) -> pb.ListVolumesReply:
    """Ask every storage node once, all at the same time."""
    nodes = await catalog.storage_nodes()
    rows = of_interest(await catalog.volume_rows())
    answers = await asyncio.gather(*(_ask(node, channels) for node in nodes))
    segments = [segment for answer in answers for segment in answer]
    return pb.ListVolumesReply(volumes=[volume_info(row, segments) for row in rows])


async def _ask(node: StorageRow, channels: Channels) -> list[spb.SegmentStatus]:
    try:
        status = await channels.to(node.address).call(
            STORAGE_STATUS, spb.StorageStatusRequest(), timeout=ANSWER_S
        )
    except SextetError:
        return []
    return list(status.segments)


def of_interest(rows: Sequence[VolumeRow]) -> list[VolumeRow]:
    """Clusters' volumes, and the deleted ones that stand between two of them in the tree, or above one."""
    by_volume = {row.volume: row for row in rows}
    wanted: set[VolumeId] = set()
    for row in rows:
        at: VolumeRow | None = row if row.cluster else None
        while at is not None and at.volume not in wanted:
            wanted.add(at.volume)
            at = by_volume.get(at.fork.parent) if at.fork is not None else None
    return [row for row in rows if row.volume in wanted]


def volume_info(row: VolumeRow, segments: Iterable[spb.SegmentStatus]) -> pb.VolumeInfo:
    """Of each group the copy that shares most says what is shared: one that was made again from its peers
    has all its pages to itself."""
    info = pb.VolumeInfo(cluster=row.cluster, volume=row.volume, groups=len(row.groups), made=True)
    fork = row.fork
    if fork is not None:
        info.parent, info.source, info.copy, info.made = (
            fork.parent,
            fork.source,
            fork.copy,
            fork.made,
        )
        if fork.commit.lsn:
            commit = fork.commit
            info.fork.CopyFrom(commit_to_pb(commit))
    if not row.cluster:
        return info
    copies: dict[PgNo, list[spb.SegmentStatus]] = {pg: [] for pg in row.groups}
    for segment in segments:
        if segment.volume == row.volume and segment.pg in copies:
            copies[segment.pg].append(segment)
            info.own_stored += segment.own_pages
    for pg in row.groups:
        best = max(
            copies[pg], key=lambda s: (s.own_pages + s.shared_pages, s.shared_pages), default=None
        )
        if best is None:
            info.unknown += 1
        else:
            info.own_pages += best.own_pages
            info.shared_pages += best.shared_pages
    return info
