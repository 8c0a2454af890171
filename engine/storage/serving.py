"""What a node gives to others: frames of its hot log, and page copies."""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import Corrupt, UnknownSegment
from engine.net.pb import storage_pb2 as pb
from engine.ports import Stream
from engine.storage.reading import page_images
from engine.storage.segment import FrameRef, Segment
from engine.storage.state import NodeState
from engine.types import NUMBER_LIMIT, PAGE_SIZE
from engine.volume.geometry import first_page

FramesOut = Stream[pb.FramesChunk, pb.FetchFramesRequest]
PagesOut = Stream[pb.PagesChunk, pb.CopyPagesRequest]


async def fetch_frames(state: NodeState, request: pb.FetchFramesRequest, stream: FramesOut) -> None:
    """Frames with a record in (after, upto], in LSN order, those behind a gap included.

    Whether the epoch's truncations are known here does not matter: the receiver cuts by its own.
    Epoch 0 is for inspection. A rotten frame is left out, except there. Raises StaleEpoch,
    BehindEpoch, UnknownSegment, Corrupt.
    """
    volume = state.volume(request.volume)
    segment = state.segment(request.volume, request.pg)
    chunk = bytearray()
    for ref in _wanted(segment, request):
        if request.epoch:
            volume.check_same_epoch(request.epoch, node=state.name)
        chunk += _bytes_of(state, ref, request)
        if len(chunk) >= state.config.chunk_bytes:
            await stream.send(_chunk(segment, chunk))
            chunk.clear()
    if request.epoch:
        volume.check_same_epoch(request.epoch, node=state.name)
    await stream.send(_chunk(segment, chunk))


def _wanted(segment: Segment, request: pb.FetchFramesRequest) -> Iterator[FrameRef]:
    upto = request.upto or NUMBER_LIMIT
    for ref in list(segment.frames):
        if ref.last > request.after and ref.first <= upto:
            yield ref


def _bytes_of(state: NodeState, ref: FrameRef, request: pb.FetchFramesRequest) -> bytes:
    try:
        return state.frame_bytes(ref, upto=request.upto) or b""
    except FileNotFoundError:  # collected meanwhile; hot_from says so
        return b""
    except Corrupt:
        if not request.epoch:
            raise
        return b""


def _chunk(segment: Segment, frames: bytearray) -> pb.FramesChunk:
    return pb.FramesChunk(frames=bytes(frames), scl=segment.scl, hot_from=segment.hot_from)


async def copy_pages(state: NodeState, request: pb.CopyPagesRequest, stream: PagesOut) -> None:
    """Every page of the group as of this segment's applied LSN, which stays pinned meanwhile.

    Raises StaleEpoch, BehindEpoch, UnknownSegment, Corrupt.
    """
    volume = state.volume(request.volume)
    segment = state.segment(request.volume, request.pg)
    volume.check_same_epoch(request.epoch, node=state.name)
    as_of, commit = segment.applied, segment.newest_commit()
    start, end = first_page(request.pg), first_page(request.pg + 1)
    step = max(1, state.config.chunk_bytes // PAGE_SIZE)
    with state.pinned(segment, as_of):
        for first in range(start, end, step):
            pages = range(first, min(first + step, end))
            images = await page_images(state, segment, pages, as_of)
            volume.check_same_epoch(request.epoch, node=state.name)
            if segment.dropped:  # its versions may have gone under the read
                raise UnknownSegment(f"{state.name} has dropped group {request.pg}")
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
