"""The page-store port: page versions and a node's metadata, durable.

Two bindings: SQLite through aiosqlite (`pagestore_sqlite`), which anyone can open and look into, and
memory (`pagestore_memory`), which a simulator can run. Every method that writes is durable and
atomic when it returns.

A version's checksum binds volume, page and LSN to the image, so a page that was misplaced by a disk
or by a bug is as visible as one that rotted.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from google_crc32c import extend as crc_extend
from google_crc32c import value as crc32c

from engine.types import (
    LSN,
    CommitMark,
    Epoch,
    Membership,
    PageNo,
    SegmentId,
    Truncation,
    VolumeId,
)

FORMAT_VERSION = 1
NO_COMMIT = CommitMark(0, 0, 0)
_BOUND = struct.Struct("<QQQ")


def page_checksum(volume: VolumeId, page: PageNo, lsn: LSN, image: bytes) -> int:
    """CRC32C over where and when the image belongs, and the image."""
    return int(crc_extend(crc32c(_BOUND.pack(volume, page, lsn)), image))


@dataclass(frozen=True, slots=True)
class PageVersion:
    """One page as of one record."""

    page: PageNo
    lsn: LSN
    image: bytes
    checksum: int

    @classmethod
    def make(cls, volume: VolumeId, page: PageNo, lsn: LSN, image: bytes) -> PageVersion:
        return cls(page, lsn, image, page_checksum(volume, page, lsn, image))

    def valid(self, volume: VolumeId) -> bool:
        return page_checksum(volume, self.page, self.lsn, self.image) == self.checksum


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A segment's durable metadata. `applied`: page versions stand up to here."""

    id: SegmentId
    incarnation: str
    membership: Membership
    epoch: Epoch = 0
    applied: LSN = 0
    known_vdl: LSN = 0
    floor: LSN = 0
    """No read point below is served any more (PGMRPL, or where a page copy began)."""
    commit: CommitMark = NO_COMMIT
    """The newest CPL at or below known_vdl in this segment."""
    damaged: bool = False


class PageStore(Protocol):
    async def open(self, *, name: str, incarnation: str) -> str:
        """Open or create; returns the node's incarnation (the given one if it is new).

        Raises ConfigError for an unknown format version or another node's folder.
        """

    async def close(self) -> None: ...

    async def segments(self) -> list[SegmentRow]: ...

    async def truncations(self) -> dict[VolumeId, list[Truncation]]: ...

    async def put_segments(
        self,
        rows: Sequence[SegmentRow],
        truncations: Mapping[VolumeId, Sequence[Truncation]] | None = None,
    ) -> None:
        """Insert or replace segments, and add truncations, in one transaction."""

    async def newest(
        self, segment: SegmentId, pages: Sequence[PageNo], upto: LSN
    ) -> dict[PageNo, PageVersion]:
        """The newest version at or below `upto` of each page that has one; not yet verified."""

    async def put_versions(
        self, segment: SegmentId, versions: Sequence[PageVersion], row: SegmentRow | None = None
    ) -> None:
        """Insert or replace page versions, and the segment's row if given, in one transaction."""

    async def drop_superseded(self, segment: SegmentId, floor: LSN) -> int:
        """Delete versions that have a newer one at or below `floor`; how many."""

    async def delete_version(self, segment: SegmentId, page: PageNo, lsn: LSN) -> None: ...

    async def scan(
        self, after: tuple[VolumeId, PageNo, LSN], limit: int
    ) -> list[tuple[SegmentId, PageVersion]]:
        """Versions in (volume, page, LSN) order, for scrubbing; not verified."""

    async def count(self, segment: SegmentId) -> int:
        """How many page versions the segment keeps."""
