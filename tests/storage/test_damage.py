"""Damage of what was durable is not a torn tail: the segment says so until it has everything back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from engine.errors import Corrupt, SnapshotTooOld
from engine.types import LAL
from tests.storage.harness import MEMBERS, QUIET, Group, Log, Node, flip, rot_frame

Make = Callable[..., Awaitable[Node]]


@pytest.mark.parametrize("header", [False, True], ids=["body", "header"])
async def test_rot_in_the_middle_marks_the_segment_durably(make: Make, header: bool) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    frames = log.frames(6)
    for frame in frames:
        await node.append(frame)
    await node.kill()
    rotten = rot_frame(node, frames[2], header=header)

    damaged = await make()
    assert damaged.segment().row.damaged
    assert damaged.segment().scl == log.commits[1]
    assert [row.damaged for row in await damaged.state.store.segments()] == [True], "durably"
    (report,) = (await damaged.fence(1)).segments
    assert report.damaged, "its silence about the lost records must not count"
    told = {lsn for run in report.runs for lsn in range(run.first, run.last + 1)}
    assert told == {*range(1, log.last + 1)} - {*range(log.commits[1] + 1, log.commits[2] + 1)}
    await damaged.kill()
    flip(*rotten)  # the disk gives the right bytes again
    assert (await make()).segment().row.damaged, "what a start has found no later one forgets"


async def test_rot_in_the_newest_frame_is_damage_once_a_mark_covers_it(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    frames = Log().frames(3)
    await node.append(*frames)
    await node.kill()
    rot_frame(node, frames[2])
    damaged = await make()
    assert damaged.segment().row.damaged
    assert damaged.state.wal.counters["torn_tail_cuts"] == 0


@asynccontextmanager
async def rotten_in(folder: Path, count: int) -> AsyncIterator[Group]:
    """Six members that have the redo 1..4 of pages 3 to 6, and were restarted with record 3 rotten in the
    first `count` of them."""
    group = await Group(folder, count=6).start()
    try:
        log = Log()
        frames = [log.commit([3 + n])[0] for n in range(4)]
        await group.append(*frames)
        for number in range(6):
            rot = partial(rot_frame, frame=frames[2]) if number < count else None
            await group.restart(number, rot)
        yield group
    finally:
        await group.stop()


async def test_redo_that_is_lost_in_all_copies_is_named_by_lsn_and_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with rotten_in(tmp_path, 6) as group:
        assert "redo 3..3 of group 0 of volume 1 (page 5)" in caplog.text
        node = group.nodes[0]
        await group.gossip(0, 1, 2, 3, 4)
        assert (await node.status()).state == "up", "the one that is left may have it"
        await group.gossip(0, 5)
        assert (await node.status()).state == "lost redo 3..3 of group 0 (page 5)"
        await group.gossip(0, 5)
        told = [r.getMessage() for r in caplog.records if r.levelname == "CRITICAL"]
        assert len(told) == 1, "once"
        assert told[0].startswith("redo 3..3 of group 0 (page 5) has rotted away here")
        assert node.segment().scl == 2, "what is rotten is not taken in"


async def test_redo_that_a_peer_has_is_not_called_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with rotten_in(tmp_path, 5) as group:
        await group.gossip(0, 1, 2, 3, 4, 5)
        assert group.nodes[0].segment().scl == 4
        assert (await group.nodes[0].status()).state == "up"
        assert not [r for r in caplog.records if r.levelname == "CRITICAL"]


async def test_lost_redo_whose_header_is_rotten_too_is_named_by_where_it_begins(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    frames = Log().frames(4)
    await node.append(*frames)
    await node.kill()
    rot_frame(node, frames[3], header=True)
    rotten = await make()
    rotten.segment().no_help.update(dict.fromkeys(MEMBERS, True))
    after = rotten.segment().scl
    assert (await rotten.status()).state == f"lost redo from {after + 1} on of group 0"


async def test_damage_of_one_group_is_not_blamed_on_another(make: Make) -> None:
    node = await make()
    await node.assign(pgs=(0, 1))
    await node.fence(1)
    log = Log()
    for _ in range(4):
        frames = log.commit([0, 2560])
        await node.append(frames[0])
        await node.append(frames[1], pg=1)
    await node.kill()
    rot_frame(node, frames[1])
    again = await make()
    assert not again.segment(0).row.damaged
    assert again.segment(1).row.damaged


async def test_damage_right_behind_damage_is_not_hidden_by_it(make: Make) -> None:
    """Group 0's frame says where it ends; behind it group 1's does not even say what it is."""
    node = await make()
    await node.assign(pgs=(0, 1))
    await node.fence(1)
    log = Log()
    for _ in range(4):
        frames = log.commit([0, 2560])
        await node.append(frames[0])
        await node.append(frames[1], pg=1)
    await node.kill()
    rot_frame(node, frames[0])
    rot_frame(node, frames[1], header=True)
    again = await make()
    assert again.segment(0).row.damaged
    assert again.segment(1).row.damaged


async def test_rot_of_what_stands_as_pages_loses_no_commit_but_old_read_points(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    frames = log.frames(6)
    await node.append(*frames[:4], vdl=log.commits[3])
    await node.coalesce()
    await node.append(*frames[4:])
    await node.kill()
    rot_frame(node, frames[1])
    again = await make()
    assert not again.segment().row.damaged, "the page versions have it"
    assert again.segment().scl == log.last
    assert again.segment().floor == log.commits[3], "a read below would miss the record"
    for lsn in log.commits[3:]:
        assert await again.read(range(6), lsn) == [log.page_at(page, lsn) for page in range(6)]


async def test_a_lost_log_is_damage(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    await node.append(*Log().frames(3))
    await node.kill()
    node.wal_path().unlink()
    again = await make()
    assert again.segment().row.damaged
    assert again.segment().scl == 0


async def test_a_log_cut_short_below_what_the_row_knows_is_damage(make: Make) -> None:
    """A disk that lied: frames and their marks are gone as if they had never been written."""
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    frames = log.frames(4)
    await node.append(*frames[:2])
    size = node.wal_path().stat().st_size
    await node.append(*frames[2:])
    await node.close()  # the row knows how far the log reached
    with node.wal_path().open("r+b") as file:
        file.truncate(size)
    again = await make()
    assert again.segment().row.damaged
    assert again.segment().scl == log.commits[1]


async def test_a_damaged_segment_is_whole_again_when_three_peers_have_no_more(
    group: Group,
) -> None:
    log = Log()
    frames = log.frames(8)
    for frame in frames:
        await group.append(frame)
    node = await group.restart(0, lambda old: rot_frame(old, frames[3]))
    assert node.segment().row.damaged
    await group.gossip(0, 1)
    assert node.segment().scl == log.last, "one peer is enough to fill the gap"
    await node.hear()
    await group.gossip(0, 2, 1, 2)
    assert node.segment().row.damaged, "two peers may both lack what was acked here"
    await group.gossip(0, 3)
    assert not node.segment().row.damaged
    assert (await node.status()).counters["segments_made_whole"] == 1
    again = await group.restart(0)
    # The rot is still in the file, but the frame is in the log again behind it.
    assert not again.segment().row.damaged
    assert again.segment().scl == log.last
    assert await again.read(range(6), log.last) == [log.page_at(p, log.last) for p in range(6)]


async def test_a_damaged_segment_stays_so_until_the_writer_has_heard_what_it_has(
    group: Group,
) -> None:
    """Found by the simulator (seed 506): the writer counted what had been acknowledged and was lost,
    together with what others acknowledged only after they had been compared with."""
    log = Log()
    frames = log.frames(8)
    for frame in frames[:-1]:
        await group.append(frame)
    await group.nodes[0].append(frames[-1])  # on its way to everybody else
    node = await group.restart(0, lambda old: rot_frame(old, frames[-1]))
    assert node.segment().row.damaged
    await group.gossip(0, 1, 2, 3)
    assert node.segment().row.damaged, "they do not have it yet, and the writer counts it"
    await node.append()  # a greeting: its answer is on the way
    await group.gossip(0, 1, 2, 3)
    assert node.segment().row.damaged
    await node.hear()
    assert node.segment().row.damaged, "who was asked before proves nothing"
    await group.gossip(0, 1, 2)
    assert node.segment().row.damaged
    await group.gossip(0, 3)
    assert not node.segment().row.damaged


async def test_a_fence_of_another_recovery_is_as_good_as_hearing(group: Group) -> None:
    log = Log()
    frames = log.frames(4)
    for frame in frames:
        await group.append(frame)
    node = await group.restart(0, lambda old: rot_frame(old, frames[1]))
    for each in group.nodes[:5]:
        await each.fence(2)
        await each.truncate(2, (2, log.last, log.last + LAL))
    await group.gossip(0, 1, 2, 3)
    assert not node.segment().row.damaged
    again = await group.restart(0, lambda old: rot_frame(old, frames[1]))
    assert again.segment().row.damaged
    await again.fence(2)  # the same recovery's, which may go by what an earlier life answered
    await group.gossip(0, 1, 2, 3)
    assert again.segment().row.damaged


async def test_a_damaged_peer_proves_nothing(group: Group) -> None:
    frames = Log().frames(5)
    for frame in frames:
        await group.append(frame)
    node = await group.restart(0, lambda old: rot_frame(old, frames[1]))
    await group.restart(1, lambda old: rot_frame(old, frames[1]))
    for each in group.nodes[:2]:
        await each.hear()
    await group.gossip(0, 2, 3, 1)
    assert node.segment().row.damaged
    await group.gossip(1, 2, 3)
    assert group.nodes[1].segment().row.damaged
    assert group.nodes[1].segment().scl == node.segment().scl


async def test_damaged_segments_heal_while_a_recovery_is_stopped_because_of_them(
    group: Group,
) -> None:
    log = Log()
    frames = log.frames(5)
    for frame in frames:
        await group.append(frame)
    node = await group.restart(0, lambda old: rot_frame(old, frames[2]))
    for each in group.nodes:
        await each.fence(2)  # and then RecoveryBlocked: nobody truncates
    await group.gossip(0, 1, 2, 3)
    assert not node.segment().row.damaged
    (report,) = (await node.fence(3)).segments
    assert (report.scl, report.damaged) == (log.last, False)


async def test_rot_met_when_a_void_truncation_is_taken_back_marks_the_segment(make: Make) -> None:
    node = await make(config=replace(QUIET, frame_cache_bytes=0))
    await node.assign()
    await node.fence(1)
    log = Log()
    frames = log.frames(6)
    for frame in frames:
        await node.append(frame)
    await node.fence(2)
    await node.truncate(2, (2, log.commits[1], log.commits[1] + LAL))  # and this recovery dies
    assert node.segment().scl == log.commits[1]
    rot_frame(node, frames[3])
    reply = await node.fence(3)
    assert not reply.segments[0].damaged
    await node.truncate(3, (3, log.last, log.last + LAL))  # its recovery found all of it durable
    assert node.segment().scl == log.commits[2]
    assert node.segment().row.damaged
    (report,) = (await node.fence(4)).segments
    assert report.damaged
    await node.kill()
    assert (await make()).segment().row.damaged


async def test_a_restart_that_finds_the_page_store_damaged_says_so(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.close()
    path = node.folder / "node.db"
    data = bytearray(path.read_bytes())
    data[:100] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"node\.db"):
        await Node(node.folder).open()


async def test_a_log_that_ends_below_the_pages_builds_no_page_over_the_hole(make: Make) -> None:
    """Found by the simulator: a disk that lied lost redo which stands as page versions already. A page
    was then built anew from an older full image and what follows it, without the records in between."""
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    await node.append(log.commit([0], whole=True)[0])
    await node.append(log.commit([0])[0])
    end = sum(path.stat().st_size for path in node.folder.glob("wal/*.wal"))
    await node.append(log.commit([0])[0], vdl=log.last)
    await node.append(vdl=log.last)
    await node.coalesce()
    assert node.segment().applied == log.last
    await node.kill()
    (file,) = node.folder.glob("wal/*.wal")
    with file.open("r+b") as wal:
        wal.truncate(end)

    again = await make()
    lost = log.last
    await again.append(log.commit([0])[0])
    assert await again.read([0], log.last) == [log.page_at(0, log.last)]
    with pytest.raises(SnapshotTooOld):
        await again.read([0], lost - 1)
