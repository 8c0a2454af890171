"""Background: redo becomes page versions (P17 §3.3, step 5).

Coalescing goes up to `Segment.tail()`: gap-free, and at or below a VDL, so nothing that a recovery
could annul ever gets into a page version. Every page that changed since the last point gets exactly
one version, as of its last record. A crash in the middle leaves versions above `applied`; they are
true, and the next run writes the same ones again.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from engine.errors import Corrupt, DiskFull
from engine.steps import Step
from engine.storage.pagestore import PageVersion
from engine.storage.reading import page_images
from engine.storage.segment import Segment
from engine.storage.state import NodeState
from engine.storage.volume import Volume
from engine.types import LSN, PageNo

log = logging.getLogger(__name__)


class Coalescer:
    """`run` is the background task, `look` one turn of it; `coalesce` does one segment now."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._waited: dict[Segment, int] = {}
        self._reached: dict[Segment, LSN] = {}
        """SCLs at the last look."""

    async def run(self) -> None:
        config = self._state.config
        while True:
            await asyncio.sleep(config.coalesce_s * (0.75 + self._state.runtime.rng.random() / 2))
            await self.look()

    async def look(self) -> None:
        """Coalesce the segments that are due, after one pause more."""
        for volume, segment in self._due():
            try:
                await self.coalesce(volume, segment)
            except (DiskFull, Corrupt) as error:
                log.error("coalescing group %d: %s", segment.pg, error)

    def _due(self) -> list[tuple[Volume, Segment]]:
        """Segments with enough redo, or with some for long enough."""
        config = self._state.config
        due = []
        before, self._reached = self._reached, {}
        gathered = sum(segment.uncoalesced_bytes for _, segment in self._state.segments())
        # What is no longer cached would have to be read from the log again.
        crowded = gathered > config.frame_cache_bytes // 2
        for volume, segment in self._state.segments():
            self._reached[segment] = segment.scl
            if segment.applied >= segment.tail():
                self._waited.pop(segment, None)
                continue
            waited = self._waited.get(segment, 0) + 1
            self._waited[segment] = waited
            busy = not crowded and segment.scl != before.get(segment, segment.scl)
            limit = config.coalesce_busy_rounds if busy else config.coalesce_rounds
            if (
                waited >= limit
                or segment.uncoalesced_bytes >= config.coalesce_bytes
                or segment.has_pending(config.coalesce_page_records)
            ):
                due.append((volume, segment))
        return due

    async def coalesce(self, volume: Volume, segment: Segment, *, limit: LSN | None = None) -> int:
        """Apply everything up to the segment's tail, or to `limit`, a record of the group's, if that
        is lower; how many pages got a new version.

        Raises DiskFull, Corrupt: then `applied` is where it was.
        """
        state = self._state
        upto = segment.tail() if limit is None else min(limit, segment.tail())
        if upto <= segment.applied:
            return 0
        pages = segment.pending_changes(upto)
        redo = segment.uncoalesced_bytes
        step = state.config.coalesce_pages_per_batch
        versions: list[PageVersion] = []
        for start in range(0, len(pages), step):
            if segment.dropped:
                return 0
            if versions:
                state.runtime.steps.before(Step.COALESCE)
                await state.guarded(state.store.put_versions(segment.row.id, versions))
            versions = await self._versions(segment, pages[start : start + step], upto)
        await self._finish(volume, segment, upto, versions, pages)
        segment.uncoalesced_bytes = max(0, segment.uncoalesced_bytes - redo)
        self._waited.pop(segment, None)
        state.counters["pages_coalesced"] += len(pages)
        return len(pages)

    async def _versions(
        self, segment: Segment, pages: list[PageNo], upto: LSN
    ) -> list[PageVersion]:
        images = await page_images(self._state, segment, pages, upto)
        return [
            PageVersion.make(segment.row.id.volume, page, lsn, image)
            for page, (lsn, image) in zip(pages, images, strict=True)
        ]

    async def _finish(
        self,
        volume: Volume,
        segment: Segment,
        upto: LSN,
        versions: list[PageVersion],
        pages: list[PageNo],
    ) -> None:
        """The last versions and the segment's row in one transaction."""
        state = self._state
        await state.durable_scls([segment])  # page versions never get ahead of the log
        async with state.rows:
            if upto <= segment.applied or segment.dropped:
                return  # a page copy has gone further meanwhile
            # A recovery may have come meanwhile. It cannot have annulled anything up to `upto`.
            row = replace(segment.durable_row(epoch=volume.epoch), applied=upto)
            state.runtime.steps.before(Step.COALESCE)
            await state.guarded(state.store.put_versions(segment.row.id, versions, row))
            segment.reached(upto, pages)
            state.runtime.steps.after(Step.COALESCE)
