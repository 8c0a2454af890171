"""The real disk: one folder, files that grow at the end, fdatasync.

`sync` is not done on the loop (`engine.net.datasync`): a disk that takes 50 ms would stop a node's
heartbeats. What arrives meanwhile shares the next sync.

Reads, folder changes and truncations are on the loop: they are rare or small.

Invariants
- Of an append that failed nothing is left: the file is cut back before DiskFull is raised.
- After DiskFailed an append file refuses everything. The kernel may have dropped the dirty pages and
  cleared the error, so that a second fsync would lie. This holds even when nobody waits for the
  failed sync any more: its outcome is told to the file, not to who called.
- A name is durable once the call that made it returns, with every folder made on the way.

Names that begin with a dot are the disk's own (files not yet renamed) and are not listed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import DiskFailed, DiskFull
from engine.net.datasync import DataSync, data_sync

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OsAppendFile:
    """AppendFile port over a file descriptor."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.lseek(self._handle, 0, os.SEEK_END)
        self._failed = ""
        self._data_sync: DataSync | None = None

    @property
    def size(self) -> int:
        return self._size

    def append(self, data: bytes) -> int:
        self._check()
        offset = self._size
        view = memoryview(data)
        written = 0
        try:
            while written < len(view):
                written += os.pwrite(self._handle, view[written:], offset + written)
        except OSError as error:
            self._cut_back(offset, error)
            if error.errno in FULL:
                raise DiskFull(
                    f"no room for {len(data)} bytes in {self._path}: {error.strerror}; "
                    "free space on this disk"
                ) from error
            self._failed = f"cannot write {self._path}: {error}"
            raise DiskFailed(self._failed) from error
        self._size = offset + len(data)
        return offset

    def _cut_back(self, size: int, cause: OSError) -> None:
        """Take back what part of an append was written."""
        try:
            os.ftruncate(self._handle, size)
        except OSError as error:
            self._failed = f"cannot cut {self._path} back after {cause}: {error}"
            raise DiskFailed(self._failed) from error

    def rewrite(self, offset: int) -> None:
        self._check()
        try:
            data = memoryview(os.pread(self._handle, self._size - offset, offset))
            written = 0
            while written < len(data):
                written += os.pwrite(self._handle, data[written:], offset + written)
        except OSError as error:
            self._failed = f"cannot write {self._path} again: {error}"
            raise DiskFailed(self._failed) from error

    async def sync(self) -> None:
        self._check()
        if self._handle < 0:
            raise DiskFailed(f"{self._path} is closed")
        if self._data_sync is None:
            self._data_sync = data_sync(self._handle, self._synced)
        await self._data_sync.start()
        self._check()

    def _synced(self, error: OSError | None) -> None:
        """Also when whoever called `sync` waits no more; maybe in a thread."""
        if error is not None:
            self._failed = f"fdatasync of {self._path} failed: {error}"

    def _check(self) -> None:
        if self._failed:
            raise DiskFailed(self._failed)

    def close(self) -> None:
        if self._handle >= 0:
            if self._data_sync is not None:
                self._data_sync.close()
            os.close(self._handle)
            self._handle = -1


class OsDisk:
    """Disk port over one folder, which is created if it is missing."""

    def __init__(self, folder: Path) -> None:
        self._root = folder.absolute()
        self._folder = str(self._root)
        with _mapped(self._root):
            make_folder(self._root)

    def _path(self, path: str) -> Path:
        return self._root / path

    def list(self, folder: str) -> list[str]:
        try:
            return sorted(n for n in os.listdir(self._path(folder)) if not n.startswith("."))
        except FileNotFoundError:
            return []

    def size(self, path: str) -> int:
        with _mapped(self._path(path)):
            return self._path(path).stat().st_size

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        target = f"{self._folder}/{path}"  # no Path, no file object: frames are read one by one
        with _mapped(target):
            handle = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
            try:
                left = length if length >= 0 else max(0, os.fstat(handle).st_size - offset)
                parts = []
                while left > 0 and (part := os.pread(handle, left, offset)):
                    parts.append(part)
                    left -= len(part)
                    offset += len(part)
                return parts[0] if len(parts) == 1 else b"".join(parts)
            finally:
                os.close(handle)

    def open_append(self, path: str) -> OsAppendFile:
        target = self._path(path)
        with _mapped(target):
            make_folder(target.parent)
            new = not target.exists()
            file = OsAppendFile(target)
            if new:
                sync_folder(target.parent)
        return file

    def truncate(self, path: str, size: int) -> None:
        with _mapped(self._path(path)), self._path(path).open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def write_atomic(self, path: str, data: bytes) -> None:
        target = self._path(path)
        unnamed = target.with_name(f".{target.name}.new")
        with _mapped(target):
            make_folder(target.parent)
            try:
                with unnamed.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                unnamed.replace(target)
            except OSError:
                unnamed.unlink(missing_ok=True)
                raise
            sync_folder(target.parent)

    def delete(self, path: str) -> None:
        target = self._path(path)
        with _mapped(target), contextlib.suppress(FileNotFoundError):
            target.unlink()
            sync_folder(target.parent)

    def free_bytes(self) -> int:
        stats = os.statvfs(self._root)
        return stats.f_bavail * stats.f_frsize

    def local_path(self, path: str) -> str:
        return str(self._path(path))


class NoDisk:
    """Disk port of a node that owns no data: whoever tries to keep something on it has a bug."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this node has no disk, so no {name}()")


def make_folder(folder: Path) -> None:
    """Create `folder` and those above it that are missing, durably, for their owner only."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make names created, renamed or removed in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _mapped(path: Path | str) -> Iterator[None]:
    """Turns OSError into DiskFull or DiskFailed; a missing file stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(
                f"no room for {path}: {error.strerror}; free space on this disk"
            ) from error
        raise DiskFailed(f"{path}: {error}") from error
