"""Who on this node reads whose page versions.

A clone's segment has no versions of what it has not changed. It reads those of its ancestors: of each
page the newest at or below the LSN that its row names (`SegmentRow.ancestry`). What follows for them:

- A version stays while some segment's ancestry needs it, whatever becomes of the segment that wrote it:
  garbage collection spares it, and where its own segment is dropped it stays as an *orphan*.
- An orphan goes with the last segment that needs it, in the transaction that drops that one.
- An ancestry never changes after its row has been written first, so nothing has to be told to anybody.

Every question looks at all volumes that this node keeps: they are few, and there is nothing to go stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.storage.pagestore import PageVersion, Trim, readable
from engine.storage.segment import Segment
from engine.storage.state import NodeState
from engine.types import LSN, PageNo, SegmentId


def _heirs(state: NodeState, key: SegmentId) -> Iterator[tuple[Segment, LSN]]:
    """The clones' segments that read versions of `key`, and up to where."""
    for name in sorted(state.volumes):
        segment = state.volumes[name].segments.get(key.pg)
        if segment is not None and segment.row.ancestry:
            for volume, upto in readable(segment.row.ancestry):
                if volume == key.volume:
                    yield segment, upto


def needed_at(state: NodeState, key: SegmentId) -> tuple[LSN, ...]:
    """At which LSNs clones read versions of `key`: of each page the newest at or below each stays."""
    return tuple(sorted({upto for _, upto in _heirs(state, key)}))


def heirs_of(state: NodeState, key: SegmentId, lsn: LSN) -> list[Segment]:
    """The clones' segments that may read `key`'s version at `lsn`."""
    return [segment for segment, upto in _heirs(state, key) if lsn <= upto]


async def inherit(
    state: NodeState,
    segment: Segment,
    bases: dict[PageNo, PageVersion],
    pages: Sequence[PageNo],
    read_lsn: LSN,
) -> dict[PageNo, SegmentId]:
    """Add to `bases` what a clone's segment has of its ancestors, of those `pages` that are not in it
    yet; whose versions those are. One look-up for each ancestor at most."""
    owners = {}
    for volume, upto in readable(segment.row.ancestry):
        missing = [page for page in pages if page not in bases]
        if not missing:
            break
        owner = SegmentId(volume, segment.pg)
        found = await state.store.newest(owner, missing, min(read_lsn, upto))
        owners.update(dict.fromkeys(found, owner))
        bases.update(found)
    return owners


async def reads(state: NodeState, segment: Segment, owner: SegmentId, version: PageVersion) -> bool:
    """Whether a reader of `segment` may need `owner`'s version: nobody reads below the floor, and there
    and above it may be superseded."""
    page, floor = version.page, segment.floor
    if owner == segment.row.id and version.lsn > floor:
        return True
    found = await state.store.newest(segment.row.id, [page], floor)
    owners = await inherit(state, segment, found, [page], floor)
    return page in found and (owners.get(page, segment.row.id), found[page].lsn) == (
        owner,
        version.lsn,
    )


def released_by(state: NodeState, segment: Segment) -> list[Trim]:
    """What of its ancestors' versions nobody needs once `segment`, which is out of its volume already,
    is no more."""
    trims = []
    for ancestor in segment.row.ancestry:
        key = SegmentId(ancestor.volume, segment.pg)
        at = needed_at(state, key)
        volume = state.volumes.get(key.volume)
        owner = volume.segments.get(key.pg) if volume is not None else None
        if owner is None:
            trims.append(Trim(key, at))
        else:
            floor = owner.collected_to
            trims.append(Trim(key, (*at, floor), above=floor))
    return trims
