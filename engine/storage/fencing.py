"""A node's side of recovery: fence, say what it holds, truncate (P17 §4.3, P18 §2.4).

What a fence promises: once it is answered, nothing of a lower epoch becomes part of what this node
holds, now or after a crash. The epoch is raised in memory first, and in the same turn of the loop
every older request is refused; then it is made durable, together with everything held so far; then
the answer goes out. A frame of an older writer is either in the log before that, and reported, or it
is never written at all.

Truncations come as whole lists (`Volume.adopt`). A list is believed from the recovery whose epoch
this node is fenced at, or from a peer that knows a recovery of this epoch or a later one. Never from
a peer that is behind: its list may be that of a recovery that died.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from engine.errors import ProtocolError
from engine.net.pb import storage_pb2 as pb
from engine.steps import Mark, Step
from engine.storage.segment import Segment
from engine.storage.starting import mark_damaged, put_back
from engine.storage.state import NodeState, check_numbers
from engine.storage.volume import Volume
from engine.types import Epoch, Truncation

log = logging.getLogger(__name__)


async def fence(state: NodeState, request: pb.FenceRequest) -> pb.FenceReply:
    """Durably refuse every lower epoch, then report what is held. Raises StaleEpoch."""
    check_numbers("fence", {"epoch": request.epoch})
    volume = state.volumes.get(request.volume)
    if volume is None:
        return pb.FenceReply()
    _check_epoch(state, volume, request.epoch)
    first = (
        request.epoch > volume.epoch
    )  # no earlier life of this process was asked under this epoch
    volume.epoch = request.epoch  # from here on nothing older comes in
    segments = list(volume.segments.values())
    state.runtime.steps.before(Step.FENCE)
    await state.put_rows(volume, segments)
    state.runtime.steps.after(Step.FENCE)
    reply = pb.FenceReply(
        segments=[_report(segment, volume.epoch) for segment in segments],
        truncations=truncations_to_pb(volume.truncations),
    )
    await state.durable_scls(segments)  # what the report says is on disk when it leaves
    _check_epoch(state, volume, request.epoch)
    if first:
        volume.heard()
    log.info("volume %d is fenced at epoch %d", request.volume, request.epoch)
    return reply


def _check_epoch(state: NodeState, volume: Volume, epoch: Epoch) -> None:
    if epoch < volume.epoch:
        state.refused_stale("fence")
    volume.check_epoch(epoch, node=state.name)


def _report(segment: Segment, epoch: Epoch) -> pb.SegmentState:
    return pb.SegmentState(
        pg=segment.pg,
        incarnation=segment.row.incarnation,
        epoch=epoch,
        membership_epoch=segment.row.membership.epoch,
        scl=segment.scl,
        known_vdl=segment.points.vdl,
        tail=segment.tail(),
        runs=[pb.LsnRun(first=a, last=b, prev=p) for a, b, p in segment.runs_above_vdl()],
        commits=[
            pb.CommitPoint(lsn=c.lsn, time_us=c.time_us, pages=c.pages)
            for c in segment.commits_from_vdl()
        ],
        damaged=segment.row.damaged,
        hot_from=segment.hot_from,
    )


async def truncate(state: NodeState, request: pb.TruncateRequest) -> pb.TruncateReply:
    """Durably put the recovery's list into force; idempotent.

    Raises StaleEpoch, BehindEpoch if this epoch has not fenced here, ProtocolError for a list that
    cannot be this epoch's.
    """
    volume = state.volume(request.volume)
    _check_epoch(state, volume, request.epoch)
    volume.check_same_epoch(request.epoch, node=state.name)
    truncations = truncations_from_pb(request.truncations)
    newest = authority_of(truncations)
    if newest != request.epoch and (truncations or request.epoch > 1):
        raise ProtocolError(f"truncations up to epoch {newest} from a recovery of {request.epoch}")
    await adopt(state, volume, truncations, epoch=request.epoch)
    scls = await state.durable_scls(volume.segments.values())
    _check_epoch(state, volume, request.epoch)
    log.info("volume %d is truncated by epoch %d", request.volume, request.epoch)
    return pb.TruncateReply(
        segments=[
            pb.SegmentAck(pg=segment.pg, scl=scl, membership_epoch=segment.members_since)
            for segment, scl in scls.items()
        ]
    )


async def adopt(
    state: NodeState, volume: Volume, truncations: Sequence[Truncation], *, epoch: Epoch
) -> None:
    """Durably put the list of the recovery of `epoch` into force, and that epoch.

    In memory first, so that nothing annulled is served meanwhile.
    """
    cut = volume.frames_cut
    if set(truncations) != set(volume.truncations) and volume.adopt(truncations):
        reload_segments(state, volume)
    if volume.frames_cut > cut:
        state.runtime.steps.mark(Mark.FRAME_TRIMMED)
    volume.epoch = max(volume.epoch, epoch)
    state.runtime.steps.before(Step.TRUNCATE)
    await state.put_rows(volume, volume.segments.values(), truncations=True)
    state.runtime.steps.after(Step.TRUNCATE)


def reload_segments(state: NodeState, volume: Volume) -> None:
    """Read the volume's frames back from the log: a truncation that cut some is void.

    Rare (a recovery died in the middle, and the next did not meet it), so it may block. What has
    rotted since it was written is missed here as it would be at a start. The caller writes the rows.
    """
    state.runtime.steps.mark(Mark.TRUNCATION_VOID)
    log.warning("volume %d: a dead recovery's truncation is void, reading the log", volume.id)
    for segment in volume.segments.values():
        segment.reset()
    damages = put_back(volume, state.wal.rescan())
    for segment in volume.segments.values():
        segment.measure_hot_log()
        if mark_damaged(state, volume, segment, damages):
            segment.durable_scl = min(segment.durable_scl, segment.scl)


async def learn(
    state: NodeState, volume: Volume, epoch: Epoch, truncations: Sequence[Truncation]
) -> None:
    """Take over what a peer, fenced at `epoch`, knows of recoveries.

    The epoch of a recovery that has not truncated the peer yet is not taken over: it may come to
    nothing, and its writer will fence this node itself.
    """
    authority = authority_of(truncations)
    if authority > epoch:
        raise ProtocolError(f"a peer at epoch {epoch} knows a truncation of epoch {authority}")
    if authority > volume.authority and authority >= volume.epoch:
        await adopt(state, volume, truncations, epoch=authority)
        state.runtime.steps.mark(Mark.EPOCH_LEARNED)
        log.info("volume %d: learned epoch %d from a peer", volume.id, authority)


def authority_of(truncations: Sequence[Truncation]) -> Epoch:
    """The epoch of the recovery whose list this is; 0 for none."""
    return max((t.epoch for t in truncations), default=0)


def truncations_to_pb(truncations: Sequence[Truncation]) -> list[pb.TruncationRange]:
    return [pb.TruncationRange(epoch=t.epoch, low=t.low, high=t.high) for t in truncations]


def truncations_from_pb(messages: Sequence[pb.TruncationRange]) -> list[Truncation]:
    """Raises ProtocolError for ranges that are none."""
    for t in messages:
        check_numbers("truncation", {"epoch": t.epoch, "high": t.high})
    try:
        return [Truncation(t.epoch, t.low, t.high) for t in messages]
    except ValueError as error:
        raise ProtocolError(str(error)) from error
