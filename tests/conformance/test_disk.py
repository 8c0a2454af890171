"""What every binding of the disk port promises (engine.ports: Disk and AppendFile).

A binding joins by a `World` in WORLDS: its disk, its disk after a restart of the node, and two
injected faults. What only a crash of the machine shows (what a sync is worth) is the simulator's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import pytest

from cluster.sim.disk import DiskImage, SimDisk
from engine.errors import DiskFailed, DiskFull
from engine.faults.disk import FaultyDisk
from engine.net import datasync
from engine.net.disk import OsDisk
from engine.ports import AppendFile, Disk
from tests.support.faulty import Faults


class World(Protocol):
    """One binding of the port."""

    disk: Disk

    def restart(self) -> Disk:
        """The same disk as a new process sees it; files opened before are closed."""

    def room_for(self, size: int) -> AbstractContextManager[None]:
        """While it lasts no file can grow beyond `size` bytes."""

    def failing_syncs(self) -> AbstractContextManager[None]:
        """While it lasts every sync of an append file fails."""


class OsWorld:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        self.disk: Disk = OsDisk(folder)

    def restart(self) -> Disk:
        self.disk = OsDisk(self._folder)
        return self.disk

    @contextlib.contextmanager
    def room_for(self, size: int) -> Iterator[None]:
        # Python ignores SIGXFSZ, so that a write at the limit is short and the next one EFBIG.
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    @contextlib.contextmanager
    def failing_syncs(self) -> Iterator[None]:
        def fail(_handle: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        kernel = datasync.linux_aio
        reader, writer = os.pipe()
        os.close(reader)
        with self._monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            if kernel is not None:
                # A write in its place that nobody can read: it is taken, and ends with an error.
                failing = partial(kernel.Operation.write, b"x", writer, 0)
                operation = SimpleNamespace(fdsync=lambda _handle: failing())
                aio = SimpleNamespace(Context=kernel.Context, Operation=operation)
                patch.setattr(datasync, "linux_aio", aio)
            yield
        os.close(writer)


class ThreadWorld(OsWorld):
    """The real disk where the kernel has no asynchronous fdatasync."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch)
        monkeypatch.setattr(datasync, "linux_aio", None)


