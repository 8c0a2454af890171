"""A simulated disk: what is written, what is durable, and what a crash leaves of the difference.

`DiskImage` is the medium and outlives its node's lives; `SimDisk` is one life's disk port over it.

What the faults mean
- *kill* of a process loses nothing: the page cache is the kernel's.
- *power loss* keeps of each file's unsynced tail nothing, all, or a part: up to any byte (a torn write),
  or with a sector of zeros in the middle (written out of order).
- *failed fsync*: what it should have covered is never durable, although it can still be read and a later
  fsync succeeds; the kernel has marked those pages clean. It goes with the next power loss.
- *lost write*: the disk says "durable" and lies. Seen only after a power loss.
- *bit rot* flips a bit of what is durable.
- *misdirected read* gives bytes of another place, once.
- *full*: no file grows; what would is refused and nothing of it kept.
- *slow*: a sync takes longer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster.sim.process import Life
from engine.errors import DiskFailed, DiskFull

SECTOR = 512


@dataclass
class _File:
    data: bytearray = field(default_factory=bytearray)
    durable: int = 0
    """Bytes below are on the medium."""
    doomed: list[tuple[int, int]] = field(default_factory=list)
    """Ranges below `durable` that the disk only says it has."""
    lied: dict[int, int] = field(default_factory=dict)
    """Which fault made the disk lie about a doomed range, by the range's start."""


