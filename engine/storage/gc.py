"""Background: what nobody can need any more goes (P17 §4.2.3).

Nobody reads below the volume's PGMRPL, nor below a pin. Of a segment, everything up to its newest
coalescing point at or below that may go: page versions that have a newer one at or below the point,
index entries, and log files that hold nothing above it of any segment.

Why points and not PGMRPL itself: see `engine.storage.segment`. A read between two points starts from
the older point's version and needs every record after it.

What clones read of a segment's versions stays, however old it is (`engine.storage.ancestry`).

Invariant: the floor is durable before anything below it is gone, so a restart never serves a read
for which something is missing.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from engine.errors import DiskFull
from engine.steps import Step
from engine.storage.ancestry import needed_at
from engine.storage.segment import Segment
from engine.storage.state import NodeState
from engine.storage.volume import Volume
from engine.types import LSN

log = logging.getLogger(__name__)


class Collector:
    """`run` is the background task; `collect` one pass over everything."""

    def __init__(self, state: NodeState) -> None:
        self._state = state

    async def run(self) -> None:
        config = self._state.config
        while True:
            await asyncio.sleep(config.coalesce_s * (0.75 + self._state.runtime.rng.random() / 2))
            await self.collect()

    async def collect(self) -> None:
        """Drop superseded page versions and index entries, then whole log files."""
        for volume, segment in list(self._state.segments()):
            try:
                await self._collect_segment(volume, segment)
            except DiskFull as error:
                log.error("collecting garbage of group %d: %s", segment.pg, error)
        self._delete_files()

    def bound(self, segment: Segment) -> LSN:
        """Readers come at or above it: PGMRPL, VDL, and every pin. So does who archives the log."""
        points = segment.points
        bounds = [points.pgmrpl, points.vdl, *(pin(segment) for pin in self._state.pins)]
        if self._state.config.archived:
            bounds.append(points.archived)
        return min(bounds)

    async def _collect_segment(self, volume: Volume, segment: Segment) -> None:
        state = self._state
        found = segment.collectable(self.bound(segment))
        if found is None:
            return
        point, pages = found
        async with state.rows:
            if segment.dropped:
                return
            row = replace(segment.durable_row(epoch=volume.epoch), floor=point)
            # Refuse readers below from here on; those who wait for the store ask again afterwards.
            segment.row = replace(segment.row, floor=point)
            state.runtime.steps.before(Step.COLLECT)
            keep = needed_at(state, row.id)
            dropped = await state.guarded(state.store.drop_superseded(row, point, pages, keep=keep))
            segment.collected(point, pages)
            state.runtime.steps.after(Step.COLLECT)
        state.counters["versions_dropped"] += dropped

    def _delete_files(self) -> None:
        """Delete closed log files without anything above a durable floor."""
        state = self._state
        floors = {segment.row.id: segment.collected_to for _, segment in state.segments()}
        for file in state.wal.closed_files():
            held = state.wal.contents.get(file, {})
            # A segment that this node does not keep needs nothing.
            if all(last <= floors.get(key, last) for key, last in held.items()):
                for _, segment in state.segments():
                    segment.forget_file(file)
                state.runtime.steps.before(Step.DROP_LOG)
                state.wal.delete(file)
                state.counters["wal_files_deleted"] += 1
                state.runtime.steps.after(Step.DROP_LOG)
