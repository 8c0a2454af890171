"""A node's side of recovery: fence, say what it holds, truncate (P17 §4.3)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from engine.errors import BehindEpoch
from engine.net.pb import storage_pb2 as pb
from engine.storage.segment import Segment
from engine.storage.state import NodeState
from engine.types import Truncation, VolumeId

log = logging.getLogger(__name__)


async def fence(state: NodeState, request: pb.FenceRequest) -> pb.FenceReply:
    """Durably refuse every lower epoch, then report what is held. Raises StaleEpoch."""
    await state.fence(request.volume, request.epoch)
    log.info("volume %d is fenced at epoch %d", request.volume, request.epoch)
    return pb.FenceReply(
        segments=[_report(segment) for segment in state.of_volume(request.volume)],
        truncations=truncations_to_pb(state.truncations.get(request.volume, ())),
    )


def _report(segment: Segment) -> pb.SegmentState:
    return pb.SegmentState(
        pg=segment.row.id.pg,
        incarnation=segment.row.incarnation,
        epoch=segment.epoch,
        membership_epoch=segment.row.membership.epoch,
        scl=segment.scl,
        known_vdl=segment.known_vdl,
        tail=segment.tail(),
        runs=[pb.LsnRun(first=a, last=b, prev=p) for a, b, p in segment.runs_above_vdl()],
        commits=[
            pb.CommitPoint(lsn=c.lsn, time_us=c.time_us, pages=c.pages) for c in segment.commits
        ],
        damaged=segment.row.damaged,
        hot_from=segment.hot_from,
    )


async def truncate(state: NodeState, request: pb.TruncateRequest) -> pb.TruncateReply:
    """Durably annul ranges. Raises StaleEpoch, or BehindEpoch if this epoch has not fenced here."""
    state.check_epoch(request.volume, request.epoch)
    if request.epoch > state.volume_epoch(request.volume):
        raise BehindEpoch(f"{state.name} has to be fenced at epoch {request.epoch} first")
    truncations = truncations_from_pb(request.truncations)
    segments = state.of_volume(request.volume)
    for segment in segments:
        # A recovery succeeded without this segment's word; from here on it starts clean.
        segment.row = replace(segment.row, damaged=False)
    await state.truncate(request.volume, truncations)
    state.check_epoch(request.volume, request.epoch)
    return pb.TruncateReply(segments=[pb.SegmentAck(pg=s.row.id.pg, scl=s.scl) for s in segments])


def truncations_to_pb(truncations: Sequence[Truncation]) -> list[pb.TruncationRange]:
    return [pb.TruncationRange(epoch=t.epoch, low=t.low, high=t.high) for t in truncations]


def truncations_from_pb(messages: Sequence[pb.TruncationRange]) -> list[Truncation]:
    return [Truncation(t.epoch, t.low, t.high) for t in messages]


async def learn(
    state: NodeState, volume: VolumeId, epoch: int, truncations: Sequence[Truncation]
) -> None:
    """Take over what a peer knows of recoveries, truncations before the epoch that made them.

    The epoch of a recovery that has not truncated yet is not taken over: it may come to nothing.
    """
    known = state.truncations.get(volume, ())
    if any(t not in known for t in truncations):
        await state.truncate(volume, truncations)
    if epoch > state.volume_epoch(volume) and any(t.epoch == epoch for t in truncations):
        await state.fence(volume, epoch)
