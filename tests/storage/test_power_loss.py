"""A node over a simulated disk that loses power: what was not synced is gone, there, or torn."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.sim.disk import DiskImage, SimDisk
from cluster.sim.pagestore import SimPageStore
from engine.storage.pagestore_memory import MemoryPageStore
from tests.storage.harness import QUIET, Log, Node

SMALL = replace(QUIET, wal_file_bytes=2048)


class Machine:
    """A disk that outlives its node."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.medium = DiskImage("storage-1", random.Random(seed))
        self._folder = folder
        self._pages = MemoryPageStore()

    async def start(self) -> Node:
        store = SimPageStore(self._pages, self.medium, random.Random(2), None)
        disk = SimDisk(self.medium)
        return await Node(self._folder, config=SMALL, disk=disk, store=store).open()


@pytest.mark.parametrize("seed", range(12))
async def test_a_closed_log_file_is_never_torn(tmp_path: Path, seed: int) -> None:
    """Found by the simulator: its last sync mark was not durable when the next file was begun, so a
    healthy node took the torn mark for damage."""
    machine = Machine(tmp_path, seed)
    node = await machine.start()
    await node.assign()
    await node.fence(1)
    log = Log(seed)
    for frame in log.frames(30):
        await node.append(frame)
    assert len(node.state.wal.closed_files()) >= 2
    machine.medium.lose_power()
    again = await machine.start()
    assert again.segment().scl == log.last
    assert not again.segment().row.damaged


async def test_nobody_looks_below_a_floor_that_damage_has_raised(tmp_path: Path) -> None:
    """Found by the simulator: the index still pointed at records below the floor, and their log files
    were deleted."""
    machine = Machine(tmp_path, 1)
    node = await machine.start()
    await node.assign()
    await node.fence(1)
    log = Log()
    for frame in log.frames(30):
        await node.append(frame)
    await node.append(vdl=log.last)
    await node.coalesce()
    first = min(node.state.wal.closed_files())
    machine.medium.files[f"wal/{first:08d}.wal"].data[100] ^= 1  # rot, of what stands as pages

    again = await machine.start()
    assert again.segment().floor == log.last
    await again.node.collector.collect()
    assert first not in again.state.wal.files
    await again.append(*log.frames(2))
    for page in range(6):
        assert await again.read([page], log.last) == [log.page_at(page, log.last)]
