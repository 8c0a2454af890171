"""The hot log: append-only files of frames, shared by all segments of a node.

Invariants
- Nothing is acknowledged before the `sync` that covers it returned. One fdatasync covers whatever
  was appended before it began, by anyone.
- A file is closed and the next begun only right after a sync, so bytes not yet durable are always
  at the end of the newest file. A torn frame is therefore normal at the very end of the log and
  nowhere else; anywhere else it is damage.

Caveat: rot in the last frame of the log cannot be told from a torn write, and is cut as one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from engine.errors import Corrupt, FormatError, TornFrame
from engine.log.frame import FrameHeader, check_body, find_next_frame, read_header
from engine.ports import AppendFile, Disk
from engine.storage.config import StorageConfig

log = logging.getLogger(__name__)

FOLDER = "wal"


@dataclass(frozen=True, slots=True)
class Location:
    """Where a frame's bytes are."""

    file: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Found:
    """A whole, checked frame met while reading the log back."""

    location: Location
    header: FrameHeader
    frame: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes in the middle of the log that are no frame; `header` if it at least is readable."""

    file: int
    offset: int
    header: FrameHeader | None


def _path(file: int) -> str:
    return f"{FOLDER}/{file:08d}.wal"


class Wal:
    """`replay` first, once; then `append`, `sync`, `read`, `delete`."""

    def __init__(self, disk: Disk, config: StorageConfig) -> None:
        self._disk = disk
        self._config = config
        self._current: AppendFile | None = None
        self._appended = 0  # frames ever appended by this process
        self._synced = 0
        self._syncing = asyncio.Lock()
        self._cache: OrderedDict[Location, bytes] = OrderedDict()
        self._cached_bytes = 0
        self.files: list[int] = []
        self.counters = {"syncs": 0, "torn_tail_cuts": 0, "wal_bytes_appended": 0}

    # -- reading back

    def replay(self) -> Iterator[Found | Damage]:
        """Every frame in log order, and every damaged place; cuts a torn tail; opens for appending."""
        self.files = [
            int(n.removesuffix(".wal")) for n in self._disk.list(FOLDER) if n.endswith(".wal")
        ]
        for file in self.files:
            yield from self._replay_file(file, last=file == self.files[-1])
        if not self.files:
            self.files = [1]
        self._current = self._disk.open_append(_path(self.files[-1]))

    def _replay_file(self, file: int, *, last: bool) -> Iterator[Found | Damage]:
        data = self._disk.read(_path(file))
        offset = 0
        while offset < len(data):
            header: FrameHeader | None = None
            try:
                header = read_header(data, offset)
                check_body(data, header, offset)
            except (FormatError, Corrupt) as error:
                following = _next_valid(data, offset, header)
                if following is None and last:
                    self._cut_tail(file, offset, error)
                    return
                yield Damage(file, offset, header)
                if following is None:
                    return
                offset = following
                continue
            location = Location(file, offset, header.length)
            yield Found(location, header, data[offset : offset + header.length])
            offset += header.length

    def _cut_tail(self, file: int, offset: int, error: Exception) -> None:
        log.warning("torn tail of %s cut at %d: %s", _path(file), offset, error)
        self.counters["torn_tail_cuts"] += 1
        self._disk.truncate(_path(file), offset)

    # -- writing

    def append(self, frame: bytes) -> Location:
        """Write a frame; durable only after `sync`. Raises DiskFull (nothing kept), DiskFailed."""
        assert self._current is not None, "replay comes first"
        offset = self._current.append(frame)
        self._appended += 1
        self.counters["wal_bytes_appended"] += len(frame)
        location = Location(self.files[-1], offset, len(frame))
        self._remember(location, frame)
        return location

    async def sync(self) -> None:
        """Return once everything appended before the call is durable. Raises DiskFailed."""
        wanted = self._appended
        async with self._syncing:
            if self._synced >= wanted:
                return  # the sync that was under way when we came covered us
            assert self._current is not None
            covered = self._appended
            await self._current.sync()
            self._synced = covered
            self.counters["syncs"] += 1
            if self._current.size >= self._config.wal_file_bytes and self._appended == covered:
                self._begin_next_file()

    def _begin_next_file(self) -> None:
        assert self._current is not None
        following = self._disk.open_append(_path(self.files[-1] + 1))
        self._current.close()
        self._current = following
        self.files.append(self.files[-1] + 1)

    # -- frames by location

    def read(self, location: Location) -> bytes:
        """A frame's bytes, from memory or disk. Raises Corrupt if the disk's fail their checksum."""
        frame = self._cache.get(location)
        if frame is not None:
            self._cache.move_to_end(location)
            return frame
        frame = self.read_from_disk(location)
        self._remember(location, frame)
        return frame

    def read_from_disk(self, location: Location) -> bytes:
        """As `read`, but what the disk really holds now: for the scrubber."""
        frame = self._disk.read(_path(location.file), location.offset, location.length)
        try:
            check_body(frame, read_header(frame))
        except (TornFrame, FormatError) as error:
            raise Corrupt(f"{_path(location.file)} at {location.offset}: {error}") from error
        return frame

    def _remember(self, location: Location, frame: bytes) -> None:
        self._cache[location] = frame
        self._cached_bytes += len(frame)
        while self._cached_bytes > self._config.frame_cache_bytes and len(self._cache) > 1:
            _, old = self._cache.popitem(last=False)
            self._cached_bytes -= len(old)

    # -- dropping

    def deletable(self) -> list[int]:
        """Files that are closed, oldest first; the one being written is never among them."""
        return self.files[:-1]

    def delete(self, file: int) -> None:
        """Delete a closed file."""
        self.files.remove(file)
        for location in [place for place in self._cache if place.file == file]:
            self._cached_bytes -= len(self._cache.pop(location))
        self._disk.delete(_path(file))

    def bytes_kept(self) -> int:
        return sum(self._disk.size(_path(file)) for file in self.files)

    def close(self) -> None:
        if self._current is not None:
            self._current.close()
            self._current = None


def _next_valid(data: bytes, offset: int, header: FrameHeader | None) -> int | None:
    """Where reading can go on behind a bad frame at `offset`: a place with a valid header."""
    after = offset + 1 if header is None else min(offset + header.length, len(data))
    return find_next_frame(data, after)
