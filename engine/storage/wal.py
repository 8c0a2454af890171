"""The hot log: append-only files of frames, shared by all segments of a node.

Invariants
- Nothing is acknowledged before the `sync` that covers it returned. One fdatasync covers whatever
  was appended before it began, by anyone.
- The next file is begun only when every byte of the current one is durable, so only the newest file
  can have a torn tail. While one is being closed `room` holds back whoever wants to append.
- After a failed append or sync nothing is appended or synced any more: what the disk holds is
  unknown, and only a restart may look.
- What `replay` found is synced before it counts: a crash of the process leaves frames in the page
  cache that no fdatasync has covered. What lies behind the last mark is written again before that: if
  it is there because an fdatasync failed, the kernel calls it clean and would not write it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from engine.errors import Corrupt, DiskFailed, DiskFull, FormatError
from engine.log.frame import check_body
from engine.log.header import FrameHeader, read_header
from engine.ports import AppendFile, Clock, Disk
from engine.steps import OFF, Mark, Step, Steps
from engine.storage.config import StorageConfig
from engine.storage.walfile import Damage, Found, Location, mark, scan_file
from engine.types import LSN, SegmentId

log = logging.getLogger(__name__)

FOLDER = "wal"

STRETCH_BYTES = 1024 * 1024
"""So much of a file is read at once when many frames are checked, if no frame is longer."""

SKIPPED_BYTES = 8 * 1024
"""Bytes between two frames that are rather read along than skipped: opening the file again costs more."""


def _path(file: int) -> str:
    return f"{FOLDER}/{file:08d}.wal"


class Wal:
    """`replay` first, once, then `open`; after that `append`, `sync`, `read`, `delete`."""

    def __init__(self, disk: Disk, config: StorageConfig, clock: Clock, steps: Steps = OFF) -> None:
        self._disk = disk
        self._clock = clock
        self._steps = steps
        self._config = config
        self._current: AppendFile | None = None
        self._failed = ""
        self._appended = 0  # frames ever appended by this process
        self._synced = 0
        self._marked = 0  # up to here the newest file was durable, says its last mark
        self._syncing = asyncio.Lock()
        self._sync_began: float | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._cache: OrderedDict[Location, bytes] = OrderedDict()
        self._cached_bytes = 0
        self.files: list[int] = self._found()
        self.contents: dict[int, dict[SegmentId, LSN]] = {}
        """For each file, the last LSN that it holds of each segment."""
        self.counters = {"syncs": 0, "torn_tail_cuts": 0, "wal_bytes_appended": 0}

    def _found(self) -> list[int]:
        names = self._disk.list(FOLDER)
        return [int(n.removesuffix(".wal")) for n in names if n.endswith(".wal")]

    # -- reading back

    def replay(self) -> Iterator[Found | Damage]:
        """Every frame in log order, and every damaged place; cuts a torn tail."""
        for file in self.files:
            scanned = scan_file(self._disk.read(_path(file)), file, last=file == self.files[-1])
            self._marked = scanned.durable
            if scanned.torn_at is not None:
                log.warning("%s has a torn tail, cut at %d", _path(file), scanned.torn_at)
                self.counters["torn_tail_cuts"] += 1
                self._steps.mark(Mark.TORN_TAIL)
                self._disk.truncate(_path(file), scanned.torn_at)
            for item in scanned.items:
                if isinstance(item, Found):
                    self._note(file, item.header)
                yield item

    def rescan(self) -> Iterator[Found | Damage]:
        """As `replay`, once more while the node runs, when nothing is torn. Changes nothing."""
        for file in self.files:
            yield from scan_file(self._disk.read(_path(file)), file, last=False).items

    async def open(self) -> None:
        """Begin to append behind what `replay` found, once that is durable. Raises DiskFailed."""
        if not self.files:
            self.files = [1]
        self._current = self._disk.open_append(_path(self.files[-1]))
        if self._current.size:
            self._current.rewrite(min(self._marked, self._current.size))
            await self._sync_current()

    def wipe(self) -> None:
        """Delete all files: they belong to another life of this disk."""
        for file in self._found():
            self._disk.delete(_path(file))
        self.files = []

    # -- writing

    async def room(self) -> None:
        """Wait while a file is being closed. To be called before each batch of appends."""
        while not self._room.is_set():
            await self._room.wait()

    def append(self, frame: bytes, header: FrameHeader) -> Location:
        """Write a frame; durable only after `sync`. Raises DiskFull (nothing kept), DiskFailed."""
        current = self._usable()
        try:
            offset = current.append(frame)
        except DiskFailed as error:
            self._failed = str(error)
            raise
        self._appended += 1
        self.counters["wal_bytes_appended"] += len(frame)
        location = Location(self.files[-1], offset, len(frame), header.header_crc)
        self._note(location.file, header)
        self._remember(location, frame)
        return location

    async def sync(self) -> None:
        """Return once everything appended before the call is durable. Raises DiskFailed."""
        self._usable()
        wanted = self._appended
        async with self._syncing:
            if self._synced >= wanted:
                return  # the sync that was under way when we came covered us
            await self._sync_current()
            if self._usable().size >= self._config.wal_file_bytes:
                await self._close_file()

    async def _sync_current(self) -> None:
        current = self._usable()
        covered, end = self._appended, current.size
        await self._fdatasync(current)
        self._synced = covered
        try:
            current.append(mark(self.files[-1], end))
        except DiskFull:
            log.debug("no room for a sync mark; the next sync writes one")
        except DiskFailed as error:
            self._failed = str(error)
            raise

    async def _fdatasync(self, current: AppendFile) -> None:
        self._sync_began = self._clock.monotonic()
        try:
            await current.sync()
        except DiskFailed as error:
            self._failed = str(error)
            raise
        finally:
            self._sync_began = None
        self.counters["syncs"] += 1

    @property
    def syncing_s(self) -> float:
        """For how many seconds the fdatasync under way has run; 0 if none does."""
        began = self._sync_began
        return 0.0 if began is None else self._clock.monotonic() - began

    async def _close_file(self) -> None:
        """Begin the next file, after one more sync if frames came during the last one."""
        self._room.clear()
        try:
            if self._appended > self._synced:
                await self._sync_current()
            # The last mark too: in a file that is not the newest nothing may be torn.
            await self._fdatasync(self._usable())
            if self._appended == self._synced:
                self._steps.before(Step.SEAL)
                following = self._disk.open_append(_path(self.files[-1] + 1))
                self._usable().close()
                self._current = following
                self.files.append(self.files[-1] + 1)
                self._steps.after(Step.SEAL)
        except DiskFull:
            log.warning("no room for a new log file; going on in the old one")
        finally:
            self._room.set()

    def _usable(self) -> AppendFile:
        if self._failed:
            raise DiskFailed(self._failed)
        assert self._current is not None, "replay and open come first"
        return self._current

    def _note(self, file: int, header: FrameHeader) -> None:
        segments = self.contents.setdefault(file, {})
        key = SegmentId(header.volume, header.pg)
        segments[key] = max(header.last_lsn, segments.get(key, 0))

    # -- frames by location

    def read(self, location: Location) -> bytes:
        """A frame's bytes, from memory or disk.

        Raises Corrupt if the disk's fail their checksum or are another frame's, FileNotFoundError if
        the file is dropped.
        """
        frame = self._cache.get(location)
        if frame is not None:
            self._cache.move_to_end(location)
            return frame
        frame = self.read_from_disk(location)
        self._remember(location, frame)
        return frame

    def cached(self, location: Location) -> bytes | None:
        """The frame if it is in memory, where rot on the disk has not reached it."""
        return self._cache.get(location)

    def read_from_disk(self, location: Location) -> bytes:
        """As `read`, but what the disk really holds now: for the scrubber."""
        frame = self._disk.read(_path(location.file), location.offset, location.length)
        _check(frame, location)
        return frame

    def suspect(self, locations: Iterable[Location]) -> set[Location]:
        """Those of many frames that `read_from_disk` is to be asked about: they fail their checksum, are
        another frame, or are dropped. Neighbours are read together, which costs a fraction."""
        found: set[Location] = set()
        for stretch in _stretches(locations):
            start = stretch[0].offset
            length = max(place.offset + place.length for place in stretch) - start
            try:
                data = self._disk.read(_path(stretch[0].file), start, length)
            except FileNotFoundError:
                found.update(stretch)
                continue
            for place in stretch:
                try:
                    _check(data, place, place.offset - start)
                except Corrupt:
                    found.add(place)
        return found

    def _remember(self, location: Location, frame: bytes) -> None:
        self._cache[location] = frame
        self._cached_bytes += len(frame)
        while self._cached_bytes > self._config.frame_cache_bytes and len(self._cache) > 1:
            _, old = self._cache.popitem(last=False)
            self._cached_bytes -= len(old)

    # -- dropping

    def closed_files(self) -> list[int]:
        """Files that no frame goes into any more, oldest first."""
        return self.files[:-1]

    def delete(self, file: int) -> None:
        """Delete a closed file."""
        self._disk.delete(_path(file))
        self.files.remove(file)
        self.contents.pop(file, None)
        for location in [place for place in self._cache if place.file == file]:
            self._cached_bytes -= len(self._cache.pop(location))

    def bytes_kept(self) -> int:
        """Size of all files, marks included."""
        return sum(self._disk.size(_path(file)) for file in self.files)

    def close(self) -> None:
        if self._current is not None:
            self._current.close()
            self._current = None


def _check(data: bytes, location: Location, offset: int = 0) -> None:
    """Raises Corrupt if not just the frame of `location` is at `offset` of what was read."""
    try:
        header = read_header(data, offset)
        check_body(data, header, offset)
        if header.header_crc != location.header_crc:
            raise Corrupt(f"another frame, {header.first_lsn}..{header.last_lsn}, is there")
    except (FormatError, Corrupt) as error:
        raise Corrupt(f"{_path(location.file)} at {location.offset}: {error}") from error


def _stretches(locations: Iterable[Location]) -> Iterator[list[Location]]:
    """Frames of one file that are near one another, in the order of their places."""
    stretch: list[Location] = []
    start = end = 0
    for place in sorted(locations):
        near = (
            stretch
            and place.file == stretch[-1].file
            and place.offset <= end + SKIPPED_BYTES
            and place.offset + place.length - start <= STRETCH_BYTES
        )
        if stretch and not near:
            yield stretch
            stretch = []
        if not stretch:
            start = place.offset
        stretch.append(place)
        end = place.offset + place.length
    if stretch:
        yield stretch