class FaultyWorld(OsWorld):
    """A disk that could fail, over the real one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch)
        folder.parent.mkdir(exist_ok=True)
        self._watch = Faults(folder.parent).watch("storage-1")
        self.disk = FaultyDisk(self.disk, self._watch)

    def restart(self) -> Disk:
        self.disk = FaultyDisk(super().restart(), self._watch)
        return self.disk


class SimWorld:
    def __init__(self, _folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
        self._image = DiskImage("storage-1", random.Random(1))
        self.disk: Disk = SimDisk(self._image)

    def restart(self) -> Disk:
        self.disk = SimDisk(self._image)
        return self.disk

    @contextlib.contextmanager
    def room_for(self, size: int) -> Iterator[None]:
        self._image.limit = size
        try:
            yield
        finally:
            self._image.limit = None

    @contextlib.contextmanager
    def failing_syncs(self) -> Iterator[None]:
        self._image.failing_syncs = 1_000_000
        try:
            yield
        finally:
            self._image.failing_syncs = 0


WORLDS = [OsWorld, ThreadWorld, FaultyWorld, SimWorld]


@pytest.fixture(params=WORLDS, ids=lambda kind: kind.__name__)
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made: World = request.param(tmp_path / "node", monkeypatch)
    return made


@pytest.fixture
def disk(world: World) -> Disk:
    return world.disk


@pytest.fixture
async def log(disk: Disk) -> AsyncIterator[AppendFile]:
    file = disk.open_append("wal/1.wal")
    yield file
    file.close()


# -- append files


async def test_appends_return_offsets_and_are_read_back_after_a_restart(
    world: World, log: AppendFile
) -> None:
    assert [log.append(b"one"), log.append(b"three"), log.append(b"")] == [0, 3, 8]
    assert log.size == 8
    await log.sync()
    log.close()
    disk = world.restart()
    assert disk.read("wal/1.wal") == b"onethree"
    again = disk.open_append("wal/1.wal")
    assert again.size == 8
    assert again.append(b"!") == 8
    await again.sync()
    again.close()
    assert disk.read("wal/1.wal") == b"onethree!"


async def test_what_is_appended_can_be_read_before_it_is_synced(
    disk: Disk, log: AppendFile
) -> None:
    log.append(b"abc")
    assert disk.read("wal/1.wal", 1, 1) == b"b"
    assert disk.size("wal/1.wal") == 3


async def test_opening_creates_the_file_and_its_folders(disk: Disk) -> None:
    disk.open_append("a/b/c/file").close()
    assert disk.list("a/b/c") == ["file"]
    assert disk.size("a/b/c/file") == 0


async def test_many_syncs_at_once(disk: Disk, log: AppendFile) -> None:
    async def one(number: int) -> None:
        log.append(bytes([number]))
        await log.sync()

    await asyncio.gather(*map(one, range(50)))
    assert disk.read("wal/1.wal") == bytes(range(50))


async def test_the_loop_goes_on_while_a_sync_is_under_way(log: AppendFile) -> None:
    log.append(b"x")
    syncing = asyncio.ensure_future(log.sync())
    await asyncio.sleep(0)
    log.append(b"y")
    await syncing
    await log.sync()
    assert log.size == 2


async def test_rewriting_changes_nothing_and_can_be_synced(world: World, log: AppendFile) -> None:
    log.append(b"one two three")
    log.rewrite(4)
    log.rewrite(13)
    await log.sync()
    log.close()
    assert world.restart().read("wal/1.wal") == b"one two three"


async def test_closing_twice_is_no_error(disk: Disk) -> None:
    file = disk.open_append("file")
    file.close()
    file.close()


# -- faults


async def test_append_without_room_keeps_nothing_and_the_file_goes_on(
    world: World, log: AppendFile
) -> None:
    log.append(b"kept")
    with world.room_for(10):
        with pytest.raises(DiskFull, match=r"1\.wal.*free space"):
            log.append(b"far too much for it")
        assert log.size == 4
        assert world.disk.size("wal/1.wal") == 4
        assert log.append(b"small") == 4  # what fits is still taken
    assert log.append(b"there is room again") == 9
    await log.sync()
    assert world.disk.read("wal/1.wal") == b"keptsmallthere is room again"


async def test_atomic_write_without_room_leaves_the_old_file_and_nothing_else(
    world: World,
) -> None:
    world.disk.write_atomic("meta", b"old")
    with world.room_for(10), pytest.raises(DiskFull, match="free space"):
        world.disk.write_atomic("meta", bytes(100))
    assert world.disk.read("meta") == b"old"
    assert world.disk.list("") == ["meta"]


async def test_failed_sync_closes_the_file_for_good(world: World, log: AppendFile) -> None:
    log.append(b"perhaps lost")
    with world.failing_syncs(), pytest.raises(DiskFailed):
        await log.sync()
    with pytest.raises(DiskFailed):  # the next sync would have succeeded, and lied
        await log.sync()
    with pytest.raises(DiskFailed):
        log.append(b"more")


async def test_everyone_who_waits_for_a_failed_sync_is_told(world: World, log: AppendFile) -> None:
    log.append(b"perhaps lost")
    with world.failing_syncs():
        outcomes = await asyncio.gather(*(log.sync() for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DiskFailed] * 5


async def test_failed_sync_counts_even_if_its_caller_was_cancelled(
    world: World, log: AppendFile
) -> None:
    log.append(b"perhaps lost")
    with world.failing_syncs():
        syncing = asyncio.ensure_future(log.sync())
        await asyncio.sleep(0)
        syncing.cancel()
        await asyncio.wait([syncing])
        with pytest.raises(DiskFailed):
            await log.sync()
    with pytest.raises(DiskFailed):
        await log.sync()


# -- whole files and folders


async def test_reading_a_range(disk: Disk) -> None:
    disk.write_atomic("file", b"0123456789")
    assert disk.read("file", 3, 4) == b"3456"
    assert disk.read("file", 8, 100) == b"89"
    assert disk.read("file", 8) == b"89"
    assert disk.read("file", 100, 5) == b""
    assert disk.read("file", 2, 0) == b""


async def test_missing_files_and_folders(disk: Disk) -> None:
    assert disk.list("nowhere") == []
    for use in (disk.read, disk.size):
        with pytest.raises(FileNotFoundError):
            use("nowhere/file")
    with pytest.raises(FileNotFoundError):
        disk.truncate("nowhere/file", 0)
    disk.delete("nowhere/file")


async def test_truncating_cuts_and_a_reopened_file_goes_on_there(disk: Disk) -> None:
    disk.write_atomic("file", b"0123456789")
    disk.truncate("file", 4)
    file = disk.open_append("file")
    assert file.size == 4
    file.append(b"!")
    file.close()
    assert disk.read("file") == b"0123!"


async def test_atomic_write_replaces_and_creates_folders(world: World) -> None:
    world.disk.write_atomic("a/b/meta", b"a longer first version")
    world.disk.write_atomic("a/b/meta", b"second")
    assert world.restart().read("a/b/meta") == b"second"
    assert world.disk.list("a/b") == ["meta"]


async def test_listing_is_sorted_and_deleting_removes(disk: Disk) -> None:
    for name in ("b", "a", "10", "9"):
        disk.write_atomic(f"folder/{name}", b"")
    assert disk.list("folder") == ["10", "9", "a", "b"]
    disk.delete("folder/a")
    disk.delete("folder/a")
    assert disk.list("folder") == ["10", "9", "b"]


async def test_free_bytes_is_a_number_of_bytes(disk: Disk) -> None:
    assert disk.free_bytes() > 0


async def test_local_path_is_where_the_file_is(disk: Disk) -> None:
    disk.write_atomic("a/file", b"x")
    assert disk.local_path("a/file").endswith("a/file")
