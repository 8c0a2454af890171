"""A segment comes into being: on disk first, so that it acks nothing that a crash could make it forget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from engine.steps import Step
from engine.storage.pagestore import PageVersion, SegmentRow
from engine.storage.segment import Segment
from engine.storage.state import NodeState
from engine.storage.volume import Volume


async def create_segment(
    state: NodeState,
    row: SegmentRow,
    *,
    step: Step = Step.CREATE,
    versions: Sequence[PageVersion] = (),
    why_not: Callable[[], str] = str,
) -> str:
    """Write the row, with `versions` of its pages, and let the segment be seen; one that is there already
    stays as it is.

    `why_not` is asked once nothing else is written about segments any more: what it says is returned,
    and nothing is made; "" otherwise. Raises DiskFull.
    """
    key = row.id
    async with state.rows:
        volume = state.volumes.get(key.volume) or Volume(key.volume)
        if key.pg in volume.segments:
            return ""  # asked for twice at once
        if reason := why_not():
            return reason
        epoch = -1
        while epoch != volume.epoch:  # a fence may come while the row is written
            epoch = volume.epoch
            row = replace(row, epoch=epoch)
            state.runtime.steps.before(step)
            if versions:
                await state.guarded(state.store.put_versions(key, versions, row))
            else:
                await state.guarded(state.store.put_segments([row]))
            state.runtime.steps.after(step)
        state.volumes[key.volume] = volume
        volume.add(Segment(row, volume.points))
    return ""
