"""What a node makes of the disk that it finds."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace

import pytest

from engine.errors import ConfigError, DiskFailed, NotComplete, UnknownSegment
from engine.net.pb import storage_pb2 as pb
from engine.storage.pagestore import FORMAT_VERSION
from engine.storage.walfile import mark
from tests.storage.harness import QUIET, VOLUME, Group, Log, Node, Writer, as_before

Make = Callable[..., Awaitable[Node]]
SPAN = range(6)


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, 99])
async def test_an_unknown_format_version_is_refused_and_nothing_is_touched(
    make: Make, version: int
) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    await node.append(*Log().frames(3))
    await node.kill()
    with closing(sqlite3.connect(node.folder / "node.db")) as db, db:
        db.execute("UPDATE node SET format_version = ?", (version,))
    # A newer program's log, which this one would take for damage or a torn tail, and cut.
    wal = node.wal_bytes().replace(b"SF3", b"SF4")
    node.wal_path().write_bytes(wal)
    with pytest.raises(ConfigError, match=f"format version {version}"):
        await Node(node.folder).open()
    assert node.wal_bytes() == wal


async def test_a_log_with_the_long_headers_of_before_is_gone_on_with(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log(seed=3)
    frames = log.frames(6)
    await node.append(*frames[:4])
    await node.kill()
    with closing(sqlite3.connect(node.folder / "node.db")) as db, db:
        db.execute("UPDATE node SET format_version = 2")
    old = b"".join(map(as_before, frames[:4]))
    assert len(old) > sum(map(len, frames[:4])) + 4 * 40
    node.wal_path().write_bytes(old + mark(1, len(old)))

    node = await make()
    assert node.segment().scl == log.commits[3]
    assert not node.segment().row.damaged
    ack = await node.append(*frames[4:])
    assert ack.segments[0].scl == log.last
    await node.kill()
    node = await make()
    assert await node.read(SPAN, log.last) == [log.page_at(page, log.last) for page in SPAN]
    assert node.wal_bytes().startswith(old)
    with closing(sqlite3.connect(node.folder / "node.db")) as db:
        assert db.execute("SELECT format_version FROM node").fetchall() == [(FORMAT_VERSION,)]


async def test_another_nodes_disk_is_refused(make: Make) -> None:
    node = await make()
    await node.close()
    with pytest.raises(ConfigError, match="belongs to storage-1"):
        await Node(node.folder, name="storage-2").open()


async def test_a_wiped_node_is_another_incarnation_and_is_given_nothing(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    first = node.state.incarnation
    log = Log()
    frames = log.frames(3)
    await node.append(*frames)
    await node.kill()
    shutil.rmtree(node.folder)

    wiped = Node(node.folder)
    wiped.seed = "another life"
    await wiped.open()
    assert wiped.state.incarnation != first
    reply = await wiped.assign(incarnation=first, create=True)
    assert [r.incarnation for r in reply.refused] == [first], "it cannot answer for that life"
    assert [r.membership.pg for r in reply.refused] == [0]
    assert not wiped.state.volumes
    assert not (await wiped.fence(2)).segments, "it votes for nothing"
    assert (await wiped.append(frames[0])).refusal == pb.REFUSAL_UNKNOWN_SEGMENT
    with pytest.raises(UnknownSegment):
        await wiped.read([0], log.last)
    assert not (await wiped.status()).segments
    await wiped.kill()


async def test_a_wiped_page_store_under_an_old_log_is_a_wiped_node(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    await node.append(*Log(1).frames(3))
    await node.kill()
    for path in node.folder.glob("node.db*"):
        path.unlink()
    wiped = Node(node.folder)
    wiped.seed = "another life"
    await wiped.open()
    assert wiped.state.incarnation != node.state.incarnation
    # The old log must not come back to life in the new incarnation's segment.
    await wiped.assign()
    await wiped.fence(1)
    assert wiped.segment().scl == 0
    other = Log(2)
    await wiped.append(*other.frames(2))
    await wiped.kill()
    again = await Node(node.folder).open()
    assert again.segment().scl == other.last
    assert await again.read(SPAN, other.last) == [other.page_at(p, other.last) for p in SPAN]
    await again.kill()


async def test_a_segment_of_another_life_of_this_disk_is_refused(make: Make) -> None:
    node = await make()
    await node.assign()
    reply = await node.assign(incarnation="somebody else")
    assert len(reply.refused) == 1
    assert not (await node.assign()).refused


async def test_a_segment_that_was_only_confirmed_is_not_created(make: Make) -> None:
    node = await make()
    assert len((await node.assign(create=False)).refused) == 1
    assert not node.state.volumes


async def test_everything_is_there_after_any_number_of_restarts(make: Make) -> None:
    node = await make(config=replace(QUIET, wal_file_bytes=700))
    await node.assign(pgs=(0, 1))
    await node.fence(1)
    log = Log()
    vdl = 0
    for round_ in range(6):
        for _ in range(4):
            frames = log.commit([round_, 2560 + round_])
            await node.append(frames[0], vdl=vdl)
            await node.append(frames[1], pg=1)
        vdl = log.commits[-2]
        if round_ % 2:
            await node.coalesce(round_ // 2 % 2)
        await node.kill()
        node = await make(config=replace(QUIET, wal_file_bytes=700))
        for lsn in log.commits:
            for pg in (0, 1):
                pages = range(2560 * pg, 2560 * pg + 6)
                found = await node.read(pages, lsn, pg=pg, pg_lsn=log.tail(lsn, pg))
                assert found == [log.page_at(page, lsn) for page in pages]
    assert (await node.fence(1)).segments[0].scl == log.tail(log.last)


async def test_after_a_failed_fsync_a_restart_serves_what_the_disk_has(group: Group) -> None:
    """The frame of the failed fsync may be there or not; whichever it is, it is said."""
    log = Log()
    frames = log.frames(4)
    await group.append(*frames[:3])
    node = group.nodes[0]
    real = node.state.wal._current.sync

    async def fail() -> None:
        raise DiskFailed("the fdatasync failed")

    node.state.wal._current.sync = fail
    writer = Writer(node)
    writer.send(frames[3])
    await asyncio.wait({writer.task})
    assert writer.task.exception() is not None
    assert writer.pipe.replies.empty()
    assert node.stopped
    node.state.wal._current.sync = real
    again = await group.restart(0)
    assert again.segment().scl in log.commits[2:]
    assert not again.segment().row.damaged
    reached = again.segment().scl
    if reached < log.last:
        with pytest.raises(NotComplete):
            await again.read([0], log.last, pg_lsn=log.last)
    await again.append(frames[3])
    assert await again.read(SPAN, log.last, pg_lsn=log.last) == [
        log.page_at(p, log.last) for p in SPAN
    ]
    assert again.state.volume(VOLUME).epoch == 1