class DiskImage:
    """One node's medium and its faults."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.name = name
        self.files: dict[str, _File] = {}
        self.sync_s = 0.0004
        self.slow_factor = 1.0
        self.limit: int | None = None
        """No file grows beyond so many bytes; 0 is a full disk."""
        self.failing_syncs = 0
        """So many of the next fsyncs fail."""
        self.lying: list[int] = []
        """So many of the next fsyncs lie: for each the number of the fault that makes it."""
        self.liars = 0
        """Faults so far that made syncs lie."""
        self.liars_seen: set[int] = set()
        """Those of which a power loss has shown something."""
        self.lies = 0
        """How many syncs have lied so far."""
        self.misdirected_reads = 0
        self.blind_cuts = 0
        """How often rot was cut off as torn after a power loss, which may take the mark that tells them
        apart. Both at once, on one node, is more than it can see through (`engine.storage.walfile`)."""
        self.rotten: set[tuple[str, int]] = set()  # file, offset
        self.powerless = False  # since the last life
        self.effects: dict[str, int] = {}
        """How many operations a fault changed, by what became of them."""
        self.rng = rng

    def effect(self, kind: str) -> None:
        self.effects[kind] = self.effects.get(kind, 0) + 1

    # -- what happens to it

    def lie(self, syncs: int) -> None:
        """So many of the next fsyncs say "durable" and are not: one fault."""
        self.liars += 1
        self.lying += [self.liars] * syncs

    def lose_power(self) -> None:
        """What is not durable is gone, or not, or in part."""
        self.powerless = True
        for path in sorted(self.files):
            self._settle(self.files[path])

    def _settle(self, file: _File) -> None:
        for start, end in file.doomed:
            if start < min(end, len(file.data)):
                file.data[start:end] = bytes(min(end, len(file.data)) - start)
                self.effect("lost write")
                if start in file.lied:
                    self.liars_seen.add(file.lied[start])
        file.doomed.clear()
        file.lied.clear()
        tail = len(file.data) - file.durable
        if tail <= 0:
            return
        self.effect("unsynced bytes lost")
        keep = self.rng.choice((0, 0, tail, self.rng.randint(0, tail), self.rng.randint(0, tail)))
        if 0 < keep < tail:
            self.effect("torn write")
        del file.data[file.durable + keep :]
        if keep > SECTOR and self.rng.random() < 0.5:
            at = file.durable + self.rng.randrange(0, keep)
            at -= at % SECTOR
            start, end = max(at, file.durable), min(at + SECTOR, len(file.data))
            file.data[start:end] = bytes(end - start)
            self.effect("torn write")
        file.durable = len(file.data)

    def wipe(self) -> None:
        """Another disk, which has done nothing yet."""
        self.files.clear()
        self.rotten.clear()
        self.lies = self.blind_cuts = 0

    def rot(self, folder: str) -> bool:
        """Flip one durable bit in a file of `folder`; False if there is none."""
        found = [p for p in sorted(self.files) if p.startswith(folder) and self.files[p].durable]
        if not found:
            return False
        path = self.rng.choice(found)
        file = self.files[path]
        offset = self.rng.randrange(file.durable)
        file.data[offset] ^= 1 << self.rng.randrange(8)
        self.rotten.add((path, offset))
        self.effect("bit rot")
        return True


class _SimAppendFile:
    """AppendFile port."""

    def __init__(self, disk: SimDisk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._file = disk.image.files.setdefault(path, _File())
        self._failed = ""
        self._closed = False

    @property
    def size(self) -> int:
        return len(self._file.data)

    def append(self, data: bytes) -> int:
        self._disk.check()
        if self._failed:
            raise DiskFailed(self._failed)
        self._disk.check_room(self._path, len(self._file.data) + len(data))
        offset = len(self._file.data)
        self._file.data += data
        return offset

    def rewrite(self, offset: int) -> None:
        self._disk.check()
        if self._failed:
            raise DiskFailed(self._failed)
        file = self._file
        # The same bytes over the same bytes: what the medium has, it keeps, whatever comes of this.
        lost = [max(start, offset) for start, end in file.doomed if end > offset]
        file.durable = min([file.durable, *lost])
        file.doomed = [(start, min(end, offset)) for start, end in file.doomed if start < offset]

    async def sync(self) -> None:
        self._disk.check()
        if self._failed:
            raise DiskFailed(self._failed)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._disk.after_medium(self._sync, len(self._file.data), done)
        await done
        self._disk.check()

    def _sync(self, covered: int, done: asyncio.Future[None]) -> None:
        """The medium has got to it, whether anybody still waits or not."""
        image, file = self._disk.image, self._file
        if image.failing_syncs and not self._failed:
            image.failing_syncs -= 1
            image.effect("fsync failed")
            self._disk.failed_syncs += 1
            self._failed = f"fdatasync of {self._path} failed: Input/output error"
            # The kernel calls these pages clean from now on: no later sync writes them.
            if file.durable < len(file.data):
                file.doomed.append((file.durable, len(file.data)))
                file.lied.pop(file.durable, None)
                file.durable = len(file.data)
        if self._failed:
            if not done.done():
                done.set_exception(DiskFailed(self._failed))
            return
        if covered > file.durable:
            if image.lying:
                image.lies += 1
                file.doomed.append((file.durable, covered))
                file.lied[file.durable] = image.lying.pop(0)
            file.durable = covered
        if not done.done():
            done.set_result(None)

    def close(self) -> None:
        self._closed = True


class SimDisk:
    """Disk port of one life over its node's medium."""

    def __init__(self, image: DiskImage, life: Life | None = None) -> None:
        self.image = image
        self._life = life
        self._busy_until = 0.0
        self.failed_syncs = 0
        """Of this life."""
        self._powerless, image.powerless = image.powerless, False

    def check(self) -> None:
        if self._life is not None:
            self._life.check()

    def check_room(self, path: str, size: int) -> None:
        """May the file grow to `size` bytes?"""
        if self.image.limit is not None and size > self.image.limit:
            self.image.effect("disk full")
            raise DiskFull(f"no room for {path} at {size} bytes: free space on this disk")

    def after_medium(self, then: Callable[..., None], *args: Any) -> None:
        """Call `then` when the medium is done with what it has to do; one thing after the other."""
        image = self.image
        if image.slow_factor > 1:
            image.effect("slow disk")
        loop = asyncio.get_running_loop()
        delay = image.sync_s * (0.5 + image.rng.random()) * image.slow_factor
        self._busy_until = max(self._busy_until, loop.time()) + delay
        loop.call_at(self._busy_until, then, *args)

    def list(self, folder: str) -> list[str]:
        self.check()
        prefix = f"{folder}/" if folder else ""
        found = {
            path[len(prefix) :].split("/")[0]
            for path in self.image.files
            if path.startswith(prefix)
        }
        return sorted(name for name in found if not name.startswith("."))

    def size(self, path: str) -> int:
        self.check()
        return len(self._found(path).data)

    def _found(self, path: str) -> _File:
        file = self.image.files.get(path)
        if file is None:
            raise FileNotFoundError(f"{self.image.name}: no {path}")
        return file

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        self.check()
        data = self._found(path).data
        end = len(data) if length < 0 else offset + length
        if self.image.misdirected_reads and 0 < length < len(data):
            self.image.misdirected_reads -= 1
            elsewhere = min(length, len(data) - length)
            if elsewhere == offset:
                elsewhere = 0
            found = bytes(data[elsewhere : elsewhere + length])
            if found != data[offset:end]:
                self.image.effect("misdirected read")
            return found
        return bytes(data[offset:end])

    def open_append(self, path: str) -> _SimAppendFile:
        self.check()
        if path not in self.image.files:
            self.check_room(path, 1)  # the folder's entry
        return _SimAppendFile(self, path)

    def truncate(self, path: str, size: int) -> None:
        self.check()
        file = self._found(path)
        if self._powerless and any(p == path and size <= at for p, at in self.image.rotten):
            self.image.blind_cuts += 1
        if size > len(file.data):
            file.data += bytes(size - len(file.data))
        del file.data[size:]
        file.durable = len(file.data)
        file.doomed = [(start, min(end, size)) for start, end in file.doomed if start < size]

    def write_atomic(self, path: str, data: bytes) -> None:
        self.check()
        self.check_room(path, len(data))
        self.image.files[path] = _File(bytearray(data), len(data))

    def delete(self, path: str) -> None:
        self.check()
        self.image.files.pop(path, None)

    def free_bytes(self) -> int:
        return 1 << 40 if self.image.limit is None else 0

    def local_path(self, path: str) -> str:
        """A name only: a simulated disk is in no file system."""
        return f"/simulated/{self.image.name}/{path}"
