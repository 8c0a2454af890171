"""What the parts of a storage node share: its segments, log, page store and peers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from engine.errors import BehindEpoch, DiskFailed, DiskFull, StaleEpoch, UnknownSegment
from engine.log.frame import FrameHeader, read_header, trim_frame
from engine.ports import Channel, Runtime
from engine.storage.config import StorageConfig
from engine.storage.pagestore import PageStore
from engine.storage.segment import FrameRef, Segment, trimmed
from engine.storage.wal import Wal
from engine.types import Epoch, Membership, SegmentId, Truncation, VolumeId
from engine.volume.channels import Channels

log = logging.getLogger(__name__)

T = TypeVar("T")

COUNTERS = (
    "appends",
    "frames",
    "redo_bytes",
    "acks",
    "refused_stale_epoch",
    "refused_other",
    "gossip_rounds",
    "gossip_frames_filled",
    "segments_copied",
    "pages_read",
    "pages_coalesced",
    "versions_dropped",
    "wal_files_deleted",
    "scrub_checked",
    "scrub_found",
    "scrub_repaired",
)


@dataclass
class NodeState:
    """One storage node. Methods here are synchronous unless they say `durable`."""

    runtime: Runtime
    config: StorageConfig
    name: str
    az: str
    store: PageStore
    wal: Wal
    channels: Channels
    incarnation: str = ""
    segments: dict[SegmentId, Segment] = field(default_factory=dict)
    truncations: dict[VolumeId, list[Truncation]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    disk_full: bool = False
    rows: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while segment rows are made and written, so an older row never overwrites a newer."""

    # -- segments

    def segment(self, volume: VolumeId, pg: int) -> Segment:
        """Raises UnknownSegment."""
        found = self.segments.get(SegmentId(volume, pg))
        if found is None:
            raise UnknownSegment(f"{self.name} keeps no segment of volume {volume}, group {pg}")
        return found

    def of_volume(self, volume: VolumeId) -> list[Segment]:
        return [self.segments[key] for key in sorted(self.segments) if key.volume == volume]

    def volume_epoch(self, volume: VolumeId) -> Epoch:
        return max((s.epoch for s in self.of_volume(volume)), default=0)

    def settled(self, volume: VolumeId) -> bool:
        """Whether this node knows what the recovery of its epoch annulled.

        Between a fence and its truncation it does not: records here may never have happened, so
        nothing is taken in or given out. The volume's first epoch annulled nothing.
        """
        epoch = self.volume_epoch(volume)
        return epoch <= 1 or any(t.epoch == epoch for t in self.truncations.get(volume, ()))

    def check_serving(self, volume: VolumeId, epoch: Epoch) -> None:
        """Raises StaleEpoch or BehindEpoch unless requests of `epoch` may be served."""
        self.check_epoch(volume, epoch)
        known = self.volume_epoch(volume)
        if epoch > known or not self.settled(volume):
            raise BehindEpoch(
                f"{self.name} is at epoch {known} and does not know what epoch {epoch} annulled"
            )

    def peers(self, membership: Membership) -> dict[str, Channel]:
        """The group's other members, by name."""
        return {
            m.node: self.channels.to(m.address)
            for m in sorted(membership.members, key=lambda m: m.node)
            if m.node != self.name
        }

    # -- frames

    def take_in(self, segment: Segment, header: FrameHeader, frame: bytes) -> bool:
        """Append a checked frame to the log and the segment; False if it was here or is annulled.

        The caller has checked the epoch in the same turn of the loop, so a fence never falls between
        that check and this. Raises DiskFull with nothing kept; not durable before `wal.sync`.
        """
        kept = trimmed(frame, header, self.truncations.get(header.volume, ()))
        if kept is None:
            return False
        if kept is not frame:
            header = read_header(kept)
        if segment.holds(header):
            return False
        location = self.wal.append(kept)
        segment.add(header, kept, location)
        self.counters["frames"] += 1
        self.counters["redo_bytes"] += len(kept)
        return True

    def frame_bytes(self, ref: FrameRef, *, from_disk: bool = False) -> bytes:
        """A frame as it counts now, cut where a truncation cut it. Raises Corrupt."""
        frame = self.wal.read_from_disk(ref.location) if from_disk else self.wal.read(ref.location)
        cut = trim_frame(frame, ref.last)
        assert cut is not None, "a frame without records is not kept"
        return cut

    async def durable(self) -> None:
        """Everything appended so far is on disk. After a failed fsync this node is over."""
        try:
            await self.wal.sync()
        except DiskFailed as error:
            self.runtime.stop_node(str(error))
            raise

    # -- epochs and truncations

    def check_epoch(self, volume: VolumeId, epoch: Epoch) -> None:
        """Raises StaleEpoch if any segment of the volume is fenced at a higher one."""
        known = self.volume_epoch(volume)
        if epoch < known:
            self.counters["refused_stale_epoch"] += 1
            raise StaleEpoch(f"{self.name} is fenced at epoch {known}, the request has {epoch}")

    async def fence(self, volume: VolumeId, epoch: Epoch) -> None:
        """Durably refuse every lower epoch from now on; what is held is durable when this returns."""
        self.check_epoch(volume, epoch)
        segments = self.of_volume(volume)
        for segment in segments:
            segment.row = replace(segment.row, epoch=epoch)  # from here on nothing older comes in
        await self.durable()
        await self.put_rows(segments)
        self.check_epoch(volume, epoch)

    async def truncate(self, volume: VolumeId, truncations: Sequence[Truncation]) -> None:
        """Durably annul; idempotent. In memory first, so that nothing annulled is served meanwhile."""
        known = self.truncations.setdefault(volume, [])
        added = [t for t in truncations if t not in known]
        known.extend(added)
        segments = self.of_volume(volume)
        for truncation in sorted(added):
            for segment in segments:
                segment.cut(truncation)
        await self.put_rows(segments, {volume: added})

    async def put_rows(
        self,
        segments: Sequence[Segment],
        truncations: dict[VolumeId, list[Truncation]] | None = None,
    ) -> None:
        """Write the segments' rows as they are now."""
        async with self.rows:
            for segment in segments:
                segment.row = segment.durable_row()
            await self.guarded(
                self.store.put_segments([segment.row for segment in segments], truncations)
            )

    async def guarded(self, write: Awaitable[T]) -> T:
        """A write to the page store; a failed disk ends the node, a full one is remembered."""
        try:
            done = await write
        except DiskFull:
            self.disk_full = True
            raise
        except DiskFailed as error:
            self.runtime.stop_node(str(error))
            raise
        self.disk_full = False
        return done
