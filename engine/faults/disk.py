"""The disk port with a disk that is slow, full, or whose next fsync fails.

A failed fsync takes with it what it should have made durable: those bytes are cut off the file, since
the kernel would have dropped the dirty pages. The file then refuses everything, as the real one does.
"""

from __future__ import annotations

import asyncio

from engine.errors import DiskFailed, DiskFull
from engine.faults.watch import FaultWatch
from engine.ports import AppendFile, Disk

SYNC_LEAST_S = 0.0005
"""What a sync counts for at least when a slow disk multiplies it: some file systems do nothing."""


def check_room(watch: FaultWatch, what: str) -> None:
    """Raises DiskFull while the disk is full."""
    fault = watch.table.full_disk
    if fault is not None:
        watch.count(fault)
        raise DiskFull(f"no room for {what}: the disk is full (fault {fault.id})")


async def slow_down(watch: FaultWatch, took_s: float) -> None:
    """Wait as much longer as a slow disk would have taken: `factor` times what it took, or with
    `most_s` a share of the operations between `least_s` and `most_s` longer."""
    fault = watch.table.slow_disk
    if fault is None or watch.rng.random() >= fault.param("share", 1.0):
        return
    watch.count(fault)
    most = fault.param("most_s", 0.0)
    if most:
        await asyncio.sleep(watch.rng.uniform(fault.param("least_s", 0.0), most))
    else:
        factor = max(1.0, fault.param("factor", 50.0))
        await asyncio.sleep(max(SYNC_LEAST_S, took_s) * (factor - 1))


class FaultyAppendFile:
    """AppendFile port over another one."""

    def __init__(self, inner: AppendFile, disk: Disk, path: str, watch: FaultWatch) -> None:
        self._inner = inner
        self._disk = disk
        self._path = path
        self._watch = watch
        self._durable = inner.size
        self._failed = ""

    @property
    def size(self) -> int:
        return self._inner.size

    def append(self, data: bytes) -> int:
        self._check()
        check_room(self._watch, f"{len(data)} bytes in {self._path}")
        return self._inner.append(data)

    def rewrite(self, offset: int) -> None:
        self._check()
        self._inner.rewrite(offset)

    async def sync(self) -> None:
        self._check()
        fault = self._watch.table.fail_fsync
        if fault is not None:
            self._watch.spend(fault)
            self._failed = (
                f"fdatasync of {self._path} failed: Input/output error (fault {fault.id})"
            )
            self._disk.truncate(self._path, self._durable)
            raise DiskFailed(self._failed)
        covered = self._inner.size
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await self._inner.sync()
        await slow_down(self._watch, loop.time() - begun)
        self._durable = max(self._durable, covered)

    def _check(self) -> None:
        if self._failed:
            raise DiskFailed(self._failed)

    def close(self) -> None:
        self._inner.close()


class FaultyDisk:
    """Disk port over another one."""

    def __init__(self, inner: Disk, watch: FaultWatch) -> None:
        self._inner = inner
        self.watch = watch

    def list(self, folder: str) -> list[str]:
        return self._inner.list(folder)

    def size(self, path: str) -> int:
        return self._inner.size(path)

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        return self._inner.read(path, offset, length)

    def open_append(self, path: str) -> AppendFile:
        folder, _, name = path.rpartition("/")
        if name not in self._inner.list(folder):
            check_room(self.watch, path)
        return FaultyAppendFile(self._inner.open_append(path), self._inner, path, self.watch)

    def truncate(self, path: str, size: int) -> None:
        self._inner.truncate(path, size)

    def write_atomic(self, path: str, data: bytes) -> None:
        check_room(self.watch, path)
        self._inner.write_atomic(path, data)

    def delete(self, path: str) -> None:
        self._inner.delete(path)

    def free_bytes(self) -> int:
        return 0 if self.watch.table.full_disk is not None else self._inner.free_bytes()

    def local_path(self, path: str) -> str:
        return self._inner.local_path(path)
