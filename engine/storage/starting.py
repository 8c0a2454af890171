"""From disk to memory: what a node does before it serves.

The page store says which segments there are and how far they stand as page versions; the log has the
rest. What is missing there is one of two things, and they must never be taken for one another:

- A torn tail: bytes that no fdatasync covered. They were never acknowledged. They are cut.
- Damage: bytes that were durable and are gone or rotten. They may have been acknowledged. The
  segments they may have belonged to are marked `damaged`, durably, until they have it all back
  (`engine.storage.gossip`): meanwhile recovery does not take their silence for a denial.

Records at or below `applied` are in page versions, so their loss endangers no commit. But read points
between the floor and `applied` need them too, and a page must not be built from an older image over a
hole, so damage of the log moves the floor up to `applied`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

from engine.errors import FormatError
from engine.log.header import read_header
from engine.steps import Mark
from engine.storage.loss import Loss, of_pages
from engine.storage.segment import Segment
from engine.storage.state import NodeState
from engine.storage.volume import Volume
from engine.storage.walfile import Damage, Found
from engine.types import SegmentId

log = logging.getLogger(__name__)


async def open_node(state: NodeState) -> None:
    """Read everything back. Raises ConfigError, Corrupt (the page store), DiskFull, DiskFailed."""
    fresh = f"{state.runtime.rng.getrandbits(64):016x}"
    state.incarnation = await state.store.open(name=state.name, incarnation=fresh)
    truncations = await state.store.truncations()
    for row in await state.store.segments():
        volume = state.volumes.get(row.id.volume)
        if volume is None:
            known = truncations.get(row.id.volume, ())
            volume = state.volumes[row.id.volume] = Volume(
                row.id.volume, truncations=known, recorded=known
            )
        volume.epoch = max(volume.epoch, row.epoch)
        segment = Segment(row, volume.points)
        segment.unheard = row.damaged
        volume.unheard |= row.damaged
        volume.add(segment)
    if not state.volumes:
        state.wal.wipe()  # without segments there is nothing to lose; it is another life's log
    damages = _replay(state)
    if state.volumes and not state.wal.files:
        log.error("the log is gone")
        damages.append(Damage(0, 0, None))
    await state.wal.open()
    await _note_damage(state, damages)
    for _, segment in state.segments():
        segment.durable_scl = segment.scl


def _replay(state: NodeState) -> list[Damage]:
    """Put the log's frames back into the segments; the damaged places met."""
    damages = []
    for item in state.wal.replay():
        volume = state.volumes.get(item.header.volume) if item.header is not None else None
        damages += [item] if isinstance(item, Damage) else put_back(volume, [item])
    for damage in damages:
        log.error(
            "the log is damaged: file %d, offset %d: %s",
            damage.file,
            damage.offset,
            _what_it_was(damage),
        )
    for _, segment in state.segments():
        segment.measure_hot_log()
    return damages


def _what_it_was(damage: Damage) -> str:
    header = damage.header
    if header is None:
        return "not even a frame's header can be read"
    redo = f"redo {header.first_lsn}..{header.last_lsn} of group {header.pg}"
    return f"{redo} of volume {header.volume}{of_pages(damage.pages)}"


def put_back(volume: Volume | None, items: Iterable[Found | Damage]) -> list[Damage]:
    """Put those frames back that are of `volume`'s segments. Returns the damaged places among
    `items`, and the frames whose content contradicts their header."""
    damages = []
    for item in items:
        if isinstance(item, Damage):
            damages.append(item)
        elif volume is not None and item.header.volume == volume.id:
            segment = volume.segments.get(item.header.pg)
            if segment is not None and not _restore(volume, segment, item):
                damages.append(Damage(item.location.file, item.location.offset, item.header))
    return damages


def _restore(volume: Volume, segment: Segment, found: Found) -> bool:
    """Put one frame back; False if its content contradicts its header."""
    try:
        kept = volume.trimmed(found.frame, found.header)
        if kept is not None:
            segment.restore(read_header(kept), kept, found.location)
    except FormatError as error:
        log.error("the frame at %s: %s", found.location, error)
        return False
    return True


async def _note_damage(state: NodeState, damages: list[Damage]) -> None:
    """Mark, durably, every segment that may have lost something."""
    for volume, segment in state.segments():
        lost = segment.scl < segment.row.scl
        if lost:
            log.error("group %d reaches %d, it was at %d", segment.pg, segment.scl, segment.row.scl)
        if mark_damaged(state, volume, segment, damages, lost=lost):
            segment.durable_scl = segment.scl
            await state.put_rows(volume, [segment])
            segment.collected_to = segment.floor


def mark_damaged(
    state: NodeState,
    volume: Volume,
    segment: Segment,
    damages: Sequence[Damage],
    *,
    lost: bool = False,
) -> bool:
    """Mark the segment, not durably yet, if `damages` may have hit it or something is `lost`;
    whether so."""
    marks = [d for d in damages if _may_hit(volume, segment, d)]
    # Redo below `applied` may be missing without any other sign: a disk that had lied.
    hole = segment.hot_from > segment.floor
    if hole:
        log.error("group %d: the log begins only at %d", segment.pg, segment.hot_from)
    if not marks and not lost and not hole:
        return False
    state.runtime.steps.mark(Mark.DAMAGE_FOUND)
    state.counters["scrub_found"] += 1
    segment.losses = _losses(segment, marks, lost=lost)
    acked = lost or any(d.header is None or d.header.last_lsn > segment.applied for d in marks)
    segment.row = replace(segment.row, damaged=segment.row.damaged or acked)
    segment.unheard = segment.row.damaged
    volume.unheard |= segment.row.damaged
    segment.raise_floor()
    return True


def _losses(segment: Segment, marks: Sequence[Damage], *, lost: bool) -> tuple[Loss, ...]:
    """Which records are gone, for those who are to be told."""
    found = [
        Loss(d.header.first_lsn, d.header.last_lsn, d.pages)
        for d in marks
        if d.header is not None and d.header.last_lsn > segment.applied
    ]
    if any(d.header is None for d in marks) or (lost and not found):
        # How far it reached once says its row, which is written seldom; or else what follows the gap.
        end = max(segment.row.scl, segment.gap_end())
        found.append(Loss(segment.scl + 1, end if end > segment.scl else 0))
    return tuple(found)


def _may_hit(volume: Volume, segment: Segment, damage: Damage) -> bool:
    """Whether the bytes may have been a frame of this segment that it has not got elsewhere."""
    header = damage.header
    if header is None:
        return True
    if SegmentId(header.volume, header.pg) != segment.row.id:
        return False
    last = header.last_lsn
    for t in volume.truncations:
        if header.epoch < t.epoch and header.first_lsn <= t.high:
            last = min(last, t.low)  # what lies above is annulled and not missed
    first = header.first_lsn
    at_hand = any(f.first == first and f.last >= last for f in segment.frames)
    return not at_hand and last >= first and last > segment.floor
