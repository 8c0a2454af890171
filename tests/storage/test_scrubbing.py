"""How the scrubber goes through everything: neighbours at once, and what is little not over and over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.storage import wal
from engine.storage.scrub import _Passes
from tests.storage.harness import QUIET, Group, Log, Node, rot_frame


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Group]:
    group = await Group(tmp_path, count=2, config=replace(QUIET, wal_file_bytes=2000)).start()
    yield group
    await group.stop()


async def filled(group: Group, count: int = 40) -> tuple[Node, list[bytes]]:
    """Several log files, each with several frames and marks between them."""
    frames = Log().frames(count)
    for frame in frames:
        await group.append(frame)
    node = group.nodes[0]
    assert len(node.state.wal.files) > 2
    return node, frames


async def test_neighbours_are_read_at_once(two: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    node, frames = await filled(two)
    reads: list[str] = []
    read = node.state.runtime.disk.read

    def counted(path: str, offset: int = 0, length: int = -1) -> bytes:
        reads.append(path)
        return read(path, offset, length)

    monkeypatch.setattr(node.state.runtime.disk, "read", counted)
    assert await node.node.scrubber.check_frames(1000) == len(frames)
    assert len(reads) == len(node.state.wal.files)


@pytest.mark.parametrize("stretch", [1, 400, 1_000_000])
async def test_the_rotten_one_among_neighbours_is_found(
    two: Group, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    monkeypatch.setattr(wal, "STRETCH_BYTES", stretch)
    node, frames = await filled(two)
    places = [ref.location for ref in node.segment().frames]
    assert node.state.wal.suspect(places) == set()
    rotten = set()
    for number in (0, 5, 6, len(frames) - 1):
        rot_frame(node, frames[number], header=number == 5)
        rotten.add(places[number])
        assert node.state.wal.suspect(reversed(places)) == rotten
    await node.scrub()
    assert node.state.counters["scrub_repaired"] == len(rotten)
    assert node.state.wal.suspect(ref.location for ref in node.segment().frames) == set()


async def test_another_frame_and_a_dropped_file_are_suspect(two: Group) -> None:
    node, frames = await filled(two)
    places = [ref.location for ref in node.segment().frames]
    other = places[3]._replace(header_crc=places[4].header_crc)
    assert node.state.wal.suspect([places[2], other, places[4]]) == {other}
    first = {place for place in places if place.file == 1}
    (node.folder / "wal" / "00000001.wal").unlink()
    assert node.state.wal.suspect(places) == first
    assert await node.node.scrubber.check_frames(1000) == len(frames), "none of these is damage"
    assert node.state.counters["scrub_found"] == 0


async def test_a_pass_begins_no_sooner_than_that_after_the_last_one_began() -> None:
    left = 0
    checked: list[float] = []
    now = 0.0

    async def check(_limit: int) -> int:
        nonlocal left
        checked.append(now)
        left -= 1
        return max(0, left)

    passes = _Passes(check, now)
    for now in range(100):
        if left <= 0:
            left = 3
        await passes.go_on(64, now, 30.0)
    begins = [at for at, last in zip(checked, [-9, *checked], strict=False) if at - last > 1]
    assert begins == [0, 30, 60, 90]
    assert len(checked) == 4 * 3


async def test_a_pass_that_takes_long_is_followed_by_the_next_at_once() -> None:
    checked: list[Any] = []

    async def check(limit: int) -> int:
        checked.append(limit)
        return 0 if len(checked) % 50 == 0 else 1

    passes = _Passes(check, 0.0)
    for now in range(200):
        await passes.go_on(7, now, 30.0)
    assert checked == [7] * 200
