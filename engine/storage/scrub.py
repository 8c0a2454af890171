"""Background: read what the disk holds, check it, repair it from peers (P17 §3.3, step 8).

Page versions and frames of the log in turn, a bounded number per pause, so that a scrub never
competes with the foreground. Bytes that are in use are checked by their users anyway; this finds rot
in what nobody has read for long, before the other copies rot too. That takes disks hours, so what is
little is not read over and over: once all has been checked, the next pass waits (`scrub_pass_s`).
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Awaitable, Callable

from engine.errors import Corrupt, DiskFull
from engine.storage.repair import repair_frame, repair_somehow
from engine.storage.segment import FrameRef, Segment
from engine.storage.state import NodeState
from engine.types import LSN, PageNo, SegmentId, VolumeId

log = logging.getLogger(__name__)

ROUND_BYTES = 4 * 1024 * 1024
"""Of frames that are checked at once: the loop serves nobody meanwhile."""

_FIRST_PAGE: tuple[VolumeId, PageNo, LSN] = (0, -1, 0)
_FIRST_FRAME = (SegmentId(0, 0), 0)


class _Passes:
    """One kind of things, through all of which `check` goes again and again, but not too soon."""

    def __init__(self, check: Callable[[int], Awaitable[int]], now: float) -> None:
        self._check = check
        self._next = now  # a pass begins then, or began then if `_under_way`
        self._under_way = False

    async def go_on(self, limit: int, now: float, least_s: float) -> None:
        """Check some more, unless the last pass began less than `least_s` seconds ago and is over."""
        if not self._under_way:
            if now < self._next:
                return
            self._next, self._under_way = now, True
        if not await self._check(limit):
            self._next, self._under_way = self._next + least_s, False


class Scrubber:
    """`run` is the background task; `check_pages` and `check_frames` are its two steps."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._page_at = _FIRST_PAGE
        self._frame_at = _FIRST_FRAME

    async def run(self) -> None:
        config, clock = self._state.config, self._state.runtime.clock
        kinds = [_Passes(c, clock.monotonic()) for c in (self.check_pages, self.check_frames)]
        while True:
            await asyncio.sleep(config.scrub_s * (0.75 + self._state.runtime.rng.random() / 2))
            for kind in kinds:
                await kind.go_on(config.scrub_items, clock.monotonic(), config.scrub_pass_s)

    async def check_pages(self, limit: int) -> int:
        """Check the next `limit` page versions; how many there were (0: it begins anew)."""
        state = self._state
        found = await state.store.scan(self._page_at, limit)
        for key, version in found:
            self._page_at = (key.volume, version.page, version.lsn)
            if not version.valid(key.volume):
                try:
                    await repair_somehow(state, key, version)
                except (Corrupt, DiskFull) as error:
                    log.error("scrub: %s", error)
        if not found:
            self._page_at = _FIRST_PAGE
        state.counters["scrub_checked"] += len(found)
        return len(found)

    async def check_frames(self, limit: int) -> int:
        """Check the next `limit` frames on disk; how many there were (0: it begins anew)."""
        state = self._state
        due = self._next_frames(limit)
        suspect = state.wal.suspect(ref.location for _, ref in due)
        for segment, ref in due:
            self._frame_at = (segment.row.id, ref.first)
            if ref.location not in suspect:
                continue
            try:
                state.frame_bytes(ref, from_disk=True)
            except FileNotFoundError:
                continue  # collected meanwhile
            except Corrupt as rot:
                log.error("scrub: %s", rot)
                try:
                    await repair_frame(state, segment, ref)
                except (Corrupt, DiskFull) as error:
                    log.error("scrub: %s", error)
        if not due:
            self._frame_at = _FIRST_FRAME
        state.counters["scrub_checked"] += len(due)
        return len(due)

    def _next_frames(self, limit: int) -> list[tuple[Segment, FrameRef]]:
        due: list[tuple[Segment, FrameRef]] = []
        at, after = self._frame_at
        size = 0
        for _, segment in self._state.segments():
            key = segment.row.id
            if key < at or len(due) >= limit:
                continue
            start = 0
            if key == at:
                start = bisect_right(segment.frames, after, key=lambda f: f.first)
            for ref in segment.frames[start : start + limit - len(due)]:
                due.append((segment, ref))
                size += ref.location.length
                if size >= ROUND_BYTES:
                    return due
        return due
