"""Reading pages at a read point: the newest version at or below it, plus the records after that."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from engine.errors import Corrupt, NotComplete, SextetError, SnapshotTooOld
from engine.log.apply import apply_ranges
from engine.log.frame import ranges_at
from engine.net.methods import READ_PAGES
from engine.net.pb import storage_pb2 as pb
from engine.storage.pagestore import PageVersion
from engine.storage.segment import RecordAt, Segment
from engine.storage.state import NodeState
from engine.types import LSN, PAGE_SIZE, ZERO_PAGE, PageNo

log = logging.getLogger(__name__)


async def read_pages(state: NodeState, request: pb.ReadPagesRequest) -> pb.ReadPagesReply:
    """Raises StaleEpoch, BehindEpoch, NotComplete, SnapshotTooOld, Corrupt, UnknownSegment."""
    segment = state.segment(request.volume, request.pg)
    state.check_serving(request.volume, request.epoch)
    if segment.scl < request.pg_lsn:
        raise NotComplete(f"{state.name} is complete to {segment.scl}, not to {request.pg_lsn}")
    if request.read_lsn < segment.floor:
        raise SnapshotTooOld(
            f"{state.name} keeps nothing below LSN {segment.floor}; asked for {request.read_lsn}"
        )
    images = await page_images(state, segment, list(request.pages), request.read_lsn)
    state.counters["pages_read"] += len(images)
    return pb.ReadPagesReply(
        pages=[
            pb.PageImage(page=page, lsn=lsn, image=image)
            for page, (lsn, image) in zip(request.pages, images, strict=True)
        ],
        scl=segment.scl,
    )


async def page_images(
    state: NodeState, segment: Segment, pages: Sequence[PageNo], read_lsn: LSN
) -> list[tuple[LSN, bytes]]:
    """(LSN, image) of each page as of `read_lsn`; (0, b"") if it was never written."""
    # Records first: coalescing and garbage collection may move on while the store answers.
    records = [segment.records_between(page, 0, read_lsn) for page in pages]
    wanted = [page for page, found in zip(pages, records, strict=True) if not _whole(found)]
    bases = await state.store.newest(segment.row.id, wanted, read_lsn) if wanted else {}
    for base in list(bases.values()):
        if not base.valid(segment.row.id.volume):
            bases[base.page] = await repaired(state, segment, base)
    return [
        _image(state, bases.get(page), found) for page, found in zip(pages, records, strict=True)
    ]


def _whole(records: Sequence[RecordAt]) -> bool:
    return bool(records) and records[0].full


def _image(
    state: NodeState, base: PageVersion | None, records: Sequence[RecordAt]
) -> tuple[LSN, bytes]:
    if base is None and not records:
        return 0, b""
    lsn, image = (0, ZERO_PAGE) if base is None else (base.lsn, base.image)
    for record in records:
        if record.lsn > lsn:
            frame = state.wal.read(record.frame.location)
            image = apply_ranges(image, record.full, ranges_at(frame, record.record))
            lsn = record.lsn
    assert len(image) == PAGE_SIZE
    return lsn, image


async def repaired(state: NodeState, segment: Segment, rotten: PageVersion) -> PageVersion:
    """A good version in place of a rotten one, from a peer. Raises Corrupt naming page and LSN.

    A peer may have dropped exactly this version already; then its oldest one that can still be read
    takes the place, and the rotten one, which nobody may read any more, goes.
    """
    volume = segment.row.id.volume
    state.counters["scrub_found"] += 1
    read_lsn = max(rotten.lsn, segment.floor)
    request = pb.ReadPagesRequest(
        volume=volume,
        epoch=segment.epoch,
        pg=segment.row.id.pg,
        pages=[rotten.page],
        read_lsn=read_lsn,
        pg_lsn=min(read_lsn, segment.scl),
    )
    peers = state.peers(segment.row.membership)
    for name in state.runtime.rng.sample(sorted(peers), len(peers)):
        try:
            reply = await peers[name].call(READ_PAGES, request, timeout=state.config.peer_timeout_s)
        except SextetError as error:
            log.warning("repair of page %d from %s: %s", rotten.page, name, error)
            continue
        found = reply.pages[0]
        good = PageVersion.make(volume, rotten.page, found.lsn, found.image)
        await state.store.delete_version(segment.row.id, rotten.page, rotten.lsn)
        await state.store.put_versions(segment.row.id, [good])
        state.counters["scrub_repaired"] += 1
        log.warning(
            "page %d at LSN %d was corrupt, repaired from %s", rotten.page, rotten.lsn, name
        )
        return good
    raise Corrupt(
        f"page {rotten.page} at LSN {rotten.lsn} of volume {volume} fails its checksum on "
        f"{state.name}, and no peer could repair it"
    )
