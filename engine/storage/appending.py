"""The foreground: receive redo, put it into the log, ack after fdatasync (P17 §3.3, steps 1 and 2).

One stream per writer. Its requests are taken in as they come; a second task makes them durable, so
what arrives during one fdatasync shares the next, and several requests share one ack.

What an ack must not say, and how that is kept:
- That something is durable which arrived while the fdatasync was under way: SCLs are noted before it.
- That the sender's records are here when a recovery has annulled them meanwhile and a newer writer's
  frames have moved SCL past them: the epoch is checked again after the fdatasync, and a request of
  an older one is refused instead. A sender that slept through all this would else count it as an ack.
- That a member of a newer membership holds something for a sender of an older one: likewise.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from engine.errors import (
    BehindEpoch,
    Corrupt,
    DiskFull,
    FormatError,
    ProtocolError,
    StaleEpoch,
    UnknownSegment,
)
from engine.log.frame import split_frames
from engine.log.header import FrameHeader
from engine.net.pb import storage_pb2 as pb
from engine.ports import Stream
from engine.steps import Mark, Step
from engine.storage.segment import Segment
from engine.storage.state import NodeState, check_numbers
from engine.storage.volume import Volume
from engine.tasks import end_all
from engine.types import Epoch, VolumeId

log = logging.getLogger(__name__)

AppendStream = Stream[pb.AppendAck, pb.AppendRequest]


class _Refused(Exception):
    """A request that is not taken; the reason goes into the ack."""

    def __init__(self, refusal: pb.Refusal, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class _Taken:
    """A request that is in the log. `segments`: each with the membership epoch it was sent under."""

    volume: VolumeId
    epoch: Epoch
    segments: dict[Segment, int]


async def serve_append(state: NodeState, stream: AppendStream) -> None:
    """Serve one writer's stream until it ends or acks can no longer be given."""
    inbox = _Inbox(state, stream)
    acker = asyncio.create_task(inbox.ack_all(), name="append acks")
    receiver = asyncio.create_task(inbox.receive_all(), name="append requests")
    try:
        await asyncio.wait({acker, receiver}, return_when=asyncio.FIRST_EXCEPTION)
        for task in (acker, receiver):
            if task.done():
                task.result()
    finally:
        await end_all(acker, receiver)


class _Inbox:
    """Requests received and not answered yet, at most `acks_queued_max`."""

    def __init__(self, state: NodeState, stream: AppendStream) -> None:
        self._state = state
        self._stream = stream
        self._queue: deque[_Taken | pb.AppendAck] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._finished = False

    async def receive_all(self) -> None:
        while (request := await self._stream.recv()) is not None:
            await self._room.wait()
            await self._state.wal.room()
            self._queue.append(_answer(self._state, request))
            if len(self._queue) >= self._state.config.acks_queued_max:
                self._room.clear()
            self._wake.set()
        self._finished = True
        self._wake.set()

    async def ack_all(self) -> None:
        while not self._finished or self._queue:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._answer_gathered()

    async def _answer_gathered(self) -> None:
        """Make durable what has gathered, then one ack for all of it, refusals after it."""
        steps = self._state.runtime.steps
        gathered = list(self._queue)
        self._queue.clear()
        self._room.set()
        taken = [item for item in gathered if isinstance(item, _Taken)]
        answers = [item for item in gathered if isinstance(item, pb.AppendAck)]
        if taken:
            for answer in await self._acks(taken):
                steps.before(Step.ACK)
                await self._stream.send(answer)
                steps.after(Step.ACK)
        for answer in answers:
            await self._stream.send(answer)

    async def _acks(self, taken: list[_Taken]) -> list[pb.AppendAck]:
        """One ack per writer (volume and epoch) among `taken`; usually that is one."""
        writers: dict[tuple[VolumeId, Epoch], dict[Segment, int]] = {}
        for item in taken:
            writers.setdefault((item.volume, item.epoch), {}).update(item.segments)
        every = dict.fromkeys(s for segments in writers.values() for s in segments)
        scls = await self._state.durable_scls(every)
        return [
            _ack(self._state, volume, epoch, {s: (scls[s], sent) for s, sent in segments.items()})
            for (volume, epoch), segments in sorted(writers.items(), key=lambda w: w[0])
        ]


