"""Redo in, acks out: what an ack says is durable, and what is refused is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import BehindEpoch, NotComplete, StaleEpoch
from engine.log.frame import build_frame, encode_record
from engine.log.header import read_header
from engine.net.pb import storage_pb2 as pb
from engine.types import LAL
from tests.storage.harness import QUIET, VOLUME, FaultyDisk, Log, Node, Writer
from tests.support.until import until

Make = Callable[..., Awaitable[Node]]


async def test_redo_is_acked_with_scl_and_can_be_read(node: Node) -> None:
    log = Log()
    ack = await node.append(*log.frames(5))
    assert [(s.pg, s.scl) for s in ack.segments] == [(0, log.pg_last[0])]
    for page in log.pages:
        assert await node.read([page], log.last) == [log.page_at(page, log.last)]


async def test_one_ack_for_what_gathered_during_a_sync(make: Make, tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path / "node")
    node = await make(disk=disk)
    await node.assign()
    await node.fence(1)
    log = Log()
    writer = Writer(node)
    disk.gate.clear()
    writer.send(log.commit()[0])
    await disk.syncing.wait()
    for _ in range(20):
        writer.send(log.commit()[0])
    await until(lambda: node.state.counters["appends"] == 21)
    before = node.state.wal.counters["syncs"]
    disk.gate.set()
    first, second = await writer.ack(), await writer.ack()
    assert first.segments[0].scl == 1, "an ack must not cover what arrived during its fdatasync"
    assert second.segments[0].scl == 21
    assert node.state.wal.counters["syncs"] == before + 2
    await writer.close()


async def test_a_stream_is_read_on_only_while_its_acks_keep_up(make: Make) -> None:
    node = await make(config=replace(QUIET, acks_queued_max=4))
    await node.assign()
    await node.fence(1)
    log = Log()
    writer = Writer(node)
    writer.pipe.gate.clear()  # nobody takes the acks
    for _ in range(40):
        writer.send(log.commit()[0])
    await until(lambda: writer.pipe.requests.qsize() <= 40 - 6)
    with pytest.raises(TimeoutError):
        await until(lambda: writer.pipe.requests.qsize() < 40 - 10, seconds=0.2)
    writer.pipe.gate.set()
    while (await writer.ack()).segments[0].scl < 40:
        pass
    await writer.close()


async def test_a_greeting_is_acked_for_all_groups(node: Node) -> None:
    log = Log()
    await node.append(*log.frames(3))
    ack = await node.append()
    assert [(s.pg, s.scl) for s in ack.segments] == [(0, log.last), (1, 0)]


async def test_the_same_frame_twice_is_written_once(node: Node) -> None:
    frame = Log().commit([0, 1])[0]
    await node.append(frame)
    size = node.state.wal.counters["wal_bytes_appended"]
    ack = await node.append(frame, frame)
    assert ack.segments[0].scl == 2
    assert node.state.wal.counters["wal_bytes_appended"] == size


async def test_frames_ahead_of_a_gap_wait(node: Node) -> None:
    log = Log()
    frames = log.frames(4)
    ack = await node.append(frames[0], frames[2], frames[3])
    first_end = log.pg_records[0][0]
    assert ack.segments[0].scl == first_end
    assert node.segment().chain.pending == 2
    with pytest.raises(NotComplete):
        await node.read([0], log.last, pg_lsn=log.last)
    ack = await node.append(frames[1])
    assert ack.segments[0].scl == log.last


async def test_too_much_ahead_of_a_gap_is_refused(make: Make) -> None:
    node = await make(config=replace(QUIET, pending_frames_max=3))
    await node.assign()
    await node.fence(1)
    frames = Log().frames(8)
    assert (await node.append(*frames[1:4])).refusal == pb.REFUSAL_NONE
    assert (await node.append(*frames[4:6])).refusal == pb.REFUSAL_OVERLOADED
    assert (await node.append(*frames[0:4])).refusal == pb.REFUSAL_NONE
    assert (await node.append(*frames[4:])).refusal == pb.REFUSAL_NONE


async def test_an_old_epoch_is_refused_and_nothing_of_it_is_written(node: Node) -> None:
    log = Log()
    await node.append(*log.frames(3), vdl=0)
    vdl = log.last
    old = Writer(node, epoch=1)  # the stream of a writer that does not know yet
    await node.fence(2)
    before = node.wal_bytes()
    late = log.commit([0, 1])[0]
    old.send(late)
    ack = await old.ack()
    assert (ack.refusal, ack.epoch) == (pb.REFUSAL_STALE_EPOCH, 2)
    await node.truncate(2, (2, vdl, vdl + LAL))
    old.send(late, vdl=10**6, pgmrpl=10**6)
    assert (await old.ack()).refusal == pb.REFUSAL_STALE_EPOCH
    assert late[read_header(late).size :] not in node.wal_bytes()
    assert node.wal_bytes() == before
    assert node.state.volume(VOLUME).points.vdl == 0, "its points are worth nothing either"
    await old.close()


async def test_a_writer_fenced_before_its_ack_gets_a_refusal(make: Make, tmp_path: Path) -> None:
    """It slept while a recovery annulled its record and a newer writer's moved SCL past it."""
    disk = FaultyDisk(tmp_path / "node")
    node = await make(disk=disk)
    await node.assign()
    await node.fence(1)
    log = Log()
    await node.append(*log.frames(2))
    vdl = log.last
    old = Writer(node)
    old.send(log.commit()[0])
    old.pipe.gate.clear()  # its acks are stuck in the network
    await until(lambda: node.segment().scl > vdl)
    old.send(log.commit()[0])
    await until(lambda: node.state.counters["appends"] == 3)
    await node.fence(2)
    await node.truncate(2, (2, vdl, vdl + LAL))
    new = log.truncated(vdl, 2)
    ack = await node.append(*new.frames(3), epoch=2)
    assert ack.segments[0].scl > vdl + LAL
    old.pipe.gate.set()
    first, second = await old.ack(), await old.ack()
    assert all(s.scl <= vdl + 1 for s in first.segments)
    assert second.refusal == pb.REFUSAL_STALE_EPOCH
    assert not second.segments
    await old.close()


