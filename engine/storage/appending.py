"""The foreground: receive redo, put it into the log, ack after fdatasync (P17 §3.3, steps 1 and 2).

One stream per writer. Its requests are taken in as they come; a second task makes them durable, so
what arrives during one fdatasync shares the next, and several requests share one ack. Nothing else
happens before the ack.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from engine.errors import BehindEpoch, Corrupt, DiskFull, FormatError, StaleEpoch, UnknownSegment
from engine.log.frame import split_frames
from engine.net.pb import storage_pb2 as pb
from engine.ports import Stream
from engine.storage.state import NodeState
from engine.types import PgNo

log = logging.getLogger(__name__)

AppendStream = Stream[pb.AppendAck, pb.AppendRequest]


class _Refused(Exception):
    """A request that is not taken; the reason goes into the ack."""

    def __init__(self, refusal: pb.Refusal, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refusal


async def serve_append(state: NodeState, stream: AppendStream) -> None:
    """Serve one writer's stream until it ends."""
    inbox = _Inbox(state, stream)
    acker = asyncio.create_task(inbox.ack_all(), name="append acks")
    try:
        while (request := await stream.recv()) is not None and not acker.done():
            await inbox.take(request)
        inbox.finish()
        await acker
    finally:
        acker.cancel()
        await asyncio.gather(acker, return_exceptions=True)


class _Inbox:
    """Requests taken in and not acked yet."""

    def __init__(self, state: NodeState, stream: AppendStream) -> None:
        self._state = state
        self._stream = stream
        self._touched: deque[tuple[int, set[PgNo]]] = deque()
        self._refusals: deque[pb.AppendAck] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._finished = False

    async def take(self, request: pb.AppendRequest) -> None:
        """Take one request in; waits while too many are not acked."""
        await self._room.wait()
        try:
            pgs = _take_in(self._state, request)
        except _Refused as refused:
            ack = pb.AppendAck(
                refusal=refused.refusal,
                epoch=self._state.volume_epoch(request.volume),
                detail=str(refused),
            )
            self._refusals.append(ack)
        else:
            self._touched.append((request.volume, pgs))
            if len(self._touched) >= self._state.config.acks_queued_max:
                self._room.clear()
        self._wake.set()

    def finish(self) -> None:
        self._finished = True
        self._wake.set()

    async def ack_all(self) -> None:
        while not self._finished or self._touched or self._refusals:
            await self._wake.wait()
            self._wake.clear()
            while self._touched or self._refusals:
                await self._ack_some()

    async def _ack_some(self) -> None:
        """Make durable what has gathered, then one ack for all of it, refusals after it."""
        touched, refusals = list(self._touched), list(self._refusals)
        self._touched.clear()
        self._refusals.clear()
        self._room.set()
        if touched:
            await self._state.durable()
            volume = touched[-1][0]
            pgs = sorted({pg for _, found in touched for pg in found})
            await self._stream.send(self._ack(volume, pgs))
        for refusal in refusals:
            await self._stream.send(refusal)

    def _ack(self, volume: int, pgs: list[PgNo]) -> pb.AppendAck:
        state = self._state
        state.counters["acks"] += 1
        ack = pb.AppendAck(epoch=state.volume_epoch(volume))
        for pg in pgs:
            ack.segments.add(pg=pg, scl=state.segment(volume, pg).scl)
        return ack


def _take_in(state: NodeState, request: pb.AppendRequest) -> set[PgNo]:
    """Everything of one request into the log, not durable yet; the groups to ack.

    A request without redo is a greeting or only brings points: all groups are acked, so that a
    writer learns where this node stands. Synchronous: a fence comes before all of it or after.
    """
    state.counters["appends"] += 1
    volume = request.volume
    segments = state.of_volume(volume)
    if not segments:
        raise _refused(state, pb.REFUSAL_UNKNOWN_SEGMENT, f"no segment of volume {volume} here")
    try:
        state.check_serving(volume, request.epoch)
    except StaleEpoch as error:
        raise _Refused(pb.REFUSAL_STALE_EPOCH, str(error)) from error
    except BehindEpoch as error:
        raise _refused(state, pb.REFUSAL_BEHIND_EPOCH, str(error)) from error
    for part in request.pgs:
        _take_part(state, request, part)
    for segment in segments:
        segment.learn_points(vdl=request.vdl, pgmrpl=request.pgmrpl)
    return {part.pg for part in request.pgs} or {segment.row.id.pg for segment in segments}


def _take_part(state: NodeState, request: pb.AppendRequest, part: pb.PgFrames) -> None:
    try:
        segment = state.segment(request.volume, part.pg)
    except UnknownSegment as error:
        raise _refused(state, pb.REFUSAL_UNKNOWN_SEGMENT, str(error)) from error
    if part.membership_epoch != segment.row.membership.epoch:
        raise _refused(
            state,
            pb.REFUSAL_STALE_MEMBERSHIP,
            f"group {part.pg} has membership epoch {segment.row.membership.epoch}",
        )
    try:
        for header, frame in split_frames(part.frames):
            if (header.volume, header.pg) != (request.volume, part.pg):
                raise FormatError(f"a frame of group {header.pg} in the part of group {part.pg}")
            if header.epoch > request.epoch:
                raise FormatError(
                    f"a frame of epoch {header.epoch}, the writer has {request.epoch}"
                )
            ahead = header.prev_pg_lsn > segment.scl
            if ahead and segment.chain.pending >= state.config.pending_frames_max:
                raise _refused(state, pb.REFUSAL_OVERLOADED, f"group {part.pg} waits for a gap")
            state.take_in(segment, header, frame)
    except (FormatError, Corrupt) as error:
        raise _refused(state, pb.REFUSAL_MALFORMED, str(error)) from error
    except DiskFull as error:
        state.disk_full = True
        raise _refused(state, pb.REFUSAL_DISK_FULL, str(error)) from error
    state.disk_full = False


def _refused(state: NodeState, refusal: pb.Refusal, detail: str) -> _Refused:
    state.counters["refused_other"] += 1
    return _Refused(refusal, detail)
