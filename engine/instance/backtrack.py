"""`sextet backtrack`: the pages of an earlier commit, put back by one more commit.

Nothing that was acknowledged is annulled: the log goes on, and so do the archive, snapshots, clones,
replicas and read points. To go forward again is to go back to a later commit. Whatever dies meanwhile, the
MTR is there with all its pages, or it is not.

The caller sends every page that the database had then. Only those that differ from the newest state are
kept and committed, so memory and redo grow with the difference. Nobody writes from the first page to the
last, so a caller that goes silent is given up soon.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from engine.errors import ConfigError, DeadlineExceeded, LockTimeout, ProtocolError
from engine.net.pb import instance_pb2 as pb
from engine.ports import Stream
from engine.sql.engine import SqlEngine
from engine.sql.header import MAGIC, put_back, same_contents
from engine.sql.pool import BufferPool
from engine.steps import Step, Steps
from engine.types import PAGE_SIZE, CommitMark, PageNo
from engine.volume.fencing import commit_from_pb, commit_to_pb

log = logging.getLogger(__name__)

WHY = "the cluster is put back to an earlier moment"
"""What clients are told."""

LOCK_S = 10.0
"""Clients are gone by then, so only an import or another backtrack can hold the write lock for longer."""

SILENCE_S = 10.0
"""A caller that sends nothing for so long does not get to keep writers waiting."""

ChunkStream = Stream[pb.BacktrackReply, pb.BacktrackChunk]

Dismiss = Callable[[str], Awaitable[None]]
"""Ends the connection of every client there is now, telling it why."""


async def backtrack_database(
    engine: SqlEngine,
    stream: ChunkStream,
    *,
    bytes_max: int,
    dismiss: Dismiss,
    steps: Steps,
) -> pb.BacktrackReply:
    """Put back the pages that `stream` brings; returns once that is durable and clients are dismissed.

    Raises ConfigError, ProtocolError, LockTimeout, VolumeFull, DeadlineExceeded, Unavailable: then nothing
    is changed. Raises StaleEpoch if it is unknown.
    """
    first = await _next(stream)
    if first is None:
        raise ProtocolError("no page came; nothing is changed")
    past = commit_from_pb(first.past)
    if not 0 < past.lsn <= engine.pool.tip.lsn or not past.pages:
        raise ConfigError(
            f"LSN {past.lsn} is no earlier commit of this cluster; its newest one is "
            f"{engine.pool.tip.lsn}"
        )
    await dismiss(WHY)
    async with _write_lock(engine):
        before = engine.pool.tip
        reply = pb.BacktrackReply(before=commit_to_pb(before))
        images = await _differing(engine.pool, _chunks(first, stream), past, bytes_max)
        if not images:
            return reply
        steps.before(Step.BACKTRACK)
        try:
            mark = await engine.commit_pages(images, past.pages)
            steps.after(Step.BACKTRACK)
        finally:  # also when the caller goes now: it is committed all the same
            # Whoever came meanwhile has seen the state of before.
            await dismiss(WHY)
    log.info("LSN %d puts the state of LSN %d back: %d pages", mark.lsn, past.lsn, len(images))
    reply.commit.CopyFrom(commit_to_pb(mark))
    reply.changed_pages = len(images)
    return reply


@asynccontextmanager
async def _write_lock(engine: SqlEngine) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(LOCK_S):
                await stack.enter_async_context(engine.exclusive())
        except TimeoutError:
            raise LockTimeout(
                f"nobody else may write meanwhile, and for {LOCK_S:.0f} s somebody did, or storage took "
                "no more; nothing is changed"
            ) from None
        yield


async def _next(stream: ChunkStream) -> pb.BacktrackChunk | None:
    try:
        async with asyncio.timeout(SILENCE_S):
            return await stream.recv()
    except TimeoutError:
        raise DeadlineExceeded(f"no page came for {SILENCE_S:.0f} s; nothing is changed") from None


async def _chunks(first: pb.BacktrackChunk, stream: ChunkStream) -> AsyncIterator[list[bytes]]:
    """The pages of one chunk after the other."""
    chunk: pb.BacktrackChunk | None = first
    while chunk is not None:
        pages = list(_pages(chunk.pages))
        if not pages:
            raise ProtocolError("a chunk without pages came; nothing is changed")
        yield pages
        chunk = await _next(stream)


def _pages(data: bytes) -> Iterator[bytes]:
    if len(data) % PAGE_SIZE:
        raise ProtocolError(f"a chunk of {len(data)} bytes is not whole 4 KiB pages")
    for at in range(0, len(data), PAGE_SIZE):
        yield data[at : at + PAGE_SIZE]


async def _differing(
    pool: BufferPool, chunks: AsyncIterator[list[bytes]], past: CommitMark, bytes_max: int
) -> dict[PageNo, bytes]:
    """What has to be written over the newest state to make it that of `past`. The write lock is held."""
    tip = pool.tip
    images: dict[PageNo, bytes] = {}
    header = b""
    came = 0
    async for pages in chunks:
        for page, image in enumerate(pages, came):
            if page == 0:
                header = image
                if not header.startswith(MAGIC):
                    raise ProtocolError("page 1 has no SQLite header; nothing is changed")
            elif page >= tip.pages or await pool.get(page, tip.lsn) != image:
                images[page] = image
        came += len(pages)
        if came > past.pages:
            break
        if len(images) * PAGE_SIZE > bytes_max:
            raise ConfigError(
                f"more than {bytes_max} bytes of pages differ, which is too much for one commit; nothing "
                "is changed. Restore that moment into a new cluster instead"
            )
    if came != past.pages:
        raise ProtocolError(f"{came} pages came of {past.pages}; nothing is changed")
    current = await pool.get(0, tip.lsn)
    if images or past.pages != tip.pages or not same_contents(header, current):
        images[0] = put_back(header, current, past.pages)
    return images
