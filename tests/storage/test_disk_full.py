"""No room: what is refused is not there, reads go on, writes go on when there is room again."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import DiskFull
from engine.net.pb import storage_pb2 as pb
from engine.types import LAL
from tests.storage.harness import QUIET, VOLUME, FaultyDisk, Group, Log, Node

Make = Callable[..., Awaitable[Node]]
SPAN = range(6)


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """While it lasts no file of this process can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def no_room(node: Node, method: str) -> Iterator[None]:
    """That method of the page store finds no room: as its port says, nothing is changed."""

    async def refuse(*_given: object) -> None:
        raise DiskFull("no room")

    real = getattr(node.state.store, method)
    setattr(node.state.store, method, refuse)
    try:
        yield
    finally:
        setattr(node.state.store, method, real)


@contextlib.asynccontextmanager
async def full_page_store(node: Node) -> AsyncIterator[None]:
    """SQLite itself refuses to make its file any larger."""
    db = node.state.store._writer
    ((pages,),) = await db.execute_fetchall("PRAGMA page_count")
    await db.execute(f"PRAGMA max_page_count={pages}")
    try:
        yield
    finally:
        await db.execute("PRAGMA max_page_count=1000000")


async def test_a_frame_without_room_leaves_no_byte_in_the_log(make: Make) -> None:
    """The real disk, at every possible size of what is left."""
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    await node.append(*log.frames(3))
    frame = log.commit([0])[0]
    before = node.wal_bytes()
    for room in range(0, len(frame), 9):
        with room_for(len(before) + room):
            ack = await node.append(frame)
        assert ack.refusal == pb.REFUSAL_DISK_FULL
        assert "free space" in ack.detail
        assert node.wal_bytes() == before
        assert await node.read(SPAN, log.commits[-2]) == [
            log.page_at(page, log.commits[-2]) for page in SPAN
        ]
    assert (await node.status()).state == "disk full"
    assert (await node.append(frame)).segments[0].scl == log.last
    assert (await node.status()).state == "up"
    await node.kill()
    again = await make()
    assert again.segment().scl == log.last
    assert not again.segment().row.damaged


async def test_a_request_that_fits_only_in_part_is_refused_and_its_part_is_no_harm(
    make: Make,
) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    frames = log.frames(4)
    with room_for(len(frames[0]) + len(frames[1]) + 10):
        ack = await node.append(*frames)
        assert ack.refusal == pb.REFUSAL_DISK_FULL
        assert not ack.segments
    ack = await node.append(*frames)
    assert ack.segments[0].scl == log.last
    for lsn in log.commits:
        assert await node.read(SPAN, lsn) == [log.page_at(page, lsn) for page in SPAN]


async def test_without_room_for_a_new_file_the_old_one_goes_on(make: Make, tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path / "node")
    node = await make(disk=disk, config=replace(QUIET, wal_file_bytes=300))
    await node.assign()
    await node.fence(1)
    log = Log()
    for frame in log.frames(3):
        await node.append(frame)
    files = list(node.state.wal.files)
    disk.no_new_files = True
    for frame in log.frames(6):
        assert (await node.append(frame)).refusal == pb.REFUSAL_NONE
    assert node.state.wal.files == files
    disk.no_new_files = False
    for frame in log.frames(2):
        await node.append(frame)
    assert len(node.state.wal.files) > len(files)
    await node.kill()
    assert (await make()).segment().scl == log.last


async def test_a_full_page_store_stops_coalescing_and_nothing_else(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    for _ in range(8):
        await node.append(log.commit(range(40), whole=True)[0])
    node.state.volume(VOLUME).learn_points(vdl=log.last)
    async with full_page_store(node):
        with pytest.raises(DiskFull):
            await node.coalesce()
        assert node.segment().applied == 0
        assert (await node.status()).state == "disk full"
        assert (await node.append(log.commit([0])[0])).segments[0].scl == log.last
        for lsn in log.commits[-3:]:
            assert await node.read(range(40), lsn) == [log.page_at(p, lsn) for p in range(40)]
        copy = await node.crash_copy(node.folder.with_name("copy"))
        assert copy.segment().scl == log.last
        assert copy.segment().applied == 0
        await copy.kill()
    assert await node.coalesce() == 40
    assert (await node.status()).state == "up"
    assert await node.read(range(40), log.last) == [log.page_at(p, log.last) for p in range(40)]
    assert not node.stopped


async def test_a_fence_that_cannot_be_written_is_not_answered_but_holds(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    frames = log.frames(3)
    await node.append(*frames[:2])
    with no_room(node, "put_segments"), pytest.raises(DiskFull):
        await node.fence(2)
    assert (await node.append(frames[2])).refusal == pb.REFUSAL_STALE_EPOCH
    (report,) = (await node.fence(2)).segments
    assert report.scl == log.commits[1]
    await node.kill()
    again = await make()
    assert again.state.volume(VOLUME).epoch == 2


async def test_a_truncation_that_cannot_be_written_is_made_again(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    frames = log.frames(4)
    await node.append(*frames)
    vdl = log.commits[1]
    await node.fence(2)
    with no_room(node, "put_segments"), pytest.raises(DiskFull):
        await node.truncate(2, (2, vdl, vdl + LAL))
    new = log.truncated(vdl, 2)
    frame = new.commit([0])[0]
    assert (await node.append(frame, epoch=2)).refusal == pb.REFUSAL_BEHIND_EPOCH, (
        "a crash would bring the annulled records back under this frame"
    )
    await node.truncate(2, (2, vdl, vdl + LAL))
    assert (await node.append(frame, epoch=2)).segments[0].scl == new.last
    await node.kill()
    again = await make()
    assert again.segment().scl == new.last
    assert await again.read(SPAN, new.last, epoch=2) == [new.page_at(p, new.last) for p in SPAN]


async def test_a_repair_without_room_is_made_later(group: Group) -> None:
    log = Log()
    for frame in log.frames(6):
        await group.append(frame)
    for node in group.nodes:
        await node.collect(vdl=log.last)
    node = group.nodes[0]
    page, lsn, _, image = node.versions()[0]
    node.write_version(page, lsn, bytes(len(image)))
    with no_room(node, "replace_version"):
        with pytest.raises(DiskFull):
            await node.read([page], log.last)
        await node.scrub()
    assert not node.stopped
    assert await node.read([page], log.last) == [log.page_at(page, log.last)]


async def test_a_membership_that_found_no_room_is_not_confirmed_when_asked_again(
    make: Make,
) -> None:
    node = await make("a")
    await node.assign()
    with no_room(node, "put_segments"):
        for _ in range(2):
            with pytest.raises(DiskFull):
                await node.assign(epoch=2, create=False)
    assert node.segment().row.membership.epoch == 1
    await node.assign(epoch=2, create=False)
    assert node.segment().row.membership.epoch == 2
