"""What rots in pages that clones inherit, and clones' segments that cannot inherit: got from others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import Corrupt, NotComplete, SnapshotTooOld
from engine.net.pb import storage_pb2 as pb
from tests.storage.clones import CLONE, SPAN, fork_of, forked_in, shows
from tests.storage.harness import VOLUME, GatedStore, Group, Log, Node


@pytest.fixture
async def six(tmp_path: Path) -> AsyncIterator[Group]:
    group = await Group(tmp_path, count=6).start()
    yield group
    await group.stop()


async def grown(group: Group, log: Log, count: int = 8) -> int:
    """`count` more commits of `log`'s volume on all nodes; the last one's LSN."""
    for frame in log.frames(count):
        await group.append(frame, volume=log.volume)
    await group.append(vdl=log.last, volume=log.volume)
    return log.last


async def cloned(group: Group) -> tuple[Log, Log]:
    """A volume that has gone on since, in pages, and its clone that has not been written to."""
    log = Log()
    at = await grown(group, log, 12)
    clone = await forked_in(group, log, at)
    await grown(group, log, 12)
    for node in group.nodes:
        await node.collect(vdl=log.last)
    return log, clone


def rot(node: Node, page: int, lsn: int, *, volume: int = VOLUME) -> None:
    """One bit of a page version."""
    (image,) = [v[3] for v in node.versions(volume) if v[:2] == (page, lsn)]
    at = random.Random(page).randrange(len(image))
    rotten = image[:at] + bytes((image[at] ^ 0x10,)) + image[at + 1 :]
    node.write_version(page, lsn, rotten, volume=volume)


async def test_rot_in_an_inherited_version_is_repaired_by_the_read_that_meets_it(
    group: Group,
) -> None:
    log, clone = await cloned(group)
    node = group.nodes[0]
    before = node.versions()
    for page in SPAN:
        rot(node, page, clone.page_at(page, clone.last)[0])
    await shows(node, clone, clone.last)
    assert node.versions() == before, (
        "each stands where it stood, for the parent's other clones too"
    )
    assert not node.versions(CLONE)
    await shows(node, log, log.last)


async def test_the_scrubber_repairs_what_only_a_clone_needs(group: Group) -> None:
    """The parent's peers cannot help: they serve nothing from before their floors."""
    _, clone = await cloned(group)
    node = group.nodes[0]
    before = node.versions()
    for page in SPAN:
        rot(node, page, clone.page_at(page, clone.last)[0])
    await node.scrub()
    assert node.versions() == before


async def test_orphans_are_scrubbed_through_the_clone_s_peers(group: Group) -> None:
    _, clone = await cloned(group)
    for node in group.nodes:
        await node.drop()
    node = group.nodes[0]
    before = node.versions()
    assert before
    for page in SPAN:
        rot(node, page, clone.page_at(page, clone.last)[0])
    await node.scrub()
    assert node.versions() == before
    counters = (await node.status()).counters
    assert counters["scrub_found"] == counters["scrub_repaired"] == len(SPAN)


async def test_a_parent_repairs_its_page_and_leaves_what_a_clone_needs(group: Group) -> None:
    """One version serves both until the parent's floor passes at its peers, and then not the same any
    more: what the parent gets in its place is younger than the fork."""
    log = Log()
    at = await grown(group, log, 12)
    for node in group.nodes:
        await node.collect(vdl=at)
    clone = await forked_in(group, log, at)
    await grown(group, log, 12)
    node = group.nodes[0]
    for peer in group.nodes[1:]:
        await peer.collect(vdl=log.last)
    await node.coalesce()
    before = node.versions()
    for page in SPAN:
        rot(node, page, log.page_at(page, at)[0])
    await node.read(SPAN, at)
    await node.scrub()
    assert node.versions() == before
    await shows(node, clone, at)
    await node.collect(vdl=log.last)
    await shows(node, clone, at)
    await shows(node, log, log.last)


@pytest.mark.parametrize("alone", [False, True])
async def test_a_repair_overtaken_by_garbage_collection_spares_a_clone_s_page(
    group: Group, alone: bool
) -> None:
    """A read of the parent found the rot, below a floor by now; its peers know the page of later only.
    The clone's can help, if it has any; if not, better rot that is seen than a page that lacks changes."""
    log = Log()
    at = await grown(group, log, 12)
    for node in group.nodes:
        await node.collect(vdl=at)
    clone = await forked_in(group, log, at)
    await grown(group, log, 30)
    node = group.nodes[0]
    await node.coalesce()
    before = {v[:2]: v for v in node.versions()}
    rot(node, 0, log.page_at(0, at)[0])
    store = GatedStore(node.state.store)
    node.state.store = store
    store.hold("newest", lambda _segment, _pages, upto: upto == at)
    reading = asyncio.create_task(node.read(SPAN, at))
    await store.reached.wait()
    for each in group.nodes:
        await each.collect(vdl=log.last)
        if alone and each is not node:
            await each.drop(volume=CLONE)
    store.release()
    with pytest.raises(Corrupt if alone else SnapshotTooOld):
        await reading
    if alone:
        with pytest.raises(Corrupt):
            await shows(node, clone, at)
    else:
        assert before.items() <= {v[:2]: v for v in node.versions()}.items()
        await shows(node, clone, at)
    await shows(node, log, log.last)


