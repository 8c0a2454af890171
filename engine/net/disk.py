"""The real disk: one folder, files that grow at the end, fdatasync.

`sync` runs in a worker thread of the file's own. An inline fdatasync would be a little faster for a
lone writer, but the loop could receive nothing meanwhile, and what arrives during one sync is what
the next one covers: grouping needs the loop to go on.
"""

from __future__ import annotations

import asyncio
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine.errors import DiskFailed, DiskFull

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _sync_folder(folder: Path) -> None:
    """Make names created, renamed or removed in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class OsAppendFile:
    """AppendFile port over a file descriptor."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.lseek(self._handle, 0, os.SEEK_END)
        self._failed = ""
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sync-{path.name}")

    @property
    def size(self) -> int:
        return self._size

    def append(self, data: bytes) -> int:
        if self._failed:
            raise DiskFailed(self._failed)
        offset = self._size
        view = memoryview(data)
        written = 0
        try:
            while written < len(view):
                written += os.pwrite(self._handle, view[written:], offset + written)
        except OSError as error:
            self._cut_back(offset, error)
            if error.errno in _FULL:
                raise DiskFull(
                    f"no room for {len(data)} bytes in {self._path}: {error.strerror}; "
                    "free space on this disk"
                ) from error
            raise DiskFailed(f"cannot write {self._path}: {error}") from error
        self._size = offset + len(data)
        return offset

    def _cut_back(self, size: int, cause: OSError) -> None:
        """Take back what part of an append was written."""
        try:
            os.ftruncate(self._handle, size)
        except OSError as error:
            self._failed = f"cannot cut {self._path} back after {cause}: {error}"
            raise DiskFailed(self._failed) from error

    async def sync(self) -> None:
        if self._failed:
            raise DiskFailed(self._failed)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._worker, os.fdatasync, self._handle)
        except OSError as error:
            # The kernel may have dropped the pages and cleared the error: a second fsync would lie.
            self._failed = f"fdatasync of {self._path} failed: {error}"
            raise DiskFailed(self._failed) from error

    def close(self) -> None:
        if self._handle >= 0:
            self._worker.shutdown(wait=True)
            os.close(self._handle)
            self._handle = -1


class OsDisk:
    """Disk port over one folder."""

    def __init__(self, folder: Path) -> None:
        self._root = folder.absolute()
        self._root.mkdir(parents=True, exist_ok=True)

    def _path(self, path: str) -> Path:
        return self._root / path

    def list(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self._path(folder)))
        except FileNotFoundError:
            return []

    def size(self, path: str) -> int:
        return self._path(path).stat().st_size

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        try:
            with self._path(path).open("rb", buffering=0) as file:
                file.seek(offset)
                return file.read() if length < 0 else file.read(length)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DiskFailed(f"cannot read {self._path(path)}: {error}") from error

    def open_append(self, path: str) -> OsAppendFile:
        target = self._path(path)
        with _mapped(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            file = OsAppendFile(target)
            _sync_folder(target.parent)
            _sync_folder(target.parent.parent)
        return file

    def truncate(self, path: str, size: int) -> None:
        with _mapped(self._path(path)), self._path(path).open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def write_atomic(self, path: str, data: bytes) -> None:
        target = self._path(path)
        with _mapped(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(target.name + ".new")
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            _sync_folder(target.parent)

    def delete(self, path: str) -> None:
        target = self._path(path)
        with _mapped(target):
            target.unlink(missing_ok=True)
            if target.parent.exists():
                _sync_folder(target.parent)

    def free_bytes(self) -> int:
        stats = os.statvfs(self._root)
        return stats.f_bavail * stats.f_frsize

    def local_path(self, path: str) -> str:
        return str(self._path(path))


class _mapped:  # noqa: N801 - reads as a statement: with _mapped(path)
    """Turns OSError into DiskFull or DiskFailed; a missing file stays FileNotFoundError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError) or isinstance(error, FileNotFoundError):
            return
        if error.errno in _FULL:
            raise DiskFull(f"no room for {self._path}: free space on this disk") from error
        raise DiskFailed(f"{self._path}: {error}") from error
