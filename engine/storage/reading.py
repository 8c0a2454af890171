"""Reading pages at a read point: the newest version at or below it, plus the records after that.

What a read never returns:
- A page of a clone that lacks what it inherits. Where the clone has no version of its own yet, the
  newest of the nearest ancestor that has one is it (`engine.storage.forks`).
- A page that lacks a record at or below the read point. The caller knows the group's last LSN there
  and the segment must be complete to it; below the floor the records are gone and it is refused.
- Rotten bytes. Versions and frames are checked; what fails is repaired from a peer, and if none can,
  the read fails.

Coalescing, garbage collection and recovery go on while a read waits for the page store, so whether it
may be answered is asked again afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from engine.errors import Corrupt, NotComplete, ProtocolError, SnapshotTooOld, UnknownSegment
from engine.log.diff import lay
from engine.log.frame import changes_at
from engine.net.pb import storage_pb2 as pb
from engine.steps import Mark
from engine.storage.ancestry import inherit
from engine.storage.pagestore import PageVersion
from engine.storage.repair import repair_frame, repair_version
from engine.storage.segment import FrameRef, RecordAt, Segment
from engine.storage.state import NodeState
from engine.storage.volume import Volume
from engine.types import LSN, PAGE_SIZE, ZERO_PAGE, PageNo, SegmentId
from engine.volume.geometry import pg_of

log = logging.getLogger(__name__)

RECORDS_PER_TURN = 2000
"""After so many records others get a turn of the loop: some ten milliseconds."""

_TRIES_MAX = 8
"""How often a read begins again because a frame was repaired or its file dropped under it."""

Image = tuple[LSN, bytes]
"""A page's bytes and the LSN of its last record; (0, b"") if it was never written."""


async def read_pages(state: NodeState, request: pb.ReadPagesRequest) -> pb.ReadPagesReply:
    """Raises StaleEpoch, BehindEpoch, NotComplete, SnapshotTooOld, Corrupt, UnknownSegment,
    ProtocolError."""
    volume = state.volume(request.volume)
    segment = state.segment(request.volume, request.pg)
    pages = list(request.pages)
    if len(pages) > state.config.pages_per_read_max:
        raise ProtocolError(f"{len(pages)} pages in one read")
    if any(pg_of(page) != request.pg for page in pages):
        raise ProtocolError(f"pages {pages[:8]} are not all in group {request.pg}")
    _check_readable(state, volume, segment, request)
    images = await page_images(
        state, segment, pages, request.read_lsn, repair=not request.for_repair
    )
    _check_readable(state, volume, segment, request)
    state.counters["pages_read"] += len(images)
    return pb.ReadPagesReply(
        pages=[
            pb.PageImage(page=page, lsn=lsn, image=image)
            for page, (lsn, image) in zip(pages, images, strict=True)
        ],
        scl=segment.scl,
    )


def _check_readable(
    state: NodeState, volume: Volume, segment: Segment, request: pb.ReadPagesRequest
) -> None:
    volume.check_serving(request.epoch, node=state.name)
    if segment.dropped:  # while the read waited; its versions may have gone under it
        raise UnknownSegment(f"{state.name} has dropped group {segment.pg}")
    if segment.scl < request.pg_lsn:
        state.runtime.steps.mark(Mark.NOT_COMPLETE)
        raise NotComplete(f"{state.name} is complete to {segment.scl}, not to {request.pg_lsn}")
    if request.read_lsn < segment.floor:
        raise SnapshotTooOld(
            f"{state.name} keeps nothing below LSN {segment.floor}; asked for {request.read_lsn}"
        )


async def page_images(
    state: NodeState,
    segment: Segment,
    pages: Sequence[PageNo],
    read_lsn: LSN,
    *,
    repair: bool = True,
) -> list[Image]:
    """Each page as of `read_lsn`, which the caller has checked or pinned. Raises Corrupt.

    Without `repair` rot is an error at once. A peer that repairs asks so: else, where all copies are
    rotten, each would ask every other, which would ask it in turn.
    """
    for _ in range(_TRIES_MAX):
        # Records first: the store's answer can only be newer, and then fewer of them are needed.
        records = [segment.records_upto(page, read_lsn) for page in pages]
        wanted = [page for page, found in zip(pages, records, strict=True) if not _whole(found)]
        bases = await _bases(state, segment, wanted, read_lsn, repair=repair)
        try:
            images, turn = [], 0
            for page, found in zip(pages, records, strict=True):
                turn += len(found)
                if turn > RECORDS_PER_TURN:
                    turn = len(found)
                    await asyncio.sleep(0)
                images.append(_image(state, bases.get(page), found))
            return images
        except _BadFrame as bad:
            if not repair:
                raise Corrupt(
                    f"redo {bad.ref.first}..{bad.ref.last} fails its checksum on {state.name}"
                ) from bad
            await repair_frame(state, segment, bad.ref)
        except FileNotFoundError:
            log.debug("a log file was dropped under a read, which begins again")
    raise Corrupt(f"pages {list(pages)[:8]} at LSN {read_lsn}: repair does not keep up with rot")


def _whole(records: Sequence[RecordAt]) -> bool:
    return bool(records) and records[0].full


async def _bases(
    state: NodeState, segment: Segment, pages: Sequence[PageNo], read_lsn: LSN, *, repair: bool
) -> dict[PageNo, PageVersion]:
    if not pages:
        return {}
    own = segment.row.id
    bases = await state.store.newest(own, pages, read_lsn)
    owners: dict[PageNo, SegmentId] = {}
    if segment.row.ancestry and len(bases) < len(pages):
        owners = await inherit(state, segment, bases, pages, read_lsn)
    for base in list(bases.values()):
        owner = owners.get(base.page, own)
        if base.valid(owner.volume):
            continue
        if not repair:
            raise Corrupt(f"page {base.page} at LSN {base.lsn} fails its checksum on {state.name}")
        bases[base.page] = await repair_version(state, segment, base, owner=owner, limit=read_lsn)
    return bases


class _BadFrame(Exception):
    def __init__(self, ref: FrameRef) -> None:
        super().__init__(ref)
        self.ref = ref


def _image(state: NodeState, base: PageVersion | None, records: Sequence[RecordAt]) -> Image:
    lsn, image = (0, ZERO_PAGE) if base is None else (base.lsn, base.image)
    newer = [record for record in records if record.lsn > lsn]
    if not newer:
        return (lsn, image) if lsn else (0, b"")
    page = bytearray(image)
    for record in newer:
        try:
            frame = state.wal.read(record.frame.location)
        except Corrupt as error:
            log.error("%s", error)
            raise _BadFrame(record.frame) from error
        if record.full:
            page[:] = ZERO_PAGE
        ref = record.record
        lay(page, *changes_at(frame, ref))
    assert len(page) == PAGE_SIZE
    return newer[-1].lsn, bytes(page)