async def test_rot_that_nobody_can_read_any_more_is_let_be(group: Group) -> None:
    """The clone has changed the page, and serves nothing from before."""
    _, clone = await cloned(group)
    await group.append(clone.commit([0], whole=True)[0], volume=CLONE)
    node = group.nodes[0]
    for other in group.nodes:
        await other.collect(vdl=clone.last, volume=CLONE)
    rot(node, 0, clone.page_at(0, clone.commits[-2])[0])
    await node.scrub()
    assert (await node.status()).counters["scrub_found"] == 0
    await shows(node, clone, clone.last)


async def test_rot_in_all_copies_of_an_inherited_page_is_an_error(group: Group) -> None:
    _, clone = await cloned(group)
    lsn = clone.page_at(3, clone.last)[0]
    for node in group.nodes:
        rot(node, 3, lsn)
    with pytest.raises(Corrupt, match=f"page 3 at LSN {lsn} of volume {VOLUME}"):
        await group.nodes[0].read([3], clone.last, volume=CLONE)
    await group.nodes[0].scrub()


async def test_a_page_copy_of_a_clone_has_what_it_inherits(group: Group) -> None:
    """A node that was away until the clone's log was gone."""
    _, clone = await cloned(group)
    away, others = group.nodes[0], group.nodes[1:]
    for frame in clone.frames(3, span=3):
        for node in others:
            await node.append(frame, volume=CLONE)
    for node in others:
        await node.collect(vdl=clone.last, volume=CLONE)
        node.segment(volume=CLONE).hot_from = node.segment(volume=CLONE).applied
        node.segment(volume=CLONE).frames.clear()
    await away.node.gossiper.round_with(others[0].name, away.peer(others[0].name))
    assert away.state.counters["segments_copied"] == 1
    assert {page for page, _, _, _ in away.versions(CLONE)} == set(SPAN)
    await shows(away, clone, clone.last)


async def _made(node: Node, group: Group, fork: pb.Fork) -> bool:
    reply = await node.assign(volume=CLONE, fork=fork, members=group.members)
    return not reply.refused


@pytest.mark.parametrize("cause", ["deleted", "collected"])
async def test_who_cannot_inherit_copies_once_a_write_quorum_can_give(
    six: Group, cause: str
) -> None:
    log = Log()
    at = await grown(six, log, 12)
    late, others = six.nodes[0], six.nodes[1:]
    if cause == "deleted":
        await late.drop()
    else:
        await late.append(log.commit([0])[0])
        await late.collect(vdl=log.last)
    fork = fork_of(log, at)
    for node in others[:3]:
        assert await _made(node, six, fork)
        assert not await _made(late, six, fork)
        assert CLONE not in late.state.volumes
    assert await _made(others[3], six, fork)
    segment = others[3].segment(volume=CLONE)
    segment.row = replace(segment.row, damaged=True)
    assert not await _made(late, six, fork)
    segment.row = replace(segment.row, damaged=False)
    assert await _made(late, six, fork)
    assert await _made(others[4], six, fork)
    row = late.segment(volume=CLONE).row
    assert (row.damaged, row.ancestry, row.known_vdl) == (True, (), at)
    for node in six.nodes:
        await node.fence(1, volume=CLONE)
    clone = log.cloned(at, CLONE)
    with pytest.raises(NotComplete):
        await shows(late, clone, at)
    for other in others[:3]:
        await late.node.gossiper.round_with(
            other.name, late.state.peers(late.segment(volume=CLONE))[other.name]
        )
    assert not late.segment(volume=CLONE).row.damaged
    await shows(late, clone, at)
    crashed = await late.crash_copy(late.folder.with_name("crashed"))
    await shows(crashed, clone, at)


async def test_a_parent_that_comes_back_to_a_node_finds_its_orphans_true(six: Group) -> None:
    """Its group was kept by others for a while, and a clone's pages have stayed."""
    log, clone = await cloned(six)
    node, peer = six.nodes[0], six.nodes[1]
    await node.drop()
    await node.assign(members=six.members)
    await node.fence(1)
    await node.node.gossiper.round_with(peer.name, node.peer(peer.name))
    await shows(node, log, log.last)
    await shows(node, clone, clone.last)
    await grown(six, log)
    await node.collect(vdl=log.last)
    await shows(node, log, log.last)
    await shows(node, clone, clone.last)