async def test_a_higher_epoch_has_to_fence_and_truncate_first(node: Node) -> None:
    log = Log(epoch=2)
    frame = log.commit()[0]
    assert (await node.append(frame, epoch=2)).refusal == pb.REFUSAL_BEHIND_EPOCH
    await node.fence(2)
    assert (await node.append(frame, epoch=2)).refusal == pb.REFUSAL_BEHIND_EPOCH
    with pytest.raises(BehindEpoch):
        await node.read([0], 0, epoch=2)
    await node.truncate(2, (2, 0, LAL))
    log = Log().truncated(0, 2)
    assert (await node.append(log.commit()[0], epoch=2)).refusal == pb.REFUSAL_NONE
    with pytest.raises(StaleEpoch):
        await node.read([0], 0, epoch=1)


async def test_another_membership_is_refused(node: Node) -> None:
    frame = Log().commit()[0]
    ack = await node.append(frame, membership_epoch=2)
    assert ack.refusal == pb.REFUSAL_STALE_MEMBERSHIP
    await node.assign(epoch=2)
    assert (await node.append(frame, membership_epoch=2)).refusal == pb.REFUSAL_NONE


async def test_a_change_of_members_before_the_ack_refuses_it(make: Make, tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path / "node")
    node = await make(disk=disk)
    await node.assign()
    await node.fence(1)
    writer = Writer(node)
    disk.gate.clear()
    writer.send(Log().commit()[0])
    await disk.syncing.wait()
    await node.assign(epoch=2)
    disk.gate.set()
    ack = await writer.ack()
    assert ack.refusal == pb.REFUSAL_STALE_MEMBERSHIP
    assert not ack.segments
    await writer.close()


