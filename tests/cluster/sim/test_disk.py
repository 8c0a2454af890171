"""What a simulated disk leaves after a power loss. The port's promises are in tests/conformance."""

from __future__ import annotations

import random

import pytest

from cluster.sim.disk import DiskImage, SimDisk
from engine.errors import DiskFailed


def image(seed: int = 1) -> DiskImage:
    return DiskImage("storage-1", random.Random(seed))


async def test_synced_bytes_survive_and_of_the_others_any_part_may() -> None:
    kept = set()
    for seed in range(200):
        medium = image(seed)
        file = SimDisk(medium).open_append("log")
        file.append(b"durable")
        await file.sync()
        file.append(b"volatile")
        medium.lose_power()
        data = SimDisk(medium).read("log")
        assert data[:7] == b"durable", f"seed {seed}"
        assert b"volatile".startswith(data[7:]), f"seed {seed}"
        kept.add(len(data) - 7)
    assert {0, 8} < kept, "nothing, all and a part must all have happened"


async def test_what_a_failed_sync_covered_goes_although_a_later_one_succeeds() -> None:
    medium = image()
    file = SimDisk(medium).open_append("log")
    file.append(b"doomed")
    medium.failing_syncs = 1
    with pytest.raises(DiskFailed):
        await file.sync()
    again = SimDisk(medium).open_append("log")
    assert SimDisk(medium).read("log") == b"doomed", "the page cache still has it"
    await again.sync()
    medium.lose_power()
    assert SimDisk(medium).read("log") == bytes(6)


async def test_what_a_failed_sync_covered_can_be_saved_by_writing_it_again() -> None:
    medium = image()
    file = SimDisk(medium).open_append("log")
    file.append(b"doomed")
    medium.failing_syncs = 1
    with pytest.raises(DiskFailed):
        await file.sync()
    again = SimDisk(medium).open_append("log")
    again.rewrite(0)
    await again.sync()
    medium.lose_power()
    assert SimDisk(medium).read("log") == b"doomed"


async def test_a_lying_sync_is_found_out_by_a_power_loss_only() -> None:
    medium = image()
    medium.lie(1)
    file = SimDisk(medium).open_append("log")
    file.append(b"lost")
    await file.sync()
    file.append(b"kept")
    await file.sync()
    assert SimDisk(medium).read("log") == b"lostkept"
    medium.lose_power()
    assert SimDisk(medium).read("log") == bytes(4) + b"kept"
    assert medium.effects["lost write"] == 1
    assert medium.liars_seen == {1}


async def test_a_fault_that_loses_several_writes_is_one() -> None:
    medium = image()
    medium.lie(3)
    medium.lie(1)
    for name in ("a", "b"):
        file = SimDisk(medium).open_append(name)
        file.append(b"x" * 600)
        await file.sync()
    medium.lose_power()
    assert (medium.effects["lost write"], medium.liars_seen) == (2, {1})


async def test_what_a_failed_sync_lost_is_no_lie() -> None:
    medium = image()
    medium.failing_syncs = 1
    file = SimDisk(medium).open_append("log")
    file.append(b"doomed")
    with pytest.raises(DiskFailed):
        await file.sync()
    medium.lose_power()
    assert (medium.effects["lost write"], medium.liars_seen) == (1, set())


@pytest.mark.parametrize("offset", [0, 2, 3, 4])
def test_a_misdirected_read_is_of_another_place(offset: int) -> None:
    medium = image()
    disk = SimDisk(medium)
    disk.write_atomic("log", b"abcdefgh")
    right = disk.read("log", offset, 4)
    medium.misdirected_reads = 1
    assert disk.read("log", offset, 4) != right
    assert medium.effects["misdirected read"] == 1
    assert disk.read("log", offset, 4) == right, "once"


def test_a_misdirected_read_of_equal_bytes_changed_nothing() -> None:
    medium = image()
    disk = SimDisk(medium)
    disk.write_atomic("log", bytes(8))
    medium.misdirected_reads = 1
    assert disk.read("log", 4, 4) == bytes(4)
    assert medium.effects == {}


@pytest.mark.parametrize("power", [True, False], ids=["power loss", "kill"])
async def test_rot_that_passes_for_torn_is_excused_after_a_power_loss_only(power: bool) -> None:
    medium = image()
    file = SimDisk(medium).open_append("wal/1.wal")
    file.append(b"acknowledged")
    await file.sync()
    if power:
        medium.lose_power()
    assert medium.rot("wal")
    SimDisk(medium).truncate("wal/1.wal", 0)
    assert medium.blind_cuts == power
    SimDisk(medium).truncate("wal/1.wal", 0)
    assert medium.blind_cuts == power, "only the first life after it may not see"


async def test_a_new_disk_is_not_excused_for_what_the_old_one_did() -> None:
    medium = DiskImage("n1", random.Random(1))
    medium.lie(1)
    file = SimDisk(medium).open_append("wal/1")
    file.append(b"x" * 100)
    await file.sync()
    assert medium.rot("wal")
    assert (medium.lies, len(medium.rotten)) == (1, 1)
    medium.wipe()
    assert (medium.lies, len(medium.rotten), medium.blind_cuts) == (0, 0, 0)


async def test_failed_syncs_are_counted_by_life() -> None:
    medium = DiskImage("n1", random.Random(1))
    medium.failing_syncs = 1
    first = SimDisk(medium)
    file = first.open_append("wal/1")
    file.append(b"x")
    with pytest.raises(DiskFailed):
        await file.sync()
    assert (first.failed_syncs, SimDisk(medium).failed_syncs) == (1, 0)
