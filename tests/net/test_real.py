"""The real runtime, and the real clock in it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from engine.net.real import real_runtime


async def test_clock_is_the_loops_and_the_walls(tmp_path: Path) -> None:
    clock = real_runtime(tmp_path).clock
    before = time.time_ns() // 1000
    assert before <= clock.wall_us() <= time.time_ns() // 1000
    first = clock.monotonic()
    assert first <= asyncio.get_running_loop().time()
    assert clock.monotonic() >= first


async def test_each_runtime_has_chances_of_its_own(tmp_path: Path) -> None:
    one, other = real_runtime(tmp_path), real_runtime(tmp_path)
    assert [one.rng.random() for _ in range(4)] != [other.rng.random() for _ in range(4)]


async def test_its_disk_is_the_folder_and_the_node_can_be_stopped(tmp_path: Path) -> None:
    reasons: list[str] = []
    runtime = real_runtime(tmp_path / "node", stop_node=reasons.append)
    runtime.disk.write_atomic("meta", b"x")
    assert (tmp_path / "node" / "meta").read_bytes() == b"x"
    runtime.stop_node("fsync failed")
    assert reasons == ["fsync failed"]


def test_a_node_without_a_disk_cannot_keep_anything() -> None:
    with pytest.raises(AttributeError, match="no disk"):
        real_runtime(None).disk.write_atomic("meta", b"x")
