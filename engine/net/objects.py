"""An object store in a folder: one file for each object, its key the path.

An object is written under a name of the store's own, synced, and then linked to its key: `link` fails if
the name exists, so of any number of processes that create one object exactly one succeeds, and nobody
ever reads half of it. The file system's work is done in threads, so a slow disk holds up nobody else.

What a process that died was writing stays behind under ".new-", unseen by everyone, and is removed by
whoever opens the folder a day later.

A folder that is gone, or is an empty mount point, holds no objects, which is not the same as that they
never existed: a store that does not find its own mark says that it is unavailable.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from engine.errors import ConfigError, DiskFull, ObjectExists, ObjectMissing, Unavailable
from engine.net.disk import FULL, make_folder, sync_folder
from engine.objects import check_key

T = TypeVar("T")

THREADS = 4
_UNFINISHED = ".new-"
_MARK = ".sextet-objects"
_TRIES = 10
_LEFT_BEHIND_S = 24 * 3600


class FolderStore:
    """ObjectStore port over one folder, which is made a store if it is none and `make` says so.

    Raises Unavailable if it cannot be made or read, or is no store.
    """

    def __init__(self, folder: Path, *, make: bool = True) -> None:
        self._root = folder.absolute()
        with _mapped(self._root):
            if make:
                make_folder(self._root)
                (self._root / _MARK).touch(mode=0o600)
                sync_folder(self._root)
            self._check_there()
            self._clean()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")

    def close(self) -> None:
        """Let go of the threads; what they are doing is finished first."""
        self._threads.shutdown(wait=True)

    async def create(self, key: str, data: bytes) -> None:
        check_key(key)
        await self._in_thread(lambda: self._create(key, data))

    async def read(self, key: str) -> bytes:
        check_key(key)
        return await self._in_thread(lambda: self._read(key))

    async def keys(self, prefix: str = "") -> list[str]:
        return await self._in_thread(lambda: self._keys(prefix))

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._in_thread(lambda: self._delete(key))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    # -- in a thread

    def _check_there(self) -> None:
        if not (self._root / _MARK).exists():
            raise Unavailable(f"{self._root} is no object store: is its disk mounted?")

    def _create(self, key: str, data: bytes) -> None:
        self._check_there()
        target = self._root / key
        unfinished = self._root / f"{_UNFINISHED}{secrets.token_hex(8)}"
        with _mapped(target):
            try:
                with unfinished.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                for _ in range(_TRIES):
                    if self._linked(unfinished, target):
                        break
                    _give_way(target)
                else:
                    raise Unavailable(f"others keep making and removing folders at {target}")
            finally:
                unfinished.unlink(missing_ok=True)
            sync_folder(target.parent)

    def _linked(self, unfinished: Path, target: Path) -> bool:
        """Give the object its name; False if an empty folder may have been in the way."""
        make_folder(target.parent)
        try:
            os.link(unfinished, target)
        except FileNotFoundError:
            return False  # the folder was empty, and somebody else needed its name
        except FileExistsError as error:
            if target.is_dir():
                return False
            # Whoever created it may have died before its name was durable, and we vouch for it.
            sync_folder(target.parent)
            raise ObjectExists(f"{target} exists already") from error
        return True

    def _read(self, key: str) -> bytes:
        with _mapped(self._root / key):
            try:
                return (self._root / key).read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                self._check_there()
                raise ObjectMissing(f"{self._root} has no {key}") from error

    def _keys(self, prefix: str) -> list[str]:
        found = []
        top = self._root / prefix.rpartition("/")[0]
        with _mapped(top):
            for folder, _, files in os.walk(top, onerror=_unless_missing):
                keys = ((Path(folder) / name).relative_to(self._root).as_posix() for name in files)
                found += [key for key in keys if key.startswith(prefix) and _is_key(key)]
        self._check_there()  # afterwards: what vanished meanwhile was never seen
        return sorted(found)

    def _delete(self, key: str) -> None:
        self._check_there()
        target = self._root / key
        with _mapped(target), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not target.is_dir():
                target.unlink()
                sync_folder(target.parent)

    def _clean(self) -> None:
        for entry in os.scandir(self._root):
            if entry.name.startswith(_UNFINISHED):
                with contextlib.suppress(OSError):  # others clean too, and a store may be read-only
                    if time.time() - entry.stat().st_mtime > _LEFT_BEHIND_S:
                        os.unlink(entry.path)


def _give_way(folder: Path) -> None:
    """Remove a folder in which no object is any more. Raises ConfigError if there is one."""
    try:
        for below, _, _ in os.walk(folder, topdown=False):
            Path(below).rmdir()
    except FileNotFoundError:
        pass  # somebody else does the same
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        raise ConfigError(f"{folder} is a folder of this store, no object") from error


def _unless_missing(error: OSError) -> None:
    """What cannot be listed is not empty; what is not there, or is no folder, is."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _is_key(key: str) -> bool:
    """Whether a file is an object; the store's own, and strangers' with impossible names, are not."""
    return not key.startswith(".") and "/." not in key


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[None]:
    """Turns OSError into what the port promises."""
    try:
        yield
    except (NotADirectoryError, FileExistsError) as error:
        raise ConfigError(f"{path}: an object of this store is where a folder must be") from error
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(
                f"no room for {path}: {error.strerror}; free space on this disk"
            ) from error
        if error.errno == errno.EMLINK:
            raise DiskFull(f"{path.parent} holds as many names as it can") from error
        raise Unavailable(f"the object store cannot use {path}: {error}") from error
