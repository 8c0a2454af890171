"""Fences and truncations against everything that may be under way when they come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import BehindEpoch, ProtocolError, StaleEpoch
from engine.log.frame import (
    decode_frame,
    split_frames,
    trim_frame,
)
from engine.log.header import read_header
from engine.net.pb import storage_pb2 as pb
from engine.storage.state import STALE
from engine.types import LAL
from tests.storage.harness import (
    QUIET,
    VOLUME,
    FaultyDisk,
    GatedStore,
    Group,
    Log,
    Node,
    Writer,
    as_before,
    joined,
)
from tests.support.until import until

Make = Callable[..., Awaitable[Node]]
SPAN = range(6)


async def check(node: Node, log: Log, *, since: int = 0) -> None:
    for lsn in [c for c in log.commits if c >= since]:
        found = await node.read(SPAN, lsn, pg_lsn=log.tail(lsn), epoch=log.epoch)
        assert found == [log.page_at(page, lsn) for page in SPAN], lsn


async def test_a_frame_that_comes_while_a_fence_is_written_is_refused(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    frames = log.frames(4)
    await node.append(*frames[:2])
    before = node.wal_bytes()
    store = GatedStore(node.state.store)
    node.state.store = store
    store.hold("put_segments")
    fencing = asyncio.create_task(node.fence(2))
    await store.reached.wait()
    ack = await node.append(*frames[2:])
    assert ack.refusal == pb.REFUSAL_STALE_EPOCH
    store.release()
    (report,) = (await fencing).segments
    assert report.scl == log.commits[1]
    assert node.wal_bytes()[: len(before)] == before
    assert frames[2][read_header(frames[2]).size :] not in node.wal_bytes()


async def test_what_a_fence_reports_is_durable_when_it_is_answered(
    make: Make, tmp_path: Path
) -> None:
    """The frame got in before the fence, and its fdatasync is still under way."""
    disk = FaultyDisk(tmp_path / "node")
    node = await make(disk=disk)
    await node.assign()
    await node.fence(1)
    log = Log()
    frames = log.frames(2)
    await node.append(frames[0])
    writer = Writer(node)
    disk.gate.clear()
    writer.send(frames[1])
    await disk.syncing.wait()
    fencing = asyncio.create_task(node.fence(2))
    await until(lambda: node.state.volume(VOLUME).epoch == 2)
    done, _ = await asyncio.wait([fencing], timeout=0.2)
    assert not done, "it reports what a crash could still take back"
    disk.gate.set()
    (report,) = (await fencing).segments
    assert report.scl == log.last
    assert (await writer.ack()).refusal == pb.REFUSAL_STALE_EPOCH, "it is no ack any more"
    await writer.close()


async def test_what_is_refused_of_an_older_epoch_is_counted_apart(
    make: Make, tmp_path: Path
) -> None:
    disk = FaultyDisk(tmp_path / "node")
    node = await make(disk=disk)
    await node.assign()
    await node.fence(1)
    frames = Log().frames(3)
    writer = Writer(node)
    disk.gate.clear()
    writer.send(frames[0])
    await disk.syncing.wait()
    fencing = asyncio.create_task(node.fence(2))
    await until(lambda: node.state.volume(VOLUME).epoch == 2)
    disk.gate.set()
    await fencing
    assert (await writer.ack()).refusal == pb.REFUSAL_STALE_EPOCH, "taken in, and no ack any more"
    for refused in ((frames[1],), (frames[2],), ()):
        writer.send(*refused)
        assert (await writer.ack()).refusal == pb.REFUSAL_STALE_EPOCH
    await writer.close()
    with pytest.raises(StaleEpoch):
        await node.fence(1)
    with pytest.raises(StaleEpoch):
        await node.truncate(1, (1, 0, LAL))
    counted = (await node.status()).counters
    kinds = {what: counted[f"refused_stale_{what}"] for what in STALE}
    assert kinds == {"redo": 2, "ack": 1, "greeting": 1, "fence": 2}
    assert counted["refused_stale_epoch"] == sum(kinds.values())


async def test_a_fence_that_is_overtaken_is_refused(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    store = GatedStore(node.state.store)
    node.state.store = store
    store.hold("put_segments")
    first = asyncio.create_task(node.fence(2))
    await store.reached.wait()
    second = asyncio.create_task(node.fence(3))
    await until(lambda: node.state.volume(VOLUME).epoch == 3)
    store.release()
    with pytest.raises(StaleEpoch):
        await first
    await second
    with pytest.raises(StaleEpoch):
        await node.truncate(2, (2, 0, LAL))
    await node.kill()
    assert (await make()).state.volume(VOLUME).epoch == 3


async def test_a_segment_made_during_a_fence_is_fenced_too(make: Make) -> None:
    node = await make()
    await node.assign(pgs=(0,))
    await node.fence(1)
    store = GatedStore(node.state.store)
    node.state.store = store
    store.hold("put_segments")
    making = asyncio.create_task(node.assign(pgs=(1,)))
    await store.reached.wait()
    fencing = asyncio.create_task(node.fence(2))
    await until(lambda: node.state.volume(VOLUME).epoch == 2)
    store.release()
    await asyncio.gather(making, fencing)
    await node.kill()
    again = await make()
    assert {row.id.pg: row.epoch for row in await again.state.store.segments()} == {0: 2, 1: 2}


async def test_fence_and_truncation_may_come_twice(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    await node.append(*log.frames(5))
    vdl = log.commits[2]
    first = await node.fence(2)
    assert await node.fence(2) == first
    for _ in range(3):
        (ack,) = (await node.truncate(2, (2, vdl, vdl + LAL))).segments
        assert ack.scl == log.tail(vdl)
    new = log.truncated(vdl, 2)
    await node.append(*new.frames(3), epoch=2)
    (ack,) = (await node.truncate(2, (2, vdl, vdl + LAL))).segments
    assert ack.scl == new.last, "the new epoch's records are not its business"
    await check(node, new)


@pytest.mark.parametrize("form", [bytes, as_before], ids=["now", "before"])
async def test_a_truncation_cuts_a_frame_in_the_middle(
    make: Make, form: Callable[[bytes], bytes]
) -> None:
    """Two MTRs shared a frame. Index, chain, peers and a restart see its first part only."""
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    first = log.commit([0, 1])[0]
    middle = log.last
    second = log.commit([1, 2])[0]
    both = form(joined(first, second))
    await node.append(both)
    assert node.segment().scl == log.last
    await node.fence(2)
    await node.truncate(2, (2, middle, middle + LAL))
    new = log.truncated(middle, 2)
    assert node.segment().scl == middle
    await check(node, new)
    assert await node.fetched(epoch=2) == trim_frame(both, middle) == first
    frames = new.frames(3)
    assert (await node.append(both, *frames, epoch=2)).segments[0].scl == new.last
    await check(node, new)
    await node.kill()
    again = await make()
    assert again.segment().scl == new.last
    await check(again, new)
    assert (await again.fetched(epoch=2)).startswith(first)
    told = [r for _, f in split_frames(await again.fetched(epoch=2)) for r in decode_frame(f)]
    assert [r.lsn for r in told] == new.pg_records[0]


async def test_a_late_frame_is_trimmed_as_those_were_that_came_in_time(make: Make) -> None:
    early, late = await make("early"), await make("late")
    log = Log()
    first = log.commit([0, 1])[0]
    middle = log.last
    both = joined(first, log.commit([1, 2])[0])
    for node in (early, late):
        await node.assign()
        await node.fence(1)
    await early.append(both)
    for node in (early, late):
        await node.fence(2)
        await node.truncate(2, (2, middle, middle + LAL))
    await late.append(both, epoch=2)
    assert late.segment().scl == early.segment().scl == middle
    assert await late.fetched(epoch=2) == await early.fetched(epoch=2) == first, "equal bytes"


async def test_a_frame_behind_a_gap_that_a_truncation_annuls_never_counts(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    frames = log.frames(6)
    await node.append(*frames[:2], *frames[3:])
    vdl = log.commits[1]
    await node.fence(2)
    await node.truncate(2, (2, vdl, vdl + LAL))
    assert node.segment().chain.pending == 0
    new = log.truncated(vdl, 2)
    assert (await node.append(frames[2], epoch=2)).segments[0].scl == vdl
    assert (await node.append(*new.frames(2), epoch=2)).segments[0].scl == new.last
    await check(node, new)


async def test_a_void_truncation_is_taken_back(make: Make) -> None:
    """The recovery that made it died, and the next one found those records durable elsewhere."""
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    await node.append(*log.frames(6))
    await node.fence(2)
    await node.truncate(2, (2, log.commits[1], log.commits[1] + LAL))
    assert node.segment().scl == log.commits[1]
    await node.kill()
    node = await make()
    assert node.segment().scl == log.commits[1], "a restart does not bring them back by itself"
    assert not node.segment().row.damaged, "what was annulled is not missed"
    await node.fence(3)
    with pytest.raises(BehindEpoch):
        await node.read([0], log.last, epoch=3)
    (ack,) = (await node.truncate(3, (3, log.last, log.last + LAL))).segments
    assert ack.scl == log.last
    assert not node.segment().row.damaged
    new = log.truncated(log.last, 3)
    await check(node, new)
    await node.append(*new.frames(4), epoch=3, vdl=new.commits[-1])
    await node.coalesce()
    await check(node, new, since=node.segment().floor)
    await node.kill()
    await check(await make(), new, since=node.segment().floor)


async def test_a_void_truncation_cut_a_frame_that_is_whole_again(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    first = log.commit([0, 1])[0]
    middle = log.last
    both = joined(first, log.commit([1, 2])[0])
    await node.append(both)
    await node.fence(2)
    await node.truncate(2, (2, middle, middle + LAL))
    await node.fence(3)
    await node.truncate(3, (3, log.last, log.last + LAL))
    await check(node, log.truncated(log.last, 3))
    assert await node.fetched(epoch=3) == both


async def test_a_void_truncation_that_trimmed_what_came_late_is_healed_by_peers(
    group: Group,
) -> None:
    """The trimmed frame is all that this node ever wrote; the rest comes from others."""
    node, peer = group.nodes[:2]
    log = Log()
    first = log.commit([0, 1])[0]
    middle = log.last
    both = joined(first, log.commit([1, 2])[0])
    await peer.append(both)
    await node.fence(2)
    await node.truncate(2, (2, middle, middle + LAL))
    await node.append(both, epoch=2)
    assert node.segment().scl == middle
    for each in (node, peer):
        await each.fence(3)
        await each.truncate(3, (3, log.last, log.last + LAL))
    assert node.segment().scl == middle
    await group.gossip(0, 1)
    assert node.segment().scl == log.last
    new = log.truncated(log.last, 3)
    await check(node, new)
    again = await group.restart(0)
    assert again.segment().scl == log.last
    await check(again, new)


async def test_a_truncation_of_what_is_known_to_be_durable_is_refused(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    await node.append(*log.frames(5))
    await node.append(vdl=log.commits[3])
    await node.fence(2)
    with pytest.raises(ProtocolError, match="durable"):
        await node.truncate(2, (2, log.commits[1], log.commits[1] + LAL))
    await node.truncate(2, (2, log.commits[3], log.commits[3] + LAL))
    await check(node, log.truncated(log.commits[3], 2))


@pytest.mark.parametrize(
    "ranges",
    [
        [],
        [(1, 5, 50)],
        [(3, 5, 50)],
        [(2, 5, 5)],
        [(2, 9, 5)],
        [(2, 0, 1 << 63)],
        [(1 << 63, 0, 5)],
    ],
    ids=["none", "older", "newer", "empty", "negative", "huge", "huge epoch"],
)
async def test_a_list_that_cannot_be_the_epochs_is_refused(
    make: Make, ranges: list[tuple[int, int, int]]
) -> None:
    node = await make()
    await node.assign()
    await node.fence(2)
    with pytest.raises(ProtocolError):
        await node.truncate(2, *ranges)
    assert not node.state.volume(VOLUME).settled


async def test_a_truncation_without_its_fence_is_refused(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    with pytest.raises(BehindEpoch):
        await node.truncate(2, (2, 0, LAL))


async def test_a_read_that_waits_while_a_recovery_comes_is_not_answered(make: Make) -> None:
    node = await make()
    await node.assign()
    await node.fence(1)
    log = Log()
    await node.append(*log.frames(6), vdl=0)
    vdl = log.commits[2]
    await node.append(vdl=vdl)
    await node.coalesce()
    # Without its index entries a read has to ask the page store.
    await node.collect(vdl=vdl)
    await node.append(log.commit([0])[0])
    store = GatedStore(node.state.store)
    node.state.store = store
    store.hold("newest")
    reading = asyncio.create_task(node.read(SPAN, log.last, pg_lsn=log.last))
    await store.reached.wait()
    await node.fence(2)
    await node.truncate(2, (2, vdl, vdl + LAL))
    store.release()
    with pytest.raises(StaleEpoch):
        await reading


async def test_coalescing_during_a_recovery_writes_nothing_annulled(make: Make) -> None:
    node = await make(config=replace(QUIET, coalesce_pages_per_batch=1))
    await node.assign()
    await node.fence(1)
    log = Log()
    await node.append(*log.frames(8))
    vdl = log.commits[4]
    await node.append(vdl=vdl)
    store = GatedStore(node.state.store)
    node.state.store = store
    store.hold("put_versions")
    coalescing = asyncio.create_task(node.coalesce())
    await store.reached.wait()
    await node.fence(2)
    await node.truncate(2, (2, vdl, vdl + LAL))
    new = log.truncated(vdl, 2)
    await node.append(*new.frames(3), epoch=2)
    store.release()
    await coalescing
    assert node.segment().applied == log.tail(vdl)
    await check(node, new)
    assert all(lsn <= vdl for _, lsn, _, _ in node.versions())
    await node.kill()
    again = await make()
    assert again.state.volume(VOLUME).epoch == 2, "the row that coalescing wrote is no older one"
    assert again.segment().scl == new.last
    await check(again, new)
