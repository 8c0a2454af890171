"""Segments fill one another's gaps, and copy pages where the log no longer reaches back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import Unavailable
from engine.storage.gossip import CALM_ROUNDS
from engine.types import LAL
from tests.storage.harness import QUIET, VOLUME, GatedStore, Group, Log, Node
from tests.support.until import until

SPAN = range(6)


@pytest.fixture
async def short(tmp_path: Path) -> AsyncIterator[Group]:
    """Four nodes whose log files are small, so that garbage collection deletes some."""
    config = replace(QUIET, wal_file_bytes=600, chunk_bytes=64 * 1024)
    group = await Group(tmp_path, count=4, config=config).start()
    yield group
    await group.stop()


async def check(node: Node, log: Log, *, since: int = 0) -> None:
    for lsn in [c for c in log.commits if c >= since]:
        assert await node.read(SPAN, lsn, pg_lsn=log.tail(lsn), epoch=log.epoch) == [
            log.page_at(page, lsn) for page in SPAN
        ], lsn


@pytest.mark.parametrize("seed", range(4))
async def test_gossip_fills_every_gap(group: Group, seed: int) -> None:
    rng, log = random.Random(seed), Log(seed)
    for frame in log.frames(20):
        for node in rng.sample(group.nodes, rng.randint(1, 4)):
            await node.append(frame)
    await group.append(log.commit([0])[0])
    for _ in range(20):  # one gap a round
        for index in range(4):
            await group.gossip(index, *(other for other in range(4) if other != index))
    for node in group.nodes:
        assert node.segment().scl == log.last
        assert node.segment().chain.pending == 0
        await check(node, log)
    again = await group.restart(rng.randrange(4))
    assert again.segment().scl == log.last


async def test_a_patient_round_leaves_alone_what_is_on_its_way(group: Group) -> None:
    log = Log()
    frames = log.frames(4)
    ahead, behind = group.nodes[:2]
    await ahead.append(*frames[:2])
    name = ahead.name
    gossiper = behind.node.gossiper
    await gossiper.round_with(name, behind.peer(name), patient=True)
    assert behind.segment().scl == 0
    await ahead.append(*frames[2:])
    await gossiper.round_with(name, behind.peer(name), patient=True)
    assert behind.segment().scl == log.last, "it was missing a whole round ago"


async def test_gossip_in_the_background_fills_gaps(tmp_path: Path) -> None:
    config = replace(QUIET, gossip_s=0.02, gossip_hurry_s=0.01)
    group = await Group(tmp_path, count=3, config=config).start()
    for node in group.nodes:
        node.node.start()
    log = Log()
    frames = log.frames(9)
    for n, frame in enumerate(frames):
        await group.nodes[n % 3].append(frame)
    await until(lambda: all(node.segment().scl == log.last for node in group.nodes))
    await group.stop()


async def test_gossip_that_rests_wakes_up_for_redo(tmp_path: Path) -> None:
    config = replace(QUIET, gossip_s=0.02, gossip_hurry_s=0.01, gossip_calm_times=100_000)
    group = await Group(tmp_path, count=3, config=config).start()
    behind = group.nodes[0]
    behind.node.start()
    log = Log()
    frames = log.frames(3)
    await group.append(frames[0])
    gossiper = behind.node.gossiper
    await until(lambda: gossiper._calm >= CALM_ROUNDS)
    for node in group.nodes[1:]:
        await node.append(*frames[1:])
    await behind.append(frames[2])  # so that it has a gap
    await until(lambda: behind.segment().scl == log.last)
    await group.stop()


async def test_a_peer_that_is_ahead_or_silent_leaves_no_rest(group: Group) -> None:
    log = Log()
    frames = log.frames(2)
    behind, ahead = group.nodes[:2]
    await group.append(frames[0])
    gossiper, peer = behind.node.gossiper, behind.peer(ahead.name)
    for _ in range(CALM_ROUNDS + 1):
        await gossiper.round_with(ahead.name, peer, patient=True)
    assert gossiper._calm == CALM_ROUNDS
    await ahead.append(frames[1])
    await gossiper.round_with(ahead.name, peer, patient=True)
    assert gossiper._calm == 0
    await gossiper.round_with(ahead.name, peer, patient=True)
    assert behind.segment().scl == log.last
    for _ in range(CALM_ROUNDS):
        await gossiper.round_with(ahead.name, peer, patient=True)
    assert gossiper._calm > 1
    with pytest.raises(Unavailable):
        await gossiper.round_with(ahead.name, Silent(), patient=True)  # type: ignore[arg-type]
    assert gossiper._calm == 0


class Silent:
    """A channel to nobody."""

    async def call(self, _method: object, _request: object, *, timeout: float) -> object:
        raise Unavailable("nobody is there")


async def old_log_gone(group: Group) -> Log:
    """Node 0 has only the beginning; the others have everything, but not its log any more."""
    log = Log()
    frames = log.frames(40)
    await group.append(*frames[:3])
    for node in group.nodes[1:]:
        for frame in frames[3:30]:
            await node.append(frame)
        await node.collect(vdl=log.commits[29])
        assert node.segment().hot_from > log.commits[2]
        for frame in frames[30:]:
            await node.append(frame)
    return log


async def test_a_segment_behind_the_hot_log_copies_pages(short: Group) -> None:
    log = await old_log_gone(short)
    node = short.nodes[0]
    await short.gossip(0, 1)
    assert node.state.counters["segments_copied"] == 1
    assert node.segment().scl == log.last
    assert node.segment().applied == node.segment().floor == log.commits[29]
    await check(node, log, since=log.commits[29])
    (report,) = (await node.fence(1)).segments
    assert report.known_vdl == log.commits[29], "what a page copy holds is durable"
    assert log.commits[29] in [c.lsn for c in report.commits]
    again = await short.restart(0)
    assert again.segment().scl == log.last
    assert not again.segment().row.damaged
    await check(again, log, since=log.commits[29])


async def test_a_copy_that_breaks_off_leaves_nothing_wrong_behind(short: Group) -> None:
    log = await old_log_gone(short)
    node = short.nodes[0]
    store = GatedStore(node.state.store)
    node.state.store = store
    store.hold("put_versions")
    copying = asyncio.create_task(short.gossip(0, 1))
    await store.reached.wait()
    await short.servers[1].stop(0)
    store.release()
    await asyncio.gather(copying, return_exceptions=True)
    reached = node.segment().scl
    assert reached in (log.commits[2], log.commits[29])
    await check(node, readable_upto(log, reached))
    again = await short.restart(0)
    assert not again.segment().row.damaged
    await short.gossip(0, 2)
    assert again.segment().scl == log.last
    await check(again, log, since=log.commits[29])


def readable_upto(log: Log, lsn: int) -> Log:
    if lsn == log.commits[2]:
        return log.truncated(lsn, log.epoch)
    only = log.truncated(lsn, log.epoch)
    only.commits = [lsn]
    return only


async def test_a_copy_while_the_writer_goes_on(short: Group) -> None:
    """Redo, coalescing and garbage collection at both ends, while pages are under way."""
    log = await old_log_gone(short)
    node, source = short.nodes[:2]
    store = GatedStore(source.state.store)
    source.state.store = store
    store.hold("newest", lambda _segment, _pages, upto: upto == log.commits[29])
    copying = asyncio.create_task(short.gossip(0, 1))
    await store.reached.wait()
    for frame in log.frames(10):
        await short.append(frame)
    for other in short.nodes[1:3]:
        await other.collect(vdl=log.commits[-1])
    assert source.segment().floor == log.commits[29], "the copy's point is pinned meanwhile"
    assert short.nodes[2].segment().floor == log.commits[-1]
    store.release()
    await copying
    assert node.segment().scl == log.last, "redo that came meanwhile is joined to the copy"
    await check(node, log, since=node.segment().floor)
    assert not source.state.pins
    again = await short.restart(0)
    assert again.segment().scl == log.last
    await check(again, log, since=again.segment().floor)


async def test_a_copy_overtakes_a_coalescing_run(short: Group) -> None:
    """What the slower of the two writes last must not take the segment back."""
    log = await old_log_gone(short)
    node = short.nodes[0]
    store = GatedStore(node.state.store)
    node.state.store = store
    node.state.volume(VOLUME).learn_points(vdl=log.commits[2])
    store.hold("put_versions", lambda _segment, _versions, row=None: row is not None)
    coalescing = asyncio.create_task(node.coalesce())
    await store.reached.wait()
    copying = asyncio.create_task(short.gossip(0, 1))
    await until(lambda: node.segment().applied == log.commits[29])
    store.release()
    await asyncio.gather(coalescing, copying)
    assert node.segment().applied == log.commits[29]
    again = await short.restart(0)
    assert again.segment().applied == log.commits[29]
    assert again.segment().scl == log.last
    assert not again.segment().row.damaged


async def test_log_files_go_only_once_a_copy_is_durable(short: Group) -> None:
    """Garbage collection of the past ends while a page copy is being noted."""
    log = await old_log_gone(short)
    node = short.nodes[0]
    for frame in log.frames(6):
        await node.append(frame)  # ahead of the gap, in files that are closed by now
    store = GatedStore(node.state.store)
    node.state.store = store
    node.state.volume(VOLUME).learn_points(vdl=log.commits[2], pgmrpl=log.commits[2])
    await node.coalesce()
    files = len(node.state.wal.files)
    store.hold("drop_superseded")
    collecting = asyncio.create_task(node.node.collector.collect())
    await store.reached.wait()
    copying = asyncio.create_task(short.gossip(0, 1))
    await until(lambda: node.segment().applied == log.commits[29])
    real = store._store.put_segments
    noted = asyncio.Event()

    async def later(*given: object) -> None:
        await noted.wait()
        await real(*given)

    store._store.put_segments = later
    store.release()
    await collecting
    durable = {row.id: row.floor for row in await store.segments()}
    assert node.segment().collected_to <= durable[node.segment().row.id]
    assert len(node.state.wal.files) <= files
    noted.set()
    await copying
    assert node.segment().collected_to == log.commits[29]


async def test_a_vdl_is_not_believed_without_the_truncation_it_grew_under(group: Group) -> None:
    """A node missed a recovery, and the next one has fenced it and died. Its annulled records lie
    below its peers' VDL and must not become pages."""
    behind, peer = group.nodes[:2]
    log = Log()
    kept = log.frames(3)
    await behind.append(*kept, vdl=log.last)
    await peer.append(*kept, vdl=log.last)
    vdl = log.last
    await behind.append(*log.frames(4))  # in flight when the writer died; no quorum has them
    await peer.fence(2)
    await peer.truncate(2, (2, vdl, vdl + LAL))
    new = log.truncated(vdl, 2)
    await peer.append(*new.frames(5), epoch=2)
    await peer.append(vdl=new.last, epoch=2)
    await behind.fence(3)
    await peer.fence(3)
    await group.gossip(0, 1)
    await group.gossip(1, 0)
    await behind.coalesce()
    assert behind.segment().applied <= vdl
    assert (await behind.fence(3)).segments[0].tail <= vdl, "recovery asks for no annulled record"
    ranges = [(2, vdl, vdl + LAL), (3, new.last, new.last + LAL)]
    for node in (behind, peer):
        await node.truncate(3, *ranges)
    await group.gossip(0, 1)
    final = new.truncated(new.last, 3)
    assert behind.segment().scl == final.tail(new.last)
    await check(behind, final, since=vdl)
    await behind.coalesce()
    await check(behind, final, since=behind.segment().applied)