async def test_an_unknown_segment_is_refused(node: Node) -> None:
    frame = Log().commit([2560 * 7])[7]
    assert (await node.append(frame, pg=7)).refusal == pb.REFUSAL_UNKNOWN_SEGMENT
    wrong = pb.AppendRequest(volume=99, epoch=1)
    writer = Writer(node)
    writer.pipe.requests.put_nowait(wrong)
    assert (await writer.ack()).refusal == pb.REFUSAL_UNKNOWN_SEGMENT
    await writer.close()


def _frame(page: int = 0, *, pg: int = 0, epoch: int = 1, lsn: int = 1, claims: int = 1) -> bytes:
    body = encode_record(
        lsn=1,
        prev_lsn=0,
        prev_pg_lsn=0,
        page=page,
        full=True,
        moves=(),
        ranges=((0, b"x"),),
        commit=None,
    )
    return build_frame(
        volume=VOLUME,
        pg=pg,
        epoch=epoch,
        prev_pg_lsn=lsn - 1,
        first_lsn=lsn,
        last_lsn=lsn + claims - 1,
        records=[body] * claims,
    )


@pytest.mark.parametrize(
    "bad",
    [
        b"no frame at all, but more than a header's length of it" * 3,
        _frame()[:-1],
        _frame()[:-1] + b"?",
        _frame(pg=1),
        _frame(epoch=2),
        _frame(page=2560),
        _frame(lsn=1 << 63),
        build_frame(
            volume=VOLUME,
            pg=0,
            epoch=1,
            prev_pg_lsn=0,
            first_lsn=1,
            last_lsn=9,
            records=[b"\0\1\1\0\0"],
        ),
    ],
    ids=["junk", "short", "rotten", "group", "epoch", "page", "huge", "contradiction"],
)
async def test_a_malformed_frame_is_refused_and_not_written(node: Node, bad: bytes) -> None:
    before = node.wal_bytes()
    assert (await node.append(bad)).refusal == pb.REFUSAL_MALFORMED
    assert node.wal_bytes() == before
    assert (await node.append(Log().commit()[0])).segments[0].scl == 1


async def test_points_out_of_range_are_refused(node: Node) -> None:
    assert (await node.append(vdl=1 << 63)).refusal == pb.REFUSAL_MALFORMED


async def test_a_full_disk_refuses_redo_serves_reads_and_recovers(
    make: Make, tmp_path: Path
) -> None:
    disk = FaultyDisk(tmp_path / "node")
    node = await make(disk=disk)
    await node.assign()
    await node.fence(1)
    log = Log()
    await node.append(*log.frames(3))
    acked = log.last
    disk.full = True
    frame = log.commit([0])[0]
    assert (await node.append(frame)).refusal == pb.REFUSAL_DISK_FULL
    assert (await node.status()).state == "disk full"
    assert await node.read([0], acked) == [log.page_at(0, acked)]
    disk.full = False
    assert (await node.append(frame)).segments[0].scl == log.last
    assert (await node.status()).state == "up"
    assert not node.stopped


async def test_after_a_failed_fdatasync_nothing_is_acked_and_the_node_ends(
    make: Make, tmp_path: Path
) -> None:
    disk = FaultyDisk(tmp_path / "node")
    node = await make(disk=disk)
    await node.assign()
    await node.fence(1)
    log = Log()
    disk.broken = True
    writer = Writer(node)
    writer.send(log.commit()[0])
    await asyncio.gather(writer.task, return_exceptions=True)
    assert node.stopped
    assert writer.pipe.replies.empty()
    disk.broken = False  # the next fdatasync would lie
    again = Writer(node)
    again.send(log.commit()[0])
    await asyncio.gather(again.task, return_exceptions=True)
    assert again.pipe.replies.empty()
    assert (await node.status()).state.startswith("fenced")


async def test_the_stream_of_a_dead_caller_ends(node: Node) -> None:
    writer = Writer(node)
    writer.send(Log().commit()[0])
    await writer.ack()
    await writer.break_off()
    assert writer.task.done()
