"""The page-store port: page versions and a node's metadata, durable.

Two bindings: SQLite through aiosqlite (`pagestore_sqlite`), which anyone can open and look into, and
memory (`pagestore_memory`), which a simulator can run. `tests/conformance/test_page_store.py` holds
both to the same promises.

Invariants
- A method that writes is durable and atomic when it returns, and has no effect if it raises. A caller
  cancelled while it waits learns nothing: the write happens whole or not at all.
- Versions stay after their segment has gone only where it was dropped with `keep`, and go with the last
  `Trim` that names no more of them.
- Truncations of a volume are one list, replaced as one, in the transaction that writes the rows.
- A version's checksum binds volume, page and LSN to the image, so a page that was misplaced by a disk
  or by a bug is as visible as one that rotted. The store hands out versions as it finds them; whoever
  uses one calls `valid` first.

Writing methods raise DiskFull (nothing was changed, go on later) or DiskFailed (the node is over).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from google_crc32c import extend as crc_extend
from google_crc32c import value as crc32c

from engine.types import (
    LSN,
    Ancestor,
    CommitMark,
    Epoch,
    Membership,
    PageNo,
    SegmentId,
    Truncation,
    VolumeId,
)

FORMAT_VERSION = 3
"""1 knew no ancestry, 2 no short headers; such a store is brought up to date when it is opened."""
NO_COMMIT = CommitMark(0, 0, 0)
_BOUND = struct.Struct("<QQQ")


def page_checksum(volume: VolumeId, page: PageNo, lsn: LSN, image: bytes) -> int:
    """CRC32C over where and when the image belongs, and the image."""
    return int(crc_extend(crc32c(_BOUND.pack(volume, page, lsn)), image))


@dataclass(frozen=True, slots=True)
class PageVersion:
    """One page as of one record. `make` for a new one; the constructor takes what was stored."""

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
    """A segment's durable metadata, as true as it was when it was last written."""

    id: SegmentId
    incarnation: str
    membership: Membership
    epoch: Epoch = 0
    """The volume epoch at which this node is fenced."""
    applied: LSN = 0
    """Page versions stand up to here; the log is replayed from here."""
    scl: LSN = 0
    """The log reached at least this far without a gap: less after a restart means bytes were lost."""
    known_vdl: LSN = 0
    floor: LSN = 0
    """A coalescing point; no read point below it is served any more."""
    commit: CommitMark = NO_COMMIT
    """The newest CPL at or below known_vdl in this segment."""
    damaged: bool = False
    """Bytes that may have been acked are lost: silence about a record is no denial."""
    ancestry: tuple[Ancestor, ...] = ()
    """Of a clone: whose page versions on this node may be read as its own, nearest first."""


@dataclass(frozen=True, slots=True)
class Trim:
    """Of `segment`'s versions stay, of each page, the newest at or below each of `at`, and all above
    `above` (None: no others). The rest goes."""

    segment: SegmentId
    at: tuple[LSN, ...]
    above: LSN | None = None


def readable(ancestry: Sequence[Ancestor]) -> list[tuple[VolumeId, LSN]]:
    """Whose versions may be read, nearest first, and up to where: no further than who is nearer."""
    limits = accumulate((ancestor.lsn for ancestor in ancestry), min)
    return [(a.volume, limit) for a, limit in zip(ancestry, limits, strict=True)]


class PageStore(Protocol):
    async def open(self, *, name: str, incarnation: str) -> str:
        """Open or create; returns the node's incarnation, which is the given one if it is new.

        Raises ConfigError for an unknown format version or another node's folder.
        """

    async def close(self) -> None: ...

    async def segments(self) -> list[SegmentRow]:
        """Every segment, sorted by id."""

    async def truncations(self) -> dict[VolumeId, tuple[Truncation, ...]]:
        """Each volume's truncations in force, sorted."""

    async def put_segments(
        self,
        rows: Sequence[SegmentRow],
        truncations: Mapping[VolumeId, Sequence[Truncation]] | None = None,
    ) -> None:
        """Insert or replace segments, and replace the truncations of the volumes given."""

    async def drop_segment(
        self, segment: SegmentId, *, keep: Sequence[LSN] = (), trims: Sequence[Trim] = ()
    ) -> None:
        """Forget the segment and its page versions, but of each page the newest at or below each of
        `keep`; and `trims` of others. Nothing is amiss if it is not there."""

    async def newest(
        self, segment: SegmentId, pages: Sequence[PageNo], upto: LSN
    ) -> dict[PageNo, PageVersion]:
        """The newest version at or below `upto` of each page that has one; not verified."""

    async def put_versions(
        self, segment: SegmentId, versions: Sequence[PageVersion], row: SegmentRow | None = None
    ) -> None:
        """Insert or replace page versions, and the segment's row if given."""

    async def replace_version(
        self, segment: SegmentId, page: PageNo, lsn: LSN, good: PageVersion
    ) -> None:
        """Put `good` in the place of the version at `lsn`, which may have another LSN."""

    async def drop_superseded(
        self,
        row: SegmentRow,
        floor: LSN,
        pages: Sequence[PageNo] | None,
        *,
        keep: Sequence[LSN] = (),
    ) -> int:
        """Delete versions that have a newer one at or below `floor`, of the pages given (None: of
        all), but the newest at or below each of `keep`; and write the row that says so. Returns how
        many."""

    async def scan(
        self, after: tuple[VolumeId, PageNo, LSN], limit: int
    ) -> list[tuple[SegmentId, PageVersion]]:
        """Versions in (volume, page, LSN) order, for scrubbing; not verified."""

    async def counts(self) -> dict[SegmentId, tuple[int, int]]:
        """How many page versions each segment keeps, and of how many pages; a segment without any may
        be missing."""

    async def shared_pages(self, row: SegmentRow) -> int:
        """How many pages only the ancestors have a version of, up to where they may be read."""
