"""Whole databases in and out: `sextet import`, `sextet export`, and what `sextet clone` needs of a writer.

Import holds the file's pages in memory once and commits them as a single MTR, so the volume is empty
or has all of it, whatever crashes in between. Export pins one read point and streams its pages
while everything goes on.
"""

from __future__ import annotations

import asyncio
import contextlib

from engine.config import InstanceConfig
from engine.errors import ConfigError, ProtocolError
from engine.instance.writer import Writer
from engine.net.pb import instance_pb2 as pb
from engine.ports import Stream
from engine.sql.header import MAGIC
from engine.sql.pool import BufferPool
from engine.types import PAGE_SIZE, CommitMark

PAGES_PER_CHUNK = 64

HOLD_S = 120.0
"""A caller that is still there after so long has had enough time."""


async def import_database(
    writer: Writer, stream: Stream[pb.ImportReply, pb.ImportChunk], config: InstanceConfig
) -> pb.ImportReply:
    """Take a SQLite file of 4 KiB pages. Raises ConfigError if the volume is not empty."""
    _refuse_unless_empty(writer)
    pages = await _receive(stream, config.import_bytes_max)
    before = writer.volume.counters["redo_bytes"]
    async with writer.engine.exclusive():
        _refuse_unless_empty(writer)  # again: somebody may have written while the file came in
        mark = await writer.engine.commit_pages(dict(enumerate(pages)), len(pages))
    redo = writer.volume.counters["redo_bytes"] - before
    return pb.ImportReply(commit_lsn=mark.lsn, redo_bytes=redo)


def _refuse_unless_empty(writer: Writer) -> None:
    pages = writer.pool.tip.pages
    if pages:
        raise ConfigError(
            f"the volume is not empty (it has {pages} pages); import into a new cluster"
        )


async def _receive(stream: Stream[pb.ImportReply, pb.ImportChunk], bytes_max: int) -> list[bytes]:
    pages: list[bytes] = []
    expected = 0
    while (chunk := await stream.recv()) is not None:
        expected = expected or chunk.page_count
        if len(chunk.pages) % PAGE_SIZE:
            raise ProtocolError(f"a chunk of {len(chunk.pages)} bytes is not whole 4 KiB pages")
        view = memoryview(chunk.pages)
        pages += [bytes(view[i : i + PAGE_SIZE]) for i in range(0, len(view), PAGE_SIZE)]
        if len(pages) * PAGE_SIZE > bytes_max:
            raise ConfigError(f"the file is larger than the {bytes_max} bytes an import may have")
    if not pages or len(pages) != expected:
        raise ProtocolError(
            f"{len(pages)} pages came, {expected} were announced; nothing is changed"
        )
    if not pages[0].startswith(MAGIC):
        raise ConfigError("that is not a SQLite database: its first page has no SQLite header")
    return pages


async def export_database(
    pool: BufferPool, as_of: CommitMark | None, stream: Stream[pb.ExportChunk, pb.ExportRequest]
) -> None:
    """Send every page at one read point, the newest if none is given, which stays pinned until the last
    one is sent. Raises SnapshotTooOld if storage has let go of it, ConfigError if it is not visible yet."""
    if as_of is not None and as_of.lsn > pool.visible.lsn:
        raise ConfigError(f"LSN {as_of.lsn} is not visible here yet")
    snapshot = pool.pin(as_of)
    try:
        mark = snapshot.mark
        first = pb.ExportChunk(page_count=mark.pages, read_lsn=mark.lsn)
        await stream.send(first)
        for start in range(0, mark.pages, PAGES_PER_CHUNK):
            upto = min(mark.pages, start + PAGES_PER_CHUNK)
            pages = [await pool.get(page, mark.lsn) for page in range(start, upto)]
            await stream.send(pb.ExportChunk(pages=b"".join(pages)))
    finally:
        pool.unpin(snapshot)


async def hold_read_point(writer: Writer, stream: Stream[pb.HeldReadPoint, pb.HoldRequest]) -> None:
    """Say which commit is the newest durable one, and keep its pages from being collected until the
    caller goes, for `HOLD_S` at most."""
    snapshot = writer.pool.pin(None)
    try:
        mark = snapshot.mark
        held = pb.HeldReadPoint(epoch=writer.volume.epoch)
        held.commit.lsn, held.commit.time_us, held.commit.pages = mark.lsn, mark.time_us, mark.pages
        await stream.send(held)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HOLD_S):
                while await stream.recv() is not None:
                    pass
    finally:
        writer.pool.unpin(snapshot)
