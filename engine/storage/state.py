"""What the parts of a storage node share: its volumes, log, page store and peers.

Everything that must not be torn apart by an await is synchronous here. In particular `take_in`: its
caller checks the epoch in the same turn of the loop, so a fence comes before both or after both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from engine.errors import DiskFailed, DiskFull, FormatError, ProtocolError, UnknownSegment
from engine.log.frame import RecordRef, index_frame, trim_frame
from engine.log.header import FrameHeader, read_header
from engine.ports import Channel, Runtime
from engine.steps import Mark, Step
from engine.storage.config import StorageConfig
from engine.storage.pagestore import PageStore
from engine.storage.segment import FrameRef, Segment
from engine.storage.volume import Volume
from engine.storage.wal import Wal
from engine.storage.walfile import Location
from engine.types import LSN, NUMBER_LIMIT, VolumeId
from engine.volume.channels import Channels
from engine.volume.geometry import first_page

log = logging.getLogger(__name__)

T = TypeVar("T")

Pin = Callable[[Segment], LSN]
"""A floor under garbage collection: nothing a reader at this LSN needs is dropped from the segment.
Copies under way add one; archives and clones can."""

STALE = ("redo", "ack", "greeting", "fence")
"""What storage refuses of an older epoch. `redo`: redo that was not taken in. `ack`: it was, but the epoch
had passed before it could be acknowledged. `greeting`: a request to append that brought no redo. `fence`: a
fence or a truncation. Each is a counter, and all are in `refused_stale_epoch`."""

COUNTERS = (
    "appends",
    "frames",
    "redo_bytes",
    "acks",
    "refused_stale_epoch",
    *(f"refused_stale_{what}" for what in STALE),
    "refused_other",
    "gossip_rounds",
    "gossip_frames_filled",
    "segments_copied",
    "segments_made_whole",
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
    """One storage node. Methods are synchronous except where a disk is waited for."""

    runtime: Runtime
    config: StorageConfig
    name: str
    az: str
    store: PageStore
    wal: Wal
    channels: Channels
    incarnation: str = ""
    volumes: dict[VolumeId, Volume] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    pins: list[Pin] = field(default_factory=list)
    full: set[str] = field(default_factory=set)
    """What had no room the last time it wrote: "log", "page store"."""
    stopped: str = ""
    """Why this node is ending itself, if it is."""
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when redo comes or a group's members change: gossip, which rests meanwhile, clears it."""
    rows: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while segment rows are made and written, so an older row never overwrites a newer."""

    def refused_stale(self, what: str) -> None:
        """Count a request of an older epoch; `what` is one of `STALE`."""
        self.counters["refused_stale_epoch"] += 1
        self.counters[f"refused_stale_{what}"] += 1

    # -- segments

    def volume(self, volume: VolumeId) -> Volume:
        """Raises UnknownSegment."""
        found = self.volumes.get(volume)
        if found is None:
            raise UnknownSegment(f"{self.name} keeps no segment of volume {volume}")
        return found

    def segment(self, volume: VolumeId, pg: int) -> Segment:
        """Raises UnknownSegment."""
        found = self.volumes.get(volume)
        segment = found.segments.get(pg) if found is not None else None
        if segment is None:
            raise UnknownSegment(f"{self.name} keeps no segment of volume {volume}, group {pg}")
        return segment

    def segments(self) -> Iterator[tuple[Volume, Segment]]:
        """All of them, sorted; the node may get more while the caller waits in between."""
        for key in sorted(self.volumes):
            volume = self.volumes[key]
            for segment in volume.segments.values():
                yield volume, segment

    def peers(self, segment: Segment) -> dict[str, Channel]:
        """The group's other members, by name."""
        return {
            m.node: self.channels.to(m.address)
            for m in segment.row.membership.voters
            if m.node != self.name
        }

    def shuffled_peers(self, segment: Segment) -> list[tuple[str, Channel]]:
        """As `peers`, in random order."""
        peers = self.peers(segment)
        names = self.runtime.rng.sample(sorted(peers), len(peers))
        return [(name, peers[name]) for name in names]

    @contextmanager
    def pinned(self, segment: Segment, lsn: LSN) -> Iterator[None]:
        """Keep what a reader of `segment` at `lsn` needs, for a while."""

        def pin(other: Segment) -> LSN:
            return lsn if other is segment else NUMBER_LIMIT

        self.pins.append(pin)
        try:
            yield
        finally:
            self.pins.remove(pin)

    # -- frames

    def take_in(self, volume: Volume, segment: Segment, header: FrameHeader, frame: bytes) -> bool:
        """Append a checked frame to the log and the segment; False if it was here or is annulled.

        Raises FormatError or DiskFull with nothing kept; not durable before `durable`.
        """
        kept = volume.trimmed(frame, header)
        if kept is None:
            return False
        if kept is not frame:
            header = read_header(kept)
        if segment.holds(header):
            return False
        records = checked_records(kept, header)
        steps = self.runtime.steps
        if kept is not frame:
            steps.mark(Mark.FRAME_TRIMMED)
        if header.prev_pg_lsn > segment.scl:
            steps.mark(Mark.GAP_WAITED)
        steps.before(Step.RECEIVE)
        location = self.append(kept, header)
        segment.add(header, records, location)
        self.stirred.set()
        self.counters["frames"] += 1
        self.counters["redo_bytes"] += len(kept)
        steps.after(Step.RECEIVE)
        return True

    def append(self, frame: bytes, header: FrameHeader) -> Location:
        """To the log; a failed disk ends the node, a full one is remembered and raises DiskFull."""
        try:
            location = self.wal.append(frame, header)
        except DiskFull:
            self.full.add("log")
            self.runtime.steps.mark(Mark.DISK_WAS_FULL)
            raise
        except DiskFailed as error:
            self.stop(str(error))
            raise
        self.full.discard("log")
        return location

    def frame_bytes(self, ref: FrameRef, *, from_disk: bool = False, upto: LSN = 0) -> bytes | None:
        """A frame as it counts now: cut where a truncation cut it, or at `upto` if that is lower.

        None if nothing is left. Raises Corrupt, FileNotFoundError.
        """
        frame = self.wal.read_from_disk(ref.location) if from_disk else self.wal.read(ref.location)
        return trim_frame(frame, min(ref.last, upto) if upto else ref.last)

    async def durable(self) -> None:
        """Everything appended so far is on disk. After a failed fsync this node is over."""
        steps = self.runtime.steps
        steps.before(Step.PERSIST)
        try:
            await self.wal.sync()
        except DiskFailed as error:
            self.stop(str(error))
            raise
        steps.after(Step.PERSIST)

    async def durable_scls(self, segments: Iterable[Segment]) -> dict[Segment, LSN]:
        """Make the segments' chains durable as they are at the call; how far each then reaches.

        What arrives during the sync is not covered by it, so it is not in the answer either.
        """
        reached = {segment: segment.scl for segment in segments}
        await self.durable()
        for segment, scl in reached.items():
            reached[segment] = min(scl, segment.scl)
            segment.durable_scl = max(segment.durable_scl, reached[segment])
        return reached

    # -- rows

    async def put_rows(
        self, volume: Volume, segments: Iterable[Segment], *, truncations: bool = False
    ) -> None:
        """Write the segments' rows, and the volume's truncations if told to, as they are now."""
        async with self.rows:
            rows = [s.durable_row(epoch=volume.epoch) for s in segments if not s.dropped]
            ranges = {volume.id: volume.truncations} if truncations else None
            await self.guarded(self.store.put_segments(rows, ranges))
            if ranges is not None:
                volume.recorded = ranges[volume.id]

    async def forget_truncations(self, volume: Volume) -> None:
        """Of a volume that is deleted. On a full disk they stay: a few rows that nobody reads."""
        async with self.rows:
            with suppress(DiskFull):
                await self.guarded(self.store.put_segments([], {volume.id: ()}))

    async def guarded(self, write: Awaitable[T]) -> T:
        """A write to the page store; a failed disk ends the node, a full one is remembered."""
        try:
            done = await write
        except DiskFull:
            self.full.add("page store")
            self.runtime.steps.mark(Mark.DISK_WAS_FULL)
            raise
        except DiskFailed as error:
            self.stop(str(error))
            raise
        self.full.discard("page store")
        return done

    def stop(self, reason: str) -> None:
        """End this node: what its disk holds is unknown until it has been read again."""
        if not self.stopped:
            self.stopped = reason
            self.runtime.steps.mark(Mark.NODE_FENCED_ITSELF)
            self.runtime.stop_node(reason)


def checked_records(frame: bytes, header: FrameHeader) -> list[RecordRef]:
    """The records of a frame that is about to be kept, all of pages of its group.

    Raises FormatError: a frame whose checksum is right but whose content is not must be refused
    before it is in the log, where it would meet every restart.
    """
    records = index_frame(frame, header)
    start, end = first_page(header.pg), first_page(header.pg + 1)
    pages = [record.page for record in records]
    if min(pages) < start or max(pages) >= end:
        raise FormatError(f"frame {header.first_lsn}..{header.last_lsn} has a foreign page")
    return records


def check_numbers(what: str, numbers: Mapping[str, int]) -> None:
    """Raises ProtocolError for numbers that no LSN, epoch or volume can be."""
    for name, number in numbers.items():
        if number >= NUMBER_LIMIT:
            raise ProtocolError(f"{what}: {name} {number} is out of range")
