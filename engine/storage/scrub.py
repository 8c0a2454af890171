"""Background: read what the disk holds, check it, repair it from peers (P17 §3.3, step 8)."""

from __future__ import annotations

import asyncio
import logging

from engine.errors import Corrupt, DiskFull, FormatError, SextetError
from engine.log.frame import split_frames
from engine.net.methods import FETCH_FRAMES
from engine.net.pb import storage_pb2 as pb
from engine.storage.reading import repaired
from engine.storage.segment import FrameRef, Segment
from engine.storage.state import NodeState
from engine.types import LSN, PageNo, SegmentId, VolumeId

log = logging.getLogger(__name__)


class Scrubber:
    """`run` is the background task: page versions and frames in turn, a few at a time."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._page_at: tuple[VolumeId, PageNo, LSN] = (0, -1, 0)
        self._frame_at: tuple[SegmentId, LSN] = (SegmentId(0, 0), 0)

    async def run(self) -> None:
        config = self._state.config
        while True:
            await asyncio.sleep(config.scrub_s * (0.75 + self._state.runtime.rng.random() / 2))
            try:
                await self.check_pages(config.scrub_items)
                await self.check_frames(config.scrub_items)
            except (DiskFull, Corrupt) as error:
                log.error("scrub: %s", error)

    async def check_pages(self, limit: int) -> int:
        """Check the next `limit` page versions; how many were looked at (0: starts over)."""
        state = self._state
        found = await state.store.scan(self._page_at, limit)
        for key, version in found:
            self._page_at = (key.volume, version.page, version.lsn)
            segment = state.segments.get(key)
            if segment is not None and not version.valid(key.volume):
                await repaired(state, segment, version)
        if not found:
            self._page_at = (0, -1, 0)
        state.counters["scrub_checked"] += len(found)
        return len(found)

    async def check_frames(self, limit: int) -> int:
        """Check the next `limit` frames on disk; how many were looked at (0: starts over)."""
        state = self._state
        due = [
            (key, ref)
            for key in sorted(state.segments)
            for ref in state.segments[key].frames
            if (key, ref.first) > self._frame_at
        ][:limit]
        for key, ref in due:
            self._frame_at = (key, ref.first)
            segment = state.segments[key]
            try:
                state.frame_bytes(ref, from_disk=True)
            except (Corrupt, FileNotFoundError):
                if any(ref is kept for kept in segment.frames):
                    await self._repair_frame(segment, ref)
        if not due:
            self._frame_at = (SegmentId(0, 0), 0)
        state.counters["scrub_checked"] += len(due)
        return len(due)

    async def _repair_frame(self, segment: Segment, ref: FrameRef) -> None:
        """Append a peer's copy of the frame to the log again and point to that."""
        state = self._state
        state.counters["scrub_found"] += 1
        peers = state.peers(segment.row.membership)
        for name in state.runtime.rng.sample(sorted(peers), len(peers)):
            request = pb.FetchFramesRequest(
                volume=segment.row.id.volume,
                pg=segment.row.id.pg,
                after=ref.first - 1,
                upto=ref.last,
                epoch=segment.epoch,
            )
            stream = peers[name].stream(FETCH_FRAMES, request)
            try:
                async with asyncio.timeout(state.config.peer_timeout_s):
                    chunk = await stream.recv()
                for header, frame in split_frames(chunk.frames if chunk is not None else b""):
                    if (header.first_lsn, header.last_lsn) == (ref.first, ref.last):
                        ref.location = state.wal.append(frame)
                        await state.durable()
                        state.counters["scrub_repaired"] += 1
                        log.warning("frame %d..%d repaired from %s", ref.first, ref.last, name)
                        return
            except (SextetError, FormatError, TimeoutError) as error:
                log.warning("repair of frame %d from %s: %s", ref.first, name, error)
            finally:
                stream.close()
        raise Corrupt(
            f"redo {ref.first}..{ref.last} of group {segment.row.id.pg} fails its checksum on "
            f"{state.name}, and no peer could repair it"
        )
