"""The page store of a node whose disk is slow or full: SQLite opens its files itself, so not by the disk
port. Reads of a full disk go on; a failed fsync hits the log only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from engine.faults.disk import FaultyDisk, check_room, slow_down
from engine.faults.watch import FaultWatch
from engine.ports import Disk
from engine.storage.pagestore import PageStore, PageVersion, SegmentRow, Trim
from engine.types import LSN, PageNo, SegmentId, Truncation, VolumeId


def faulty_store(store: PageStore, disk: Disk) -> PageStore:
    """`store` itself if its node's disk cannot be made to fail."""
    return FaultyPageStore(store, disk.watch) if isinstance(disk, FaultyDisk) else store


class FaultyPageStore:
    """PageStore port over another one."""

    def __init__(self, inner: PageStore, watch: FaultWatch) -> None:
        self._inner = inner
        self._watch = watch

    async def _slowly(self, begun: float) -> None:
        if self._watch.table.slow_disk is not None:
            await slow_down(self._watch, asyncio.get_running_loop().time() - begun)

    def _begin_write(self) -> float:
        check_room(self._watch, "page versions")
        return asyncio.get_running_loop().time()

    async def open(self, *, name: str, incarnation: str) -> str:
        return await self._inner.open(name=name, incarnation=incarnation)

    async def close(self) -> None:
        await self._inner.close()

    async def segments(self) -> list[SegmentRow]:
        return await self._inner.segments()

    async def truncations(self) -> dict[VolumeId, tuple[Truncation, ...]]:
        return await self._inner.truncations()

    async def put_segments(
        self,
        rows: Sequence[SegmentRow],
        truncations: Mapping[VolumeId, Sequence[Truncation]] | None = None,
    ) -> None:
        begun = self._begin_write()
        await self._inner.put_segments(rows, truncations)
        await self._slowly(begun)

    async def drop_segment(
        self, segment: SegmentId, *, keep: Sequence[LSN] = (), trims: Sequence[Trim] = ()
    ) -> None:
        begun = asyncio.get_running_loop().time()  # a full disk lets go of what it has
        await self._inner.drop_segment(segment, keep=keep, trims=trims)
        await self._slowly(begun)

    async def newest(
        self, segment: SegmentId, pages: Sequence[PageNo], upto: LSN
    ) -> dict[PageNo, PageVersion]:
        begun = asyncio.get_running_loop().time()
        found = await self._inner.newest(segment, pages, upto)
        await self._slowly(begun)
        return found

    async def put_versions(
        self, segment: SegmentId, versions: Sequence[PageVersion], row: SegmentRow | None = None
    ) -> None:
        begun = self._begin_write()
        await self._inner.put_versions(segment, versions, row)
        await self._slowly(begun)

    async def replace_version(
        self, segment: SegmentId, page: PageNo, lsn: LSN, good: PageVersion
    ) -> None:
        begun = self._begin_write()
        await self._inner.replace_version(segment, page, lsn, good)
        await self._slowly(begun)

    async def drop_superseded(
        self,
        row: SegmentRow,
        floor: LSN,
        pages: Sequence[PageNo] | None,
        *,
        keep: Sequence[LSN] = (),
    ) -> int:
        begun = self._begin_write()
        dropped = await self._inner.drop_superseded(row, floor, pages, keep=keep)
        await self._slowly(begun)
        return dropped

    async def scan(
        self, after: tuple[VolumeId, PageNo, LSN], limit: int
    ) -> list[tuple[SegmentId, PageVersion]]:
        return await self._inner.scan(after, limit)

    async def counts(self) -> dict[SegmentId, tuple[int, int]]:
        return await self._inner.counts()

    async def shared_pages(self, row: SegmentRow) -> int:
        return await self._inner.shared_pages(row)
