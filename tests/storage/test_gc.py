"""Garbage collection goes from coalescing point to coalescing point, never past a reader or a pin."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from engine.errors import SnapshotTooOld
from tests.storage.harness import QUIET, VOLUME, GatedStore, Log, Node

Make = Callable[..., Awaitable[Node]]
SPAN = range(6)
SMALL = replace(QUIET, wal_file_bytes=600, frame_cache_bytes=0)


async def opened(make: Make) -> Node:
    node = await make(config=SMALL)
    await node.assign()
    await node.fence(1)
    return node


async def grown(node: Node, log: Log, rounds: int = 4) -> list[int]:
    """Commits and a coalescing point, again and again; the points."""
    points = []
    for _ in range(rounds):
        for frame in log.frames(5):
            await node.append(frame)
        node.state.volume(VOLUME).learn_points(vdl=log.last)
        await node.coalesce()
        points.append(node.segment().applied)
    return points


async def check(node: Node, log: Log, since: int) -> None:
    for lsn in [c for c in log.commits if c >= since]:
        found = await node.read(SPAN, lsn, pg_lsn=log.tail(lsn))
        assert found == [log.page_at(page, lsn) for page in SPAN], lsn


async def test_the_floor_is_the_newest_point_that_nobody_reads_below(make: Make) -> None:
    node, log = await opened(make), Log()
    points = await grown(node, log)
    for pgmrpl in log.commits:
        node.state.volume(VOLUME).learn_points(pgmrpl=pgmrpl)
        await node.node.collector.collect()
        assert node.segment().floor == max([0, *(p for p in points if p <= pgmrpl)])
        await check(node, log, pgmrpl)
    with pytest.raises(SnapshotTooOld):
        await node.read([0], log.commits[0])


async def test_without_a_coalescing_point_nothing_goes(make: Make) -> None:
    node, log = await opened(make), Log()
    for frame in log.frames(12):
        await node.append(frame)
    node.state.volume(VOLUME).learn_points(vdl=log.last, pgmrpl=log.last)
    files = list(node.state.wal.files)
    await node.node.collector.collect()
    assert node.state.wal.files == files
    await check(node, log, 0)


async def test_a_read_point_that_is_durable_elsewhere_only_drops_nothing_here(make: Make) -> None:
    """PGMRPL may be far above what a segment that lags has."""
    node, log = await opened(make), Log()
    points = await grown(node, log, 2)
    log.frames(10)  # never arrive
    node.state.volume(VOLUME).learn_points(vdl=log.last, pgmrpl=log.last)
    await node.node.collector.collect()
    assert node.segment().floor == points[-1]


async def test_a_pin_holds_what_its_reader_needs(make: Make) -> None:
    node, log = await opened(make), Log()
    points = await grown(node, log)
    node.state.volume(VOLUME).learn_points(pgmrpl=log.last)
    held = log.commits[8]  # between the first point and the second
    with node.state.pinned(node.segment(), held):
        await node.node.collector.collect()
        assert node.segment().floor == points[0] < held
        await check(node, log, held)
        with node.state.pinned(node.segment(), points[2]):
            await node.node.collector.collect()
        assert node.segment().floor == points[0]
    await node.node.collector.collect()
    assert node.segment().floor == points[-1]
    assert len(node.versions()) == len(SPAN)


async def test_many_points_are_merged_and_still_right(make: Make) -> None:
    node, log = await opened(make), Log()
    held = 0
    for n in range(80):
        await node.append(log.commit([n % 6])[0])
        held = held or log.last
        node.state.volume(VOLUME).learn_points(vdl=log.last)
        await node.coalesce()
    assert len(node.segment().coalesced) <= 64
    await check(node, log, held)
    for pgmrpl in log.commits[10::20]:
        node.state.volume(VOLUME).learn_points(pgmrpl=pgmrpl)
        await node.node.collector.collect()
        await check(node, log, pgmrpl)


async def test_log_files_go_when_no_segment_needs_them(make: Make) -> None:
    node = await make(config=SMALL)
    await node.assign(pgs=(0, 1))
    await node.fence(1)
    log = Log()
    for n in range(12):
        frames = log.commit([n % 6, 2560])
        await node.append(frames[0])
        await node.append(frames[1], pg=1)
    node.state.volume(VOLUME).learn_points(vdl=log.last, pgmrpl=log.last)
    await node.coalesce(0)
    files = list(node.state.wal.files)
    await node.node.collector.collect()
    assert node.state.wal.files == files, "group 1 has no pages yet"
    await node.coalesce(1)
    await node.node.collector.collect()
    assert node.state.wal.files == files[-1:]
    assert node.segment().hot_from <= node.segment().applied
    await check(node, log, log.last)
    await node.kill()
    again = await make(config=SMALL)
    assert again.segment(0).scl == log.tail(log.last, 0)
    assert again.segment(1).scl == log.tail(log.last, 1)
    assert not again.segment().row.damaged


async def test_a_frame_ahead_of_a_gap_keeps_its_file(make: Make) -> None:
    node, log = await opened(make), Log()
    await grown(node, log, 1)
    missing = log.commit([0])[0]
    for frame in log.frames(8):
        await node.append(frame)
    node.state.volume(VOLUME).learn_points(vdl=log.last, pgmrpl=log.last)
    await node.coalesce()
    await node.node.collector.collect()
    await node.append(missing)
    assert node.segment().scl == log.last
    await check(node, log, log.last)


async def test_the_floor_is_durable_before_anything_below_it_is_gone(make: Make) -> None:
    """Killed in the middle of a collection: a restarted node serves no read that lacks something."""
    node, log = await opened(make), Log()
    points = await grown(node, log)
    store = GatedStore(node.state.store)
    node.state.store = store
    node.state.volume(VOLUME).learn_points(pgmrpl=log.last)
    files = list(node.state.wal.files)
    store.hold("drop_superseded")
    collecting = asyncio.create_task(node.node.collector.collect())
    await store.reached.wait()
    with pytest.raises(SnapshotTooOld):
        await node.read([0], points[0])
    assert node.state.wal.files == files
    copy = await node.crash_copy(node.folder.with_name("copy"))
    await check(copy, log, 1)
    await copy.kill()
    store.release()
    await collecting
    assert node.state.wal.files != files
    copy = await node.crash_copy(node.folder.with_name("copy-2"))
    assert copy.segment().floor == points[-1]
    await check(copy, log, points[-1])
    await copy.kill()


async def test_a_read_that_waits_while_its_read_point_is_collected_is_refused(make: Make) -> None:
    node, log = await opened(make), Log()
    points = await grown(node, log)
    # A restart forgets the points below `applied`, so a read below has to ask the store.
    store = GatedStore(node.state.store)
    node.state.store = store
    node.state.volume(VOLUME).learn_points(pgmrpl=points[1])
    await node.node.collector.collect()
    store.hold("newest")
    reading = asyncio.create_task(node.read(SPAN, points[1]))
    await store.reached.wait()
    node.state.volume(VOLUME).learn_points(pgmrpl=log.last)
    await node.node.collector.collect()
    store.release()
    with pytest.raises(SnapshotTooOld):
        await reading
