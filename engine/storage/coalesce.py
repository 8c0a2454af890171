"""Background: redo becomes page versions (P17 §3.3, step 5), and what is no longer needed goes.

Coalescing goes up to `Segment.tail()`: gap-free, and at or below a VDL, so nothing that a recovery
could annul ever gets into a page version. Garbage collection keeps, for every page, the newest
version at or below the floor (PGMRPL) and all newer ones; and every log file with a frame that is
not coalesced or above the floor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from engine.errors import Corrupt, DiskFull
from engine.storage.pagestore import PageVersion
from engine.storage.reading import page_images
from engine.storage.segment import Segment
from engine.storage.state import NodeState
from engine.types import LSN

log = logging.getLogger(__name__)

Pin = Callable[[Segment], LSN]
"""A lower bound on what may be dropped from a segment: an archive or a clone adds one."""


class Coalescer:
    """`run` is the background task; `coalesce` and `collect` can be called by themselves."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._waited: dict[Segment, int] = {}
        self.pins: list[Pin] = []

    async def run(self) -> None:
        config = self._state.config
        while True:
            await asyncio.sleep(config.coalesce_s * (0.75 + self._state.runtime.rng.random() / 2))
            for segment in self._due():
                try:
                    await self.coalesce(segment)
                except (DiskFull, Corrupt) as error:
                    log.error("coalescing group %d: %s", segment.row.id.pg, error)
            try:
                await self.collect()
            except DiskFull as error:
                log.error("garbage collection: %s", error)

    def _due(self) -> list[Segment]:
        """Segments with enough redo, or with some for long enough."""
        due = []
        for key in sorted(self._state.segments):
            segment = self._state.segments[key]
            if segment.applied >= segment.tail():
                self._waited.pop(segment, None)
                continue
            waited = self._waited.get(segment, 0) + 1
            self._waited[segment] = waited
            if segment.uncoalesced_bytes >= self._state.config.coalesce_bytes or waited >= 10:
                due.append(segment)
        return due

    async def coalesce(self, segment: Segment) -> int:
        """Apply everything up to the segment's tail; how many pages got a new version."""
        state = self._state
        upto = segment.tail()
        if upto <= segment.applied:
            return 0
        pages = list(segment.pending_changes(upto))
        redo = segment.uncoalesced_bytes
        step = state.config.coalesce_pages_per_batch
        for start in range(0, len(pages), step):
            batch = pages[start : start + step]
            images = await page_images(state, segment, batch, upto)
            versions = [
                PageVersion.make(segment.row.id.volume, page, lsn, image)
                for page, (lsn, image) in zip(batch, images, strict=True)
            ]
            await state.guarded(state.store.put_versions(segment.row.id, versions))
        async with state.rows:
            # A recovery may have come meanwhile. It cannot have annulled anything up to `upto`.
            segment.row = segment.durable_row(applied=max(upto, segment.applied))
            await state.guarded(state.store.put_segments([segment.row]))
        segment.uncoalesced_bytes = max(0, segment.uncoalesced_bytes - redo)
        self._waited.pop(segment, None)
        state.counters["pages_coalesced"] += len(pages)
        return len(pages)

    def bound(self, segment: Segment) -> LSN:
        """Nothing above it may be dropped: not coalesced, still readable, or pinned."""
        return min([segment.applied, segment.floor, *(pin(segment) for pin in self.pins)])

    async def collect(self) -> None:
        """Drop superseded page versions, index entries and whole log files."""
        state = self._state
        for key in sorted(state.segments):
            segment = state.segments[key]
            bound = self.bound(segment)
            if bound > segment.collected:
                segment.collected = bound
                segment.forget_coalesced(bound)
                dropped = await state.guarded(state.store.drop_superseded(key, bound))
                state.counters["versions_dropped"] += dropped
        needed = {
            frame.location.file
            for segment in state.segments.values()
            for frame in segment.frames
            if frame.last > self.bound(segment)
        }
        for file in state.wal.deletable():
            if file in needed:
                break  # oldest first, so that the log has no holes
            for segment in state.segments.values():
                segment.forget_file(file)
            state.wal.delete(file)
            state.counters["wal_files_deleted"] += 1
