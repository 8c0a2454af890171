"""Rot in page versions and frames: found by whoever meets it, repaired from peers, never returned."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import Corrupt
from engine.log.frame import split_frames
from engine.storage.pagestore import page_checksum
from engine.types import LAL
from tests.storage.harness import QUIET, VOLUME, Group, Log, Node, as_before, joined, rot_frame

SPAN = range(6)


@pytest.fixture
async def uncached(tmp_path: Path) -> AsyncIterator[Group]:
    """Four nodes that read every frame from disk (but the newest one)."""
    group = await Group(tmp_path, count=4, config=replace(QUIET, frame_cache_bytes=0)).start()
    yield group
    await group.stop()


async def coalesced(group: Group) -> Log:
    """Six pages that stand on all nodes as versions, with no redo left to rebuild them from."""
    log = Log()
    for frame in log.frames(12):
        await group.append(frame)
    for node in group.nodes:
        await node.collect(vdl=log.last)
        assert not node.segment().index
    return log


async def test_a_rotten_version_is_repaired_by_the_read_that_meets_it(group: Group) -> None:
    log = await coalesced(group)
    node = group.nodes[0]
    page, lsn, crc, image = node.versions()[2]
    node.write_version(page, lsn, bytes((image[0] ^ 1,)) + image[1:])
    assert await node.read([page], log.last) == [log.page_at(page, log.last)]
    assert (page, lsn, crc, image) in node.versions()
    counters = (await node.status()).counters
    assert (counters["scrub_found"], counters["scrub_repaired"]) == (1, 1)


async def test_a_rotten_version_is_repaired_by_the_scrubber(group: Group) -> None:
    await coalesced(group)
    node = group.nodes[0]
    before = node.versions()
    rng = random.Random(3)
    for page, lsn, _, image in before:
        at = rng.randrange(len(image))
        node.write_version(page, lsn, image[:at] + bytes((image[at] ^ 0x80,)) + image[at + 1 :])
    await node.scrub()
    assert node.versions() == before


async def test_rot_in_all_copies_is_an_error_that_names_page_and_lsn(group: Group) -> None:
    log = await coalesced(group)
    page, lsn, _, image = group.nodes[0].versions()[1]
    for node in group.nodes:
        node.write_version(page, lsn, bytes(len(image)))
    async with asyncio.timeout(5):
        with pytest.raises(Corrupt, match=rf"page {page} at LSN {lsn} of volume {VOLUME}"):
            await group.nodes[0].read([page], log.last)
        await group.nodes[0].scrub()  # says so too, and goes on
    asked = sum(node.state.counters["scrub_found"] for node in group.nodes[1:])
    assert asked == 0, "a peer that is asked for a repair must not ask around in turn"
    others = [p for p in SPAN if p != page]
    assert await group.nodes[0].read(others, log.last) == [log.page_at(p, log.last) for p in others]
    assert not group.nodes[0].stopped


@pytest.mark.parametrize("rotten", [1, 2, 3])
async def test_one_good_copy_is_enough(group: Group, rotten: int) -> None:
    log = await coalesced(group)
    page, lsn, _, image = group.nodes[0].versions()[1]
    for node in group.nodes[:rotten]:
        node.write_version(page, lsn, bytes(len(image)))
    for node in group.nodes[:rotten]:
        assert await node.read([page], log.last) == [log.page_at(page, log.last)]


async def test_a_misdirected_version_is_rejected(group: Group) -> None:
    """Whole pages with valid checksums, where they do not belong."""
    log = await coalesced(group)
    node = group.nodes[0]
    first, second = node.versions()[:2]
    node.write_version(first[0], first[1], second[3])
    node.write_version(second[0], second[1], first[3])
    pages = [first[0], second[0]]
    assert await node.read(pages, log.last) == [log.page_at(p, log.last) for p in pages]
    volume, page, lsn, image = VOLUME, first[0], first[1], first[3]
    crc = page_checksum(volume, page, lsn, image)
    assert crc == first[2]
    for other in [(volume + 1, page, lsn), (volume, page + 1, lsn), (volume, page, lsn + 1)]:
        assert page_checksum(*other, image) != crc


async def test_a_peer_that_collected_further_repairs_with_a_newer_version(group: Group) -> None:
    """The wanted version is gone there, so a reader below the newer one is told, not lied to."""
    log = Log()
    for frame in log.frames(6):
        await group.append(frame)
    node, middle = group.nodes[0], log.last
    await node.collect(vdl=middle)
    for frame in log.frames(6):
        await group.append(frame)
    for other in group.nodes[1:]:
        await other.collect(vdl=log.last)
    node.state.volume(VOLUME).learn_points(vdl=log.last)
    await node.coalesce()
    # A page that was changed after `middle`, so that the old version and the newer one differ.
    page, lsn = next(
        (p, old) for p, old, _, _ in node.versions() if log.page_at(p, log.last)[0] > old
    )
    node.write_version(page, lsn, bytes(4096))
    with pytest.raises(Corrupt, match=rf"page {page} at LSN {lsn}"):
        await node.read([page], middle)
    assert await node.read([page], log.last) == [log.page_at(page, log.last)]


async def test_a_rotten_frame_is_repaired_by_the_read_that_meets_it(uncached: Group) -> None:
    log = Log()
    frames = log.frames(8)
    for frame in frames:
        await uncached.append(frame)
    node = uncached.nodes[0]
    for frame in frames[1:4]:
        rot_frame(node, frame)
    for lsn in log.commits:
        assert await node.read(SPAN, lsn) == [log.page_at(p, lsn) for p in SPAN], lsn
    assert node.state.counters["scrub_repaired"] == 3
    again = await uncached.restart(0)
    assert not again.segment().row.damaged
    assert again.segment().scl == log.last
    for lsn in log.commits:
        assert await again.read(SPAN, lsn) == [log.page_at(p, lsn) for p in SPAN], lsn


async def test_a_rotten_frame_is_repaired_by_the_scrubber(uncached: Group) -> None:
    frames = Log().frames(8)
    for frame in frames:
        await uncached.append(frame)
    node = uncached.nodes[0]
    for frame in frames[2:5]:
        rot_frame(node, frame)
    await node.scrub()
    assert node.state.counters["scrub_repaired"] == 3
    found = node.state.counters["scrub_found"]
    await node.scrub()
    assert node.state.counters["scrub_found"] == found
    assert {frame for _, frame in split_frames(await node.fetched())} == set(frames)


@pytest.mark.parametrize("form", [bytes, as_before], ids=["now", "before"])
async def test_what_was_left_of_a_rotten_frame_is_repaired(
    uncached: Group, form: Callable[[bytes], bytes]
) -> None:
    """A recovery cut it. On disk it is whole; a peer gives what counts, under a header of its own."""
    log = Log()
    first = log.commit([0, 1])[0]
    middle = log.last
    both = form(joined(first, log.commit([1, 2])[0]))
    await uncached.append(both)
    for node in uncached.nodes:
        await node.fence(2)
        await node.truncate(2, (2, middle, middle + LAL))
    new = log.truncated(middle, 2)
    last = new.commit([3])[0]
    for node in uncached.nodes:
        await node.append(last, epoch=2)  # the newest frame stays in memory
    node = uncached.nodes[0]
    rot_frame(node, both)
    for _ in range(2):
        assert await node.read(SPAN, middle, epoch=2) == [new.page_at(p, middle) for p in SPAN]
        assert await node.read(SPAN, new.last, epoch=2) == [new.page_at(p, new.last) for p in SPAN]
        assert await node.fetched(epoch=2) == first + last
        node = await uncached.restart(0)
        assert not node.segment().row.damaged


async def test_a_frame_that_rots_on_disk_while_memory_has_it_is_written_again(node: Node) -> None:
    """No peer exists here: the copy in memory is as good."""
    log = Log()
    frames = log.frames(4)
    await node.append(*frames)
    rot_frame(node, frames[1])
    await node.scrub()
    assert node.state.counters["scrub_repaired"] == 1
    assert node.wal_bytes().count(frames[1]) == 1


async def test_rot_in_all_copies_of_a_frame_is_an_error_that_names_its_records(
    uncached: Group,
) -> None:
    log = Log()
    frames = [log.commit([0])[0] for _ in range(4)]
    for frame in frames:
        await uncached.append(frame)
    for node in uncached.nodes:
        rot_frame(node, frames[1])
    async with asyncio.timeout(5):
        with pytest.raises(Corrupt, match=r"redo 2\.\.2 of group 0 \(page 0\)"):
            await uncached.nodes[0].read([0], log.last)
    assert await uncached.nodes[0].read([0], 1) == [log.page_at(0, 1)], "it is not needed here"
    assert not uncached.nodes[0].stopped
    # Coalescing stops before it rather than make it a page version.
    uncached.nodes[0].state.volume(VOLUME).learn_points(vdl=log.last)
    with pytest.raises(Corrupt):
        await uncached.nodes[0].coalesce()
    assert uncached.nodes[0].segment().applied == 0


async def test_a_misdirected_frame_is_rejected(uncached: Group) -> None:
    """A disk that gives another frame's bytes, whole and valid: not those that were asked for."""
    log = Log()
    frames: list[bytes] = []
    while len(frames) < 2 or len(frames[-1]) != len(frames[0]):
        frames.append(log.commit([0])[0])
    frames.append(log.commit([0])[0])  # stays in the cache
    for frame in frames:
        await uncached.append(frame)
    node = uncached.nodes[0]
    first, second = frames[0], frames[-2]
    data = node.wal_path().read_bytes()
    swapped = data.replace(first, b"?" * len(first)).replace(second, first)
    node.wal_path().write_bytes(swapped.replace(b"?" * len(first), second))
    for lsn in log.commits:
        assert await node.read([0], lsn) == [log.page_at(0, lsn)], lsn
    assert node.state.counters["scrub_repaired"] == 2
    assert set(frames) == {frame for _, frame in split_frames(await node.fetched())}


async def test_a_rotten_frame_is_not_given_to_peers(uncached: Group) -> None:
    log = Log()
    frames = log.frames(6)
    source, behind, other = uncached.nodes[:3]
    for node in (source, other):
        await node.append(*frames)
    await behind.append(frames[0])
    rot_frame(source, frames[2])
    await uncached.gossip(1, 0)
    assert behind.segment().scl == log.commits[1]
    await uncached.gossip(1, 2)
    assert behind.segment().scl == log.last
    assert await behind.read(SPAN, log.last) == [log.page_at(p, log.last) for p in SPAN]