def _ack(
    state: NodeState, volume: VolumeId, epoch: Epoch, segments: dict[Segment, tuple[int, int]]
) -> pb.AppendAck:
    """What may be said now that `segments` (SCL, membership epoch it was sent under) are durable."""
    known = state.volume(volume).epoch
    if epoch != known:
        state.refused_stale("ack")
        detail = f"{state.name} was fenced at epoch {known} before it could ack"
        return pb.AppendAck(refusal=pb.REFUSAL_STALE_EPOCH, epoch=known, detail=detail)
    ack = pb.AppendAck(epoch=known)
    for segment in sorted(segments, key=lambda s: s.pg):
        scl, membership_epoch = segments[segment]
        if membership_epoch != segment.row.membership.epoch:
            ack.refusal = pb.REFUSAL_STALE_MEMBERSHIP
            ack.detail = f"group {segment.pg} has changed its members"
            continue
        ack.segments.add(pg=segment.pg, scl=scl, membership_epoch=segment.members_since)
    state.counters["acks"] += 1
    return ack


def _answer(state: NodeState, request: pb.AppendRequest) -> _Taken | pb.AppendAck:
    """Take one request in, or the refusal to send back. Synchronous: a fence comes before all of it
    or after."""
    state.counters["appends"] += 1
    try:
        return _take_in(state, request)
    except _Refused as refused:
        if refused.refusal == pb.REFUSAL_STALE_EPOCH:
            state.runtime.steps.mark(Mark.STALE_REFUSED)
            state.refused_stale("redo" if request.pgs else "greeting")
        else:
            state.counters["refused_other"] += 1
        if refused.refusal == pb.REFUSAL_BEHIND_EPOCH:
            state.runtime.steps.mark(Mark.BEHIND_REFUSED)
        volume = state.volumes.get(request.volume)
        return pb.AppendAck(
            refusal=refused.refusal,
            epoch=volume.epoch if volume is not None else 0,
            detail=str(refused),
        )


def _take_in(state: NodeState, request: pb.AppendRequest) -> _Taken:
    """Everything of one request into the log, not durable yet.

    A request without redo is a greeting or only brings points: all groups are acked, so that a
    writer learns where this node stands.
    """
    try:
        check_numbers("append", {"VDL": request.vdl, "PGMRPL": request.pgmrpl})
        volume = state.volume(request.volume)
        volume.check_serving(request.epoch, node=state.name)
    except ProtocolError as error:
        raise _Refused(pb.REFUSAL_MALFORMED, str(error)) from error
    except UnknownSegment as error:
        raise _Refused(pb.REFUSAL_UNKNOWN_SEGMENT, str(error)) from error
    except StaleEpoch as error:
        raise _Refused(pb.REFUSAL_STALE_EPOCH, str(error)) from error
    except BehindEpoch as error:
        raise _Refused(pb.REFUSAL_BEHIND_EPOCH, str(error)) from error
    segments = {}
    for part in request.pgs:
        segment = _segment_of(state, volume, part)
        segments[segment] = part.membership_epoch
        _take_part(state, volume, segment, part, request.epoch)
    volume.learn_points(vdl=request.vdl, pgmrpl=request.pgmrpl)
    if request.heard:
        volume.heard()
    if not request.pgs:
        segments = {s: s.row.membership.epoch for s in volume.segments.values()}
    return _Taken(request.volume, request.epoch, segments)


def _segment_of(state: NodeState, volume: Volume, part: pb.PgFrames) -> Segment:
    segment = volume.segments.get(part.pg)
    if segment is None:
        raise _Refused(
            pb.REFUSAL_UNKNOWN_SEGMENT, f"{state.name} keeps no segment of group {part.pg}"
        )
    expected = segment.row.membership.epoch
    if part.membership_epoch != expected:
        raise _Refused(
            pb.REFUSAL_STALE_MEMBERSHIP, f"group {part.pg} has membership epoch {expected}"
        )
    return segment


def _take_part(
    state: NodeState, volume: Volume, segment: Segment, part: pb.PgFrames, epoch: Epoch
) -> None:
    try:
        for header, frame in split_frames(part.frames):
            _check_frame(volume, part, header, epoch)
            ahead = header.prev_pg_lsn > segment.scl and not segment.holds(header)
            if ahead and segment.chain.pending >= state.config.pending_frames_max:
                raise _Refused(pb.REFUSAL_OVERLOADED, f"group {part.pg} waits for a gap")
            state.take_in(volume, segment, header, frame)
    except (FormatError, Corrupt) as error:
        raise _Refused(pb.REFUSAL_MALFORMED, str(error)) from error
    except DiskFull as error:
        raise _Refused(pb.REFUSAL_DISK_FULL, str(error)) from error


def _check_frame(volume: Volume, part: pb.PgFrames, header: FrameHeader, epoch: Epoch) -> None:
    if (header.volume, header.pg) != (volume.id, part.pg):
        raise FormatError(f"a frame of group {header.pg} in the part of group {part.pg}")
    if header.epoch > epoch:
        raise FormatError(f"a frame of epoch {header.epoch}, the writer has {epoch}")