async def test_no_page_copy_across_a_recovery_that_is_not_known_here(short: Group) -> None:
    """As above, where the peer's log is gone too: its pages vouch for a VDL."""
    behind, peer = short.nodes[:2]
    log = Log()
    kept = log.frames(3)
    await behind.append(*kept, vdl=log.last)
    await peer.append(*kept, vdl=log.last)
    vdl = log.last
    await behind.append(*log.frames(4))
    await peer.fence(2)
    await peer.truncate(2, (2, vdl, vdl + LAL))
    new = log.truncated(vdl, 2)
    for frame in new.frames(20):
        await peer.append(frame, epoch=2)
    await peer.collect(vdl=new.last)
    behind.segment().row = replace(behind.segment().row, damaged=True)
    await behind.fence(3)
    await peer.fence(3)
    assert peer.segment().hot_from > behind.segment().scl
    await short.gossip(0, 1)
    assert behind.state.volume(VOLUME).points.vdl == vdl
    assert behind.state.counters["segments_copied"] == 0
    for node in (behind, peer):
        await node.truncate(3, (2, vdl, vdl + LAL), (3, new.last, new.last + LAL))
    await short.gossip(0, 1)
    final = new.truncated(new.last, 3)
    assert behind.segment().scl == new.last
    await check(behind, final, since=new.last)


