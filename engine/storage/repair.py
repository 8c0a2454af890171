"""Putting right what rotted on this disk, from a peer's copy (P17 §3.3, step 8).

Used by the scrubber, which looks for rot, and by reads, which meet it. A repair is counted where it
is found and again where it succeeded. Nothing rotten is dropped before something good is durable.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from engine.errors import Corrupt, FormatError, SextetError, SnapshotTooOld
from engine.log.frame import check_body, split_frames
from engine.log.header import FrameHeader, read_header
from engine.net.methods import FETCH_FRAMES, READ_PAGES
from engine.net.pb import storage_pb2 as pb
from engine.ports import Channel
from engine.steps import Mark, Step
from engine.storage.ancestry import heirs_of, needed_at, reads
from engine.storage.loss import of_pages
from engine.storage.pagestore import PageVersion
from engine.storage.segment import FrameRef, Segment
from engine.storage.state import NodeState
from engine.types import LSN, NUMBER_LIMIT, PAGE_SIZE, PageNo, SegmentId

log = logging.getLogger(__name__)


async def repair_version(
    state: NodeState,
    segment: Segment,
    rotten: PageVersion,
    *,
    owner: SegmentId | None = None,
    limit: LSN = NUMBER_LIMIT,
) -> PageVersion:
    """A good version in place of a rotten one, for a reader of `segment` at `limit`.

    `owner` is whose version it is, where a clone inherits it: the clone's peers can tell, since to them
    it is the page that the clone has there. So can the peers of whoever else reads it here.

    Raises Corrupt naming page and LSN if no peer has one that serves this reader, DiskFull.
    """
    state.runtime.steps.mark(Mark.ROT_FOUND)
    state.counters["scrub_found"] += 1
    owner = owner or segment.row.id
    try:
        return await _repaired(state, segment, rotten, owner, limit)
    except Corrupt:
        for other in _readers(state, owner, rotten):
            with suppress(Corrupt):
                if other is not segment:
                    good = await _repaired(state, other, rotten, owner, NUMBER_LIMIT)
                    if good.lsn <= rotten.lsn:
                        return good
        raise


async def repair_somehow(state: NodeState, owner: SegmentId, rotten: PageVersion) -> None:
    """As `repair_version`, through whoever reads the version here: its own segment or a clone's.

    Nothing if nobody does. Raises Corrupt if none of them can get it, DiskFull.
    """
    readers = _readers(state, owner, rotten)
    through = [reader for reader in readers if await reads(state, reader, owner, rotten)]
    if not through:
        return
    state.runtime.steps.mark(Mark.ROT_FOUND)
    state.counters["scrub_found"] += 1
    failed: Corrupt | None = None
    for segment in through:
        try:
            good = await _repaired(state, segment, rotten, owner, NUMBER_LIMIT)
        except Corrupt as error:
            failed = error
            continue
        if good.lsn <= rotten.lsn:
            return  # it stands where the rotten one did, for everybody
    if failed is not None:
        raise failed


def _readers(state: NodeState, owner: SegmentId, rotten: PageVersion) -> list[Segment]:
    """The version's own segment, if it is still there, and the clones' segments that may read it."""
    volume = state.volumes.get(owner.volume)
    own = volume.segments.get(owner.pg) if volume is not None else None
    return [*([own] if own is not None else []), *heirs_of(state, owner, rotten.lsn)]


async def _repaired(
    state: NodeState, segment: Segment, rotten: PageVersion, owner: SegmentId, limit: LSN
) -> PageVersion:
    for name, channel in state.shuffled_peers(segment):
        try:
            good = await _version_from(state, segment, channel, rotten)
        except SextetError as error:
            log.warning("repair of page %d from %s: %s", rotten.page, name, error)
            continue
        await _put(state, segment, rotten, owner, good)
        log.warning(
            "page %d at LSN %d was corrupt, repaired from %s", rotten.page, rotten.lsn, name
        )
        if good.lsn <= limit:
            state.counters["scrub_repaired"] += 1
            state.runtime.steps.mark(Mark.ROT_REPAIRED)
            return good
    raise Corrupt(
        f"page {rotten.page} at LSN {rotten.lsn} of volume {owner.volume} fails its checksum on "
        f"{state.name}, and no peer could repair it"
    )


async def _version_from(
    state: NodeState, segment: Segment, channel: Channel, rotten: PageVersion
) -> PageVersion:
    """The peer's version that stands where the rotten one stood, or else its newest.

    Garbage collection may have gone further there than here. The version is the wanted one anyway
    if the page has not changed since.
    """
    oldest = max(rotten.lsn, segment.floor)
    try:
        return await _read(state, segment, channel, rotten.page, oldest)
    except SnapshotTooOld:
        return await _read(state, segment, channel, rotten.page, max(oldest, segment.tail()))


async def _read(
    state: NodeState, segment: Segment, channel: Channel, page: PageNo, lsn: LSN
) -> PageVersion:
    """The page at `lsn` from a peer that certainly has all records up to there."""
    request = pb.ReadPagesRequest(
        volume=segment.row.id.volume,
        epoch=state.volume(segment.row.id.volume).epoch,
        pg=segment.pg,
        pages=[page],
        read_lsn=lsn,
        pg_lsn=min(lsn, segment.scl),
        for_repair=True,
    )
    reply = await channel.call(READ_PAGES, request, timeout=state.config.peer_timeout_s)
    found = reply.pages[0]
    if not found.lsn or len(found.image) != PAGE_SIZE:
        raise Corrupt(f"the peer does not have page {page} at {lsn}")
    return PageVersion.make(segment.row.id.volume, page, found.lsn, found.image)


async def _put(
    state: NodeState, segment: Segment, rotten: PageVersion, owner: SegmentId, good: PageVersion
) -> None:
    """Write the good version, which is `segment`'s; the rotten one, `owner`'s, goes if nobody can need
    just that one any more."""
    if segment.dropped:
        raise Corrupt(f"page {good.page}: {state.name} has dropped group {segment.pg} meanwhile")
    state.runtime.steps.before(Step.REPAIR)
    key = segment.row.id
    if good.lsn <= rotten.lsn or (
        owner == key
        and good.lsn <= segment.floor
        and not any(rotten.lsn <= lsn < good.lsn for lsn in needed_at(state, key))
    ):
        its = PageVersion.make(owner.volume, good.page, good.lsn, good.image)
        write = state.store.replace_version(owner, rotten.page, rotten.lsn, its)
    else:
        write = state.store.put_versions(key, [good])
    await state.guarded(write)
    state.runtime.steps.after(Step.REPAIR)


async def repair_frame(state: NodeState, segment: Segment, ref: FrameRef) -> None:
    """Append a good copy of the frame to the log again and point to that.

    Raises Corrupt naming the records and their pages if neither memory nor a peer has one, DiskFull.
    """
    state.runtime.steps.mark(Mark.ROT_FOUND)
    state.counters["scrub_found"] += 1
    good = state.wal.cached(ref.location)
    if good is not None and _is(ref, good):
        await _replace(state, segment, ref, good)
        return
    for name, channel in state.shuffled_peers(segment):
        try:
            good = await _frame_from(state, segment, channel, ref)
        except (SextetError, TimeoutError) as error:
            log.warning("repair of frame %d from %s: %s", ref.first, name, error)
            continue
        await _replace(state, segment, ref, good)
        log.warning("frame %d..%d was corrupt, repaired from %s", ref.first, ref.last, name)
        return
    raise Corrupt(
        f"redo {ref.first}..{ref.last} of group {segment.pg}{of_pages(segment.pages_of(ref))} "
        f"fails its checksum on {state.name}, and no peer could repair it"
    )


async def _frame_from(state: NodeState, segment: Segment, channel: Channel, ref: FrameRef) -> bytes:
    request = pb.FetchFramesRequest(
        volume=segment.row.id.volume,
        pg=segment.pg,
        after=ref.first - 1,
        upto=ref.last,
        epoch=state.volume(segment.row.id.volume).epoch,
    )
    stream = channel.stream(FETCH_FRAMES, request)
    try:
        while True:
            async with asyncio.timeout(state.config.peer_timeout_s):
                chunk = await stream.recv()
            if chunk is None:
                raise Corrupt(f"the peer does not have frame {ref.first}..{ref.last}")
            for _, frame in split_frames(chunk.frames):
                if _is(ref, frame):
                    return frame
    finally:
        stream.close()


def _is(ref: FrameRef, frame: bytes) -> bool:
    """Whether `frame` is whole and what `ref` stands for."""
    try:
        header: FrameHeader = read_header(frame)
        check_body(frame, header)
    except (FormatError, Corrupt):
        return False
    return (header.first_lsn, header.last_lsn, header.prev_pg_lsn, header.epoch) == (
        ref.first,
        ref.last,
        ref.prev,
        ref.epoch,
    )


async def _replace(state: NodeState, segment: Segment, ref: FrameRef, good: bytes) -> None:
    await state.wal.room()
    if not any(ref is kept for kept in segment.frames):
        return  # a recovery or garbage collection was faster
    ref.location = state.append(good, read_header(good))
    await state.durable()
    state.counters["scrub_repaired"] += 1
    state.runtime.steps.mark(Mark.ROT_REPAIRED)
