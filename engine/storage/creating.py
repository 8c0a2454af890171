"""Segments come into being: on disk first, so that they ack nothing that a crash could make them forget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from engine.steps import Step
from engine.storage.pagestore import PageVersion, SegmentRow
from engine.storage.segment import Segment
from engine.storage.state import NodeState
from engine.storage.volume import Volume
from engine.types import SegmentId, VolumeId


@dataclass(frozen=True, slots=True)
class Newborn:
    """A segment to be. `why_not` is asked once nothing else is written about segments any more: "" if it
    can be."""

    row: SegmentRow
    versions: Sequence[PageVersion] = ()
    """Of its pages, written with it."""
    why_not: Callable[[], str] = str


async def create_segments(
    state: NodeState, wanted: Sequence[Newborn], *, step: Step = Step.CREATE
) -> list[str]:
    """Write their rows and let the segments be seen; one that is there already stays as it is.

    Of each why it was not made, "" if it is there now. A crash may leave some of them, each of them
    whole: those without versions are one transaction, the others one each. Raises DiskFull.
    """
    async with state.rows:
        volumes = {id_: _volume(state, id_) for id_ in {one.row.id.volume for one in wanted}}
        reasons: list[str] = []
        making: dict[SegmentId, Newborn] = {}
        for one in wanted:
            key = one.row.id
            there = key in making or key.pg in volumes[key.volume].segments  # asked for twice
            reasons.append("" if there else one.why_not())
            if not there and not reasons[-1]:
                making[key] = one
        if making:
            rows = await _written(state, list(making.values()), volumes, step)
            for row in rows:
                volume = volumes[row.id.volume]
                state.volumes[row.id.volume] = volume
                volume.add(Segment(row, volume.points))
    return reasons


def _volume(state: NodeState, id_: VolumeId) -> Volume:
    return state.volumes.get(id_) or Volume(id_)


async def _written(
    state: NodeState, making: Sequence[Newborn], volumes: dict[VolumeId, Volume], step: Step
) -> list[SegmentRow]:
    """The rows as they are on the disk, with the volumes' epochs."""
    while True:
        epochs = {id_: volume.epoch for id_, volume in volumes.items()}
        rows = [replace(one.row, epoch=epochs[one.row.id.volume]) for one in making]
        state.runtime.steps.before(step)
        for one, row in zip(making, rows, strict=True):
            if one.versions:
                await state.guarded(state.store.put_versions(row.id, one.versions, row))
        plain = [row for one, row in zip(making, rows, strict=True) if not one.versions]
        if plain:
            await state.guarded(state.store.put_segments(plain))
        state.runtime.steps.after(step)
        if all(volume.epoch == epochs[id_] for id_, volume in volumes.items()):
            return rows  # else a fence came while they were written
