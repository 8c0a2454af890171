"""The page-store port in memory: for simulated nodes, whose disk is simulated too."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence

from engine.errors import ConfigError
from engine.storage.pagestore import PageVersion, SegmentRow
from engine.types import LSN, PageNo, SegmentId, Truncation, VolumeId


class MemoryPageStore:
    """Survives `close` and `open` of one object, like a disk; a new object is a wiped disk."""

    def __init__(self) -> None:
        self._identity: tuple[str, str] | None = None
        self._segments: dict[SegmentId, SegmentRow] = {}
        self._truncations: dict[VolumeId, list[Truncation]] = {}
        self._versions: dict[tuple[SegmentId, PageNo], list[tuple[LSN, PageVersion]]] = {}

    async def open(self, *, name: str, incarnation: str) -> str:
        if self._identity is None:
            self._identity = (name, incarnation)
        if self._identity[0] != name:
            raise ConfigError(f"this store belongs to {self._identity[0]}, not to {name}")
        return self._identity[1]

    async def close(self) -> None:
        """Nothing to let go of."""

    async def segments(self) -> list[SegmentRow]:
        return [self._segments[key] for key in sorted(self._segments)]

    async def truncations(self) -> dict[VolumeId, list[Truncation]]:
        return {volume: sorted(found) for volume, found in sorted(self._truncations.items())}

    async def put_segments(
        self,
        rows: Sequence[SegmentRow],
        truncations: Mapping[VolumeId, Sequence[Truncation]] | None = None,
    ) -> None:
        for row in rows:
            self._segments[row.id] = row
        for volume, added in (truncations or {}).items():
            known = self._truncations.setdefault(volume, [])
            known.extend(t for t in added if t not in known)

    async def newest(
        self, segment: SegmentId, pages: Sequence[PageNo], upto: LSN
    ) -> dict[PageNo, PageVersion]:
        found = {}
        for page in pages:
            versions = self._versions.get((segment, page), [])
            index = bisect_right(versions, upto, key=lambda v: v[0])
            if index:
                found[page] = versions[index - 1][1]
        return found

    async def put_versions(
        self, segment: SegmentId, versions: Sequence[PageVersion], row: SegmentRow | None = None
    ) -> None:
        for version in versions:
            await self.delete_version(segment, version.page, version.lsn)
            kept = self._versions.setdefault((segment, version.page), [])
            insort(kept, (version.lsn, version), key=lambda v: v[0])
        if row is not None:
            self._segments[row.id] = row

    async def drop_superseded(self, segment: SegmentId, floor: LSN) -> int:
        dropped = 0
        for key in [key for key in self._versions if key[0] == segment]:
            versions = self._versions[key]
            keep_from = max(0, bisect_right(versions, floor, key=lambda v: v[0]) - 1)
            del versions[:keep_from]
            dropped += keep_from
        return dropped

    async def delete_version(self, segment: SegmentId, page: PageNo, lsn: LSN) -> None:
        versions = self._versions.get((segment, page), [])
        versions[:] = [v for v in versions if v[0] != lsn]

    async def scan(
        self, after: tuple[VolumeId, PageNo, LSN], limit: int
    ) -> list[tuple[SegmentId, PageVersion]]:
        every = sorted(
            ((segment.volume, page, lsn), segment, version)
            for (segment, page), versions in self._versions.items()
            for lsn, version in versions
        )
        return [(segment, version) for key, segment, version in every if key > after][:limit]

    async def count(self, segment: SegmentId) -> int:
        return sum(len(v) for key, v in self._versions.items() if key[0] == segment)
