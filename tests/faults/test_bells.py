"""Whoever changes the faults' file rings, and every process that goes by it looks."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import pytest

from engine.faults import watch as watching
from engine.faults.bells import SUFFIX, ring, take_down
from engine.faults.watch import FaultWatch
from tests.support.faulty import Faults
from tests.support.until import until


def watch(faults: Faults, name: str = "n") -> FaultWatch:
    """One that nobody tells to look."""
    return FaultWatch(faults.path, name, random.Random(1))


async def test_a_ring_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "CALM_LOOK_S", 3600.0)
    faults = Faults(tmp_path)
    watches = [watch(faults, name) for name in ("n", "m")]
    for one in watches:
        one.start()
    for _ in range(2):
        faults.begin("fill-disk", "n")
        await until(lambda: watches[0].table.full_disk is not None)
        assert watches[1].table.full_disk is None
        faults.heal()
        await until(lambda: watches[0].table.full_disk is None)
    for one in watches:
        one.stop()
    again = watch(faults)  # another life hears by the same pipe
    again.start()
    faults.begin("fill-disk", "n")
    await until(lambda: again.table.full_disk is not None)
    again.stop()


async def test_without_a_bell_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "CALM_LOOK_S", 3600.0)
    faults = Faults(tmp_path)
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / f"n{SUFFIX}").write_text("what stands in the way")
    deaf = watch(faults)
    deaf.start()
    assert "no named pipe" in caplog.text
    faults.begin("fill-disk", "n")
    await until(lambda: deaf.table.full_disk is not None)
    deaf.stop()


async def test_a_fault_ends_by_itself_without_a_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "CALM_LOOK_S", 3600.0)
    faults = Faults(tmp_path)
    one = watch(faults)
    one.start()
    fault = faults.begin("fill-disk", "n", until=os.stat(faults.path).st_mtime + 1.0)
    await until(lambda: one.table.full_disk is not None)
    await until(lambda: one.table.full_disk is None)
    assert fault.until is not None
    one.stop()


def test_to_ring_where_nobody_listens_does_nothing(tmp_path: Path) -> None:
    ring(tmp_path / "nowhere")
    os.mkfifo(tmp_path / f"gone{SUFFIX}")
    ring(tmp_path)


def test_to_ring_once_more_than_fits_does_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"n{SUFFIX}")
    hangs = os.open(tmp_path / f"n{SUFFIX}", os.O_RDWR | os.O_NONBLOCK)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(hangs, b"!" * 4096)
        ring(tmp_path)
    finally:
        os.close(hangs)


async def test_bells_are_taken_down_and_hung_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "CALM_LOOK_S", 3600.0)
    faults = Faults(tmp_path)
    one = watch(faults)
    one.start()
    one.stop()
    assert (tmp_path / "faults" / f"n{SUFFIX}").is_fifo()
    take_down(tmp_path / "faults")
    assert not list((tmp_path / "faults").glob(f"*{SUFFIX}"))
    take_down(tmp_path / "nowhere")
    again = watch(faults)
    again.start()
    faults.begin("fill-disk", "n")
    await until(lambda: again.table.full_disk is not None)
    again.stop()