async def test_what_a_peer_taught_counts_only_once_it_is_on_disk(group: Group) -> None:
    """No redo of an epoch is acked, and no VDL of it believed, whose truncation a crash could forget."""
    behind, peer = group.nodes[:2]
    log = Log()
    kept = log.frames(3)
    for node in (behind, peer):
        await node.append(*kept, vdl=log.last)
    vdl = log.last
    await peer.fence(2)
    await peer.truncate(2, (2, vdl, vdl + LAL))
    new = log.truncated(vdl, 2)
    frames = new.frames(2)
    await peer.append(*frames, epoch=2)
    await peer.append(epoch=2, vdl=new.last)
    store = GatedStore(behind.state.store)
    behind.state.store = store
    store.hold("put_segments")
    learning = asyncio.create_task(group.gossip(0, 1))
    await store.reached.wait()
    refused = await behind.append(*frames, epoch=2, vdl=new.last)
    assert refused.refusal
    second = asyncio.create_task(group.gossip(0, 1))
    await until(lambda: behind.state.counters["gossip_rounds"] == 2)
    await asyncio.wait([second], timeout=0.2)
    assert behind.state.volume(VOLUME).points.vdl == vdl
    store.release()
    await asyncio.gather(learning, second)
    assert (await behind.append(epoch=2, vdl=new.last)).refusal == 0
    await group.gossip(0, 1)
    assert behind.segment().scl == new.last
