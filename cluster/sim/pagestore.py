"""The page store of a simulated node: the in-memory binding, with time, crashes and faults around it.

SQLite's own durability is not what is tested here, so a write is atomic and durable: it happened or it
did not. When it happened before a crash is drawn: the answer may be lost although the write is there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cluster.sim.disk import DiskImage
from cluster.sim.process import Life
from engine.errors import DiskFull
from engine.storage.pagestore import PageVersion, SegmentRow, Trim
from engine.storage.pagestore_memory import MemoryPageStore
from engine.types import LSN, PageNo, SegmentId, Truncation, VolumeId


class SimPageStore:
    """PageStore port of one life. `memory` belongs to the medium and outlives it."""

    def __init__(
        self, memory: MemoryPageStore, image: DiskImage, rng: random.Random, life: Life | None
    ) -> None:
        self._memory = memory
        self._image = image
        self._rng = rng
        self._life = life

    async def _pause(self) -> None:
        await asyncio.sleep(self._rng.random() * 2 * self._image.sync_s)
        if self._life is not None:
            self._life.check()

    async def _writing(self) -> None:
        await self._pause()
        if self._image.limit is not None:
            self._image.effect("disk full")
            raise DiskFull(f"no room in {self._image.name}'s page store: free space on this disk")

    async def open(self, *, name: str, incarnation: str) -> str:
        await self._pause()
        return await self._memory.open(name=name, incarnation=incarnation)

    async def close(self) -> None:
        await self._memory.close()

    async def segments(self) -> list[SegmentRow]:
        return await self._memory.segments()

    async def truncations(self) -> dict[VolumeId, tuple[Truncation, ...]]:
        return await self._memory.truncations()

    async def put_segments(
        self,
        rows: Sequence[SegmentRow],
        truncations: Mapping[VolumeId, Sequence[Truncation]] | None = None,
    ) -> None:
        await self._writing()
        await self._memory.put_segments(rows, truncations)
        await self._pause()

    async def drop_segment(
        self, segment: SegmentId, *, keep: Sequence[LSN] = (), trims: Sequence[Trim] = ()
    ) -> None:
        await self._writing()
        await self._memory.drop_segment(segment, keep=keep, trims=trims)
        await self._pause()

    async def newest(
        self, segment: SegmentId, pages: Sequence[PageNo], upto: LSN
    ) -> dict[PageNo, PageVersion]:
        await self._pause()
        return await self._memory.newest(segment, pages, upto)

    async def put_versions(
        self, segment: SegmentId, versions: Sequence[PageVersion], row: SegmentRow | None = None
    ) -> None:
        await self._writing()
        await self._memory.put_versions(segment, versions, row)
        await self._pause()

    async def replace_version(
        self, segment: SegmentId, page: PageNo, lsn: LSN, good: PageVersion
    ) -> None:
        await self._writing()
        await self._memory.replace_version(segment, page, lsn, good)
        await self._pause()

    async def drop_superseded(
        self,
        row: SegmentRow,
        floor: LSN,
        pages: Sequence[PageNo] | None,
        *,
        keep: Sequence[LSN] = (),
    ) -> int:
        await self._writing()
        dropped = await self._memory.drop_superseded(row, floor, pages, keep=keep)
        await self._pause()
        return dropped

    async def scan(
        self, after: tuple[VolumeId, PageNo, LSN], limit: int
    ) -> list[tuple[SegmentId, PageVersion]]:
        await self._pause()
        return await self._memory.scan(after, limit)

    async def counts(self) -> dict[SegmentId, tuple[int, int]]:
        return await self._memory.counts()

    async def shared_pages(self, row: SegmentRow) -> int:
        return await self._memory.shared_pages(row)


def rot_version(memory: MemoryPageStore, image: DiskImage, rng: random.Random) -> bool:
    """Flip a bit in one stored page version, or put another page's image there (a misdirected write)."""
    segments = [key for key in sorted(memory.versions) if memory.versions[key]]
    if not segments:
        return False
    kept = memory.versions[rng.choice(segments)]
    pages = [page for page in sorted(kept) if kept[page]]
    if not pages:
        return False
    versions = kept[rng.choice(pages)]
    at = rng.randrange(len(versions))
    if len(pages) > 1 and rng.random() < 0.4:
        other = kept[rng.choice(pages)][-1]
        if other.image != versions[at].image:
            versions[at] = replace(versions[at], image=other.image, checksum=other.checksum)
            image.effect("misdirected write")
            return True
    rotten = bytearray(versions[at].image)
    rotten[rng.randrange(len(rotten))] ^= 1 << rng.randrange(8)
    versions[at] = replace(versions[at], image=bytes(rotten))
    image.effect("bit rot")
    return True
