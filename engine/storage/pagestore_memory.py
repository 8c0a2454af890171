"""The page-store port in memory: for simulated nodes, whose disk is simulated too.

Every method takes effect in one turn of the loop, so a crash in between is not possible here; what
is, a crash before or after a call, the simulator draws by itself.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence

from engine.errors import ConfigError
from engine.storage.pagestore import PageVersion, SegmentRow, Trim, readable
from engine.types import LSN, PageNo, SegmentId, Truncation, VolumeId

_Versions = list[PageVersion]


class MemoryPageStore:
    """Survives `close` and `open` of one object, like a disk; a new object is a wiped disk."""

    def __init__(self) -> None:
        self._identity: tuple[str, str] | None = None
        self._segments: dict[SegmentId, SegmentRow] = {}
        self._truncations: dict[VolumeId, tuple[Truncation, ...]] = {}
        self.versions: dict[SegmentId, dict[PageNo, _Versions]] = {}

    def row(self, segment: SegmentId) -> SegmentRow | None:
        """What a restart would find of the segment: for whoever looks at the medium."""
        return self._segments.get(segment)

    def ranges(self, volume: VolumeId) -> tuple[Truncation, ...]:
        """Likewise of the volume's truncations."""
        return self._truncations.get(volume, ())

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

    async def truncations(self) -> dict[VolumeId, tuple[Truncation, ...]]:
        return dict(sorted(self._truncations.items()))

    async def put_segments(
        self,
        rows: Sequence[SegmentRow],
        truncations: Mapping[VolumeId, Sequence[Truncation]] | None = None,
    ) -> None:
        for row in rows:
            self._segments[row.id] = row
        for volume, ranges in (truncations or {}).items():
            self._truncations[volume] = tuple(sorted(ranges))

    async def drop_segment(
        self, segment: SegmentId, *, keep: Sequence[LSN] = (), trims: Sequence[Trim] = ()
    ) -> None:
        self._segments.pop(segment, None)
        for trim in (Trim(segment, tuple(keep)), *trims):
            self._trim(trim)

    def _trim(self, trim: Trim) -> None:
        kept = self.versions.get(trim.segment, {})
        for page in list(kept):
            kept[page] = [
                version
                for version in kept[page]
                if (trim.above is not None and version.lsn > trim.above)
                or _needed(version, kept[page], trim.at)
            ]
            if not kept[page]:
                del kept[page]
        if not kept:
            self.versions.pop(trim.segment, None)

    async def newest(
        self, segment: SegmentId, pages: Sequence[PageNo], upto: LSN
    ) -> dict[PageNo, PageVersion]:
        kept = self.versions.get(segment, {})
        found = {}
        for page in pages:
            versions = kept.get(page, [])
            index = bisect_right(versions, upto, key=lambda v: v.lsn)
            if index:
                found[page] = versions[index - 1]
        return found

    async def put_versions(
        self, segment: SegmentId, versions: Sequence[PageVersion], row: SegmentRow | None = None
    ) -> None:
        for version in versions:
            self._delete(segment, version.page, version.lsn)
            kept = self.versions.setdefault(segment, {}).setdefault(version.page, [])
            insort(kept, version, key=lambda v: v.lsn)
        if row is not None:
            self._segments[row.id] = row

    async def replace_version(
        self, segment: SegmentId, page: PageNo, lsn: LSN, good: PageVersion
    ) -> None:
        self._delete(segment, page, lsn)
        await self.put_versions(segment, [good])

    async def drop_superseded(
        self,
        row: SegmentRow,
        floor: LSN,
        pages: Sequence[PageNo] | None,
        *,
        keep: Sequence[LSN] = (),
    ) -> int:
        self._segments[row.id] = row
        kept = self.versions.get(row.id, {})
        dropped = 0
        for page in kept if pages is None else pages:
            versions = kept.get(page, [])
            first = max(0, bisect_right(versions, floor, key=lambda v: v.lsn) - 1)
            kept_below = [v for v in versions[:first] if _needed(v, versions, keep)]
            versions[:first] = kept_below
            dropped += first - len(kept_below)
        return dropped

    async def scan(
        self, after: tuple[VolumeId, PageNo, LSN], limit: int
    ) -> list[tuple[SegmentId, PageVersion]]:
        every = sorted(
            ((segment.volume, page, version.lsn), segment, version)
            for segment, pages in self.versions.items()
            for page, versions in pages.items()
            for version in versions
            if (segment.volume, page, version.lsn) > after
        )
        return [(segment, version) for _, segment, version in every[:limit]]

    async def counts(self) -> dict[SegmentId, tuple[int, int]]:
        return {
            segment: (sum(map(len, pages.values())), sum(map(bool, pages.values())))
            for segment, pages in sorted(self.versions.items())
            if any(pages.values())
        }

    async def shared_pages(self, row: SegmentRow) -> int:
        inherited: set[PageNo] = set()
        for volume, upto in readable(row.ancestry):
            for page, versions in self.versions.get(SegmentId(volume, row.id.pg), {}).items():
                if versions and versions[0].lsn <= upto:
                    inherited.add(page)
        own = {page for page, versions in self.versions.get(row.id, {}).items() if versions}
        return len(inherited - own)

    def _delete(self, segment: SegmentId, page: PageNo, lsn: LSN) -> None:
        versions = self.versions.get(segment, {}).get(page, [])
        versions[:] = [v for v in versions if v.lsn != lsn]


def _needed(version: PageVersion, versions: _Versions, at: Sequence[LSN]) -> bool:
    """Whether it is the newest of `versions`, its page's, at or below one of those LSNs."""
    for lsn in at:
        index = bisect_right(versions, lsn, key=lambda v: v.lsn)
        if index and versions[index - 1] is version:
            return True
    return False
