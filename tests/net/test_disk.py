"""OsDisk on a real operating system: a disk that is really full, names that are really synced."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.errors import DiskFailed, DiskFull
from engine.net import datasync
from engine.net.disk import OsDisk

SMALL_DISK_BYTES = 256 * 1024

kernel = pytest.mark.skipif(
    datasync.linux_aio is None, reason="the kernel has no asynchronous fdatasync here"
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    size = f"size={SMALL_DISK_BYTES}"
    mount = ["mount", "-t", "tmpfs", "-o", size, "sextet-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command: a disk that is really full cannot be made")
    if done.returncode != 0:
        pytest.skip(f"mounting a small disk needs root: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # files may be open still


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of what was synced by fsync, in order."""
    paths: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        paths.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


async def test_full_disk_keeps_nothing_of_an_append_and_takes_more_later(small_disk: Path) -> None:
    disk = OsDisk(small_disk)
    disk.write_atomic("ballast", bytes(SMALL_DISK_BYTES // 2))
    file = disk.open_append("wal/1.wal")
    file.append(b"kept")
    with pytest.raises(DiskFull, match="No space left on device"):
        file.append(bytes(SMALL_DISK_BYTES))
    assert (file.size, disk.size("wal/1.wal")) == (4, 4)
    with pytest.raises(DiskFull, match="free space on this disk"):
        disk.write_atomic("large", bytes(SMALL_DISK_BYTES))
    assert sorted(os.listdir(small_disk)) == ["ballast", "wal"]  # no half-written file takes room
    disk.delete("ballast")
    assert file.append(bytes(SMALL_DISK_BYTES // 2)) == 4
    await file.sync()
    file.close()
    assert disk.free_bytes() < SMALL_DISK_BYTES // 2


async def test_failed_write_closes_the_file_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = OsDisk(tmp_path).open_append("1.wal")

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(DiskFailed, match="Input/output error"):
            file.append(b"data")
    with pytest.raises(DiskFailed):
        file.append(b"data")
    file.close()


async def test_append_that_cannot_be_taken_back_closes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it stands in the file: no later append may follow it as if nothing had happened."""
    file = OsDisk(tmp_path).open_append("1.wal")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        patch.setattr(os, "ftruncate", fail)
        with pytest.raises(DiskFailed, match=r"cannot cut .* back"):
            file.append(b"data")
    with pytest.raises(DiskFailed):
        await file.sync()
    file.close()


async def test_a_thread_that_syncs_does_not_stop_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(_handle: int) -> None:
        loop.call_soon_threadsafe(began.set)
        go_on.wait(10)

    monkeypatch.setattr(datasync, "linux_aio", None)
    monkeypatch.setattr(os, "fdatasync", slow)
    file = OsDisk(tmp_path).open_append("1.wal")
    syncing = asyncio.ensure_future(file.sync())
    await began.wait()
    assert file.append(b"meanwhile") == 0
    assert not syncing.done()
    go_on.set()
    await syncing
    file.close()


@kernel
async def test_whoever_comes_during_a_sync_of_the_kernel_shares_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begun = datasync.linux_aio, 0

    def fdsync(handle: int) -> object:
        nonlocal begun
        begun += 1
        return real.Operation.fdsync(handle)

    aio = SimpleNamespace(Context=real.Context, Operation=SimpleNamespace(fdsync=fdsync))
    monkeypatch.setattr(datasync, "linux_aio", aio)
    file = OsDisk(tmp_path).open_append("1.wal")
    file.append(bytes(1 << 20))
    syncing = [asyncio.ensure_future(file.sync()) for _ in range(20)]
    await asyncio.sleep(0)
    assert begun == 1
    assert file.append(b"meanwhile") == 1 << 20
    await asyncio.gather(*syncing)
    assert begun == 2
    file.close()


@kernel
async def test_what_the_kernel_does_not_take_is_a_failed_sync(tmp_path: Path) -> None:
    """A pipe in the place of the log: there is nothing to sync."""
    file = OsDisk(tmp_path).open_append("1.wal")
    reader, writer = os.pipe()
    (handle,) = [n for n in map(int, os.listdir("/proc/self/fd")) if _is(n, tmp_path / "1.wal")]
    os.dup2(writer, handle)
    outcomes = await asyncio.gather(file.sync(), file.sync(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DiskFailed] * 2
    assert "fdatasync of" in str(outcomes[0])
    file.close()
    os.close(reader)
    os.close(writer)


def _is(handle: int, path: Path) -> bool:
    try:
        return Path(f"/proc/self/fd/{handle}").readlink() == path
    except FileNotFoundError:
        return False


@kernel
async def test_the_kernels_error_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = datasync.linux_aio
    reader, writer = os.pipe()
    os.close(reader)
    operation = SimpleNamespace(fdsync=lambda _: real.Operation.write(b"x", writer, 0))
    aio = SimpleNamespace(Context=real.Context, Operation=operation)
    monkeypatch.setattr(datasync, "linux_aio", aio)
    file = OsDisk(tmp_path).open_append("1.wal")
    with pytest.raises(DiskFailed, match=r"fdatasync of .*1\.wal failed: .*Broken pipe"):
        await file.sync()
    with pytest.raises(DiskFailed):
        file.append(b"more")
    file.close()
    os.close(writer)


@kernel
async def test_files_that_come_and_go_leave_no_descriptors(tmp_path: Path) -> None:
    """As the log's files do: one context serves all of a loop's."""
    disk = OsDisk(tmp_path)
    counts = []
    for number in range(5):
        file = disk.open_append(f"{number}.wal")
        file.append(b"x")
        await file.sync()
        file.close()
        counts.append(len(os.listdir("/proc/self/fd")))
        with pytest.raises(DiskFailed, match="closed"):
            await file.sync()
    assert counts == [counts[0]] * 5


@kernel
async def test_closing_waits_for_the_sync_under_way(tmp_path: Path) -> None:
    file = OsDisk(tmp_path).open_append("1.wal")
    file.append(bytes(1 << 20))
    syncing = asyncio.ensure_future(file.sync())
    await asyncio.sleep(0)
    file.close()
    await asyncio.wait_for(syncing, 10)


async def test_a_kernel_that_has_none_to_give_leaves_it_to_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(**_: int) -> None:
        raise SystemError("Resource temporarily unavailable")

    monkeypatch.setattr(datasync, "linux_aio", SimpleNamespace(Context=none))
    file = OsDisk(tmp_path).open_append("1.wal")
    file.append(b"x")
    await file.sync()
    assert any(thread.name.startswith("sync-") for thread in threading.enumerate())
    file.close()


def test_new_names_are_durable(tmp_path: Path, synced: list[str]) -> None:
    disk = OsDisk(tmp_path / "node")
    assert synced == [tmp_path.name]
    synced.clear()
    disk.open_append("wal/deep/1.wal").close()
    assert synced == ["node", "wal", "deep"]
    synced.clear()
    disk.open_append("wal/deep/1.wal").close()
    assert synced == []
    disk.write_atomic("meta", b"x")
    assert synced == [".meta.new", "node"]
    synced.clear()
    disk.truncate("meta", 0)
    disk.delete("meta")
    assert synced == ["meta", "node"]


def test_half_written_files_are_not_listed(tmp_path: Path) -> None:
    disk = OsDisk(tmp_path)
    (tmp_path / ".meta.new").write_bytes(b"of a process that died")
    assert disk.list("") == []
    disk.write_atomic("meta", b"x")
    assert os.listdir(tmp_path) == ["meta"]


def test_folders_are_for_their_owner_only(tmp_path: Path) -> None:
    OsDisk(tmp_path / "node").open_append("wal/1.wal").close()
    for name in ("node", "node/wal"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_a_folder_that_is_a_file_is_a_disk_failure(tmp_path: Path) -> None:
    (tmp_path / "node").write_text("in the way")
    with pytest.raises(DiskFailed, match="node"):
        OsDisk(tmp_path / "node")
