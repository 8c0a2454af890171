"""What a node gives to others: frames of its hot log, and page copies."""

from __future__ import annotations

from engine.net.pb import storage_pb2 as pb
from engine.ports import Stream
from engine.storage.reading import page_images
from engine.storage.state import NodeState
from engine.types import PAGE_SIZE, PAGES_PER_PG
from engine.volume.geometry import first_page


async def fetch_frames(
    state: NodeState,
    request: pb.FetchFramesRequest,
    stream: Stream[pb.FramesChunk, pb.FetchFramesRequest],
) -> None:
    """Frames with a record in (after, upto], in LSN order, those behind a gap included.

    Epoch 0 is for inspection. Raises StaleEpoch, BehindEpoch, UnknownSegment, Corrupt.
    """
    segment = state.segment(request.volume, request.pg)
    if request.epoch:
        state.check_serving(request.volume, request.epoch)
    upto = request.upto or 2**63
    chunk = bytearray()
    for ref in list(segment.frames):
        if ref.last <= request.after or ref.first > upto:
            continue
        chunk += state.frame_bytes(ref)
        if len(chunk) >= state.config.chunk_bytes:
            await stream.send(
                pb.FramesChunk(frames=bytes(chunk), scl=segment.scl, hot_from=segment.hot_from)
            )
            chunk.clear()
    await stream.send(
        pb.FramesChunk(frames=bytes(chunk), scl=segment.scl, hot_from=segment.hot_from)
    )


async def copy_pages(
    state: NodeState,
    request: pb.CopyPagesRequest,
    stream: Stream[pb.PagesChunk, pb.CopyPagesRequest],
) -> None:
    """Every page of the group as of this segment's applied LSN."""
    state.check_serving(request.volume, request.epoch)
    segment = state.segment(request.volume, request.pg)
    as_of, commit = segment.applied, segment.row.commit
    start = first_page(request.pg)
    step = state.config.chunk_bytes // PAGE_SIZE
    for first in range(start, start + PAGES_PER_PG, step):
        pages = range(first, min(first + step, start + PAGES_PER_PG))
        images = await page_images(state, segment, pages, as_of)
        found = [
            pb.PageImage(page=page, lsn=lsn, image=image)
            for page, (lsn, image) in zip(pages, images, strict=True)
            if lsn
        ]
        await stream.send(pb.PagesChunk(as_of=as_of, pages=found))
    last = pb.PagesChunk(as_of=as_of, last=True)
    if commit.lsn:
        last.commits.add(lsn=commit.lsn, time_us=commit.time_us, pages=commit.pages)
    await stream.send(last)
