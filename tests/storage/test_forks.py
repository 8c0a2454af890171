"""Clones' segments on one node: when they are made, what they read, what of others stays for them."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import replace

import pytest

from engine.errors import ProtocolError, SnapshotTooOld, UnknownSegment
from engine.net.methods import ASSIGN_SEGMENTS
from engine.net.pb import storage_pb2 as pb
from engine.storage.pagestore import SegmentRow
from engine.types import LAL, MAX_ANCESTRY, Ancestor, SegmentId
from tests.storage.clones import CLONE, SPAN, fork_of, fork_point, forked, shows
from tests.storage.harness import MEMBERS, VOLUME, GatedStore, Log, Node

Make = Callable[..., Awaitable[Node]]
LAST = 3
"""A clone of the clone."""


async def grown(node: Node, log: Log, count: int = 8) -> int:
    """`count` more commits, durable and known to be; the last one's LSN."""
    for frame in log.frames(count):
        await node.append(frame, volume=log.volume, epoch=log.epoch)
    await node.append(vdl=log.last, volume=log.volume, epoch=log.epoch)
    return log.last


async def clone(node: Node, log: Log, lsn: int, *, volume: int = CLONE) -> Log:
    """A clone of the node's segment, which its first writer has fenced; its log."""
    log = await forked(node, log, lsn, volume=volume)
    await node.fence(1, volume=volume)
    return log


async def chain(node: Node) -> dict[int, Log]:
    """A volume, its clone and that one's clone; all three have been written to since, and collected."""
    logs = {VOLUME: Log()}
    for parent, child in itertools.pairwise((VOLUME, CLONE, LAST)):
        await grown(node, logs[parent])
        logs[child] = await clone(node, logs[parent], logs[parent].last, volume=child)
    for log in logs.values():
        await grown(node, log, 2)
        await node.collect(vdl=log.last, volume=log.volume)
    return logs


async def refused(node: Node, fork: pb.Fork, *, members: tuple[str, ...] = MEMBERS) -> None:
    """The clone is not made, and nothing of it is there."""
    reply = await node.assign(volume=CLONE, fork=fork, members=dict.fromkeys(members, ("x:1", "y")))
    assert len(reply.refused) == 1
    assert CLONE not in node.state.volumes
    assert not node.versions(CLONE)
    rows = await node.state.store.segments()
    assert CLONE not in {row.id.volume for row in rows}


# -- what it reads


@pytest.mark.parametrize(
    "coalesced", ["not at all", "below", "above", "below and above", "to it", "later"]
)
async def test_a_clone_reads_its_parent_at_the_fork_whatever_becomes_of_that(
    node: Node, coalesced: str
) -> None:
    log = Log()
    await grown(node, log)
    if coalesced.startswith("below"):
        await node.coalesce()
    await grown(node, log)
    if coalesced == "to it":
        await node.coalesce()
    at = log.last
    if coalesced.endswith("above") or coalesced == "later":
        await grown(node, log)
    if coalesced.endswith("above"):
        await node.coalesce()
    made = await clone(node, log, at)
    assert bool(node.versions(CLONE)) == coalesced.endswith("above"), "it shares what it can"
    for _ in range(3):
        await shows(node, made, at)
        await grown(node, log)
        await node.collect(vdl=log.last)
    await shows(node, made, at)
    await shows(node, log, log.last)


async def test_both_go_their_own_ways_from_the_fork(node: Node) -> None:
    log = Log()
    made = await clone(node, log, await grown(node, log))
    for _ in range(3):
        await grown(node, log, 5)
        await grown(node, made, 3)
        await node.collect(vdl=log.last)
        await node.collect(vdl=made.last, volume=CLONE)
        await shows(node, log, log.last)
        await shows(node, made, made.last)


async def test_a_clone_s_older_read_points_show_what_it_was_then(node: Node) -> None:
    log = Log()
    made = await clone(node, log, await grown(node, log))
    for _ in range(4):
        await grown(node, made, 2)
        await node.coalesce(volume=CLONE)
    for lsn in made.commits:
        if lsn >= log.last:
            await shows(node, made, lsn)


async def test_nothing_below_the_fork_is_served(node: Node) -> None:
    log = Log()
    await grown(node, log)
    made = await clone(node, log, log.last)
    with pytest.raises(SnapshotTooOld):
        await shows(node, made, log.commits[2])


async def test_a_group_without_pages_is_cloned_too(node: Node) -> None:
    log = Log()
    await grown(node, log)
    made = await forked(node, log, log.last, pgs=(0, 1))
    await node.fence(1, volume=CLONE)
    assert node.segment(1, volume=CLONE).scl == 0
    await shows(node, made, log.last, pg=1)
    frame = made.commit([2560])[1]
    await node.append(frame, volume=CLONE, pg=1)
    await shows(node, made, made.last, pg=1)


async def test_recovery_finds_the_fork(node: Node) -> None:
    """So a clone's first writer goes on from there."""
    log = Log()
    at = await grown(node, log)
    await forked(node, log, at, pgs=(0, 1))
    first, second = (await node.fence(1, volume=CLONE)).segments
    assert (first.known_vdl, first.tail, first.scl) == (at, at, at)
    assert (second.known_vdl, second.tail, second.scl) == (at, 0, 0)
    for report in (first, second):
        assert [c.lsn for c in report.commits] == [at]
        assert not report.damaged
        assert not report.runs


async def test_of_a_chain_of_clones_each_reads_through_all_before_it(node: Node) -> None:
    logs = await chain(node)
    assert [a.volume for a in node.segment(volume=LAST).row.ancestry] == [CLONE, VOLUME]
    for log in logs.values():
        await shows(node, log, log.last)


async def test_an_ancestor_is_read_no_further_than_who_is_nearer(node: Node) -> None:
    """A clone forks from its parent's past: what the grandparent's clone got later is not its."""
    log = Log()
    at = await grown(node, log)
    await node.coalesce()
    await grown(node, log)
    await node.coalesce()
    await clone(node, log, log.last)
    row = replace(node.segment(volume=CLONE).row, id=SegmentId(LAST, 0), applied=at, floor=at)
    nearer = Ancestor(CLONE, at)
    await node.state.store.put_segments([replace(row, ancestry=(nearer, *row.ancestry))])
    await node.kill()
    again = await node.open()
    found = await again.read(SPAN, log.last, pg_lsn=at, epoch=0, volume=LAST)
    assert found == [log.page_at(page, at) for page in SPAN]


# -- deletions


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("order", list(itertools.permutations((VOLUME, CLONE, LAST))))
async def test_a_chain_is_deleted_in_any_order(
    node: Node, order: tuple[int, ...], restarted: bool
) -> None:
    logs = await chain(node)
    for volume in order:
        await node.drop(volume=volume)
        del logs[volume]
        if restarted:
            await node.kill()
            node = await node.open()
        for log in logs.values():
            await shows(node, log, log.last)
            await grown(node, log, 2)
            await node.collect(vdl=log.last, volume=log.volume)
            await shows(node, log, log.last)
    assert not await node.state.store.counts()


async def test_of_a_deleted_parent_only_what_is_read_stays(node: Node) -> None:
    log = Log()
    made = await clone(node, log, await grown(node, log))
    at = log.last
    await grown(node, log)
    await node.coalesce()
    await node.drop()
    kept = [(page, lsn) for page, lsn, _, _ in node.versions()]
    assert kept == [(page, log.page_at(page, at)[0]) for page in SPAN]
    await shows(node, made, at)


async def test_what_stayed_for_a_clone_goes_with_it(node: Node) -> None:
    log = Log()
    await clone(node, log, await grown(node, log))
    await grown(node, log, 30)
    await node.collect(vdl=log.last)
    assert len(node.versions()) > len(SPAN)
    await node.drop(volume=CLONE)
    assert [(page, lsn) for page, lsn, _, _ in node.versions()] == [
        (page, log.page_at(page, log.last)[0]) for page in SPAN
    ]
    await shows(node, log, log.last)


async def test_what_a_parent_has_got_since_stays_when_its_clone_goes(node: Node) -> None:
    log = Log()
    await clone(node, log, await grown(node, log))
    await grown(node, log)
    await node.collect(vdl=log.last)
    await grown(node, log)
    await node.coalesce()
    await node.drop(volume=CLONE)
    await shows(node, log, log.last)
    await node.collect(vdl=log.last)
    await shows(node, log, log.last)


async def test_a_read_under_which_the_segment_is_dropped_fails(node: Node) -> None:
    """It found no version, and would have taken that for a page that was never written."""
    log = Log()
    await clone(node, log, await grown(node, log))
    await node.drop()
    store = GatedStore(node.state.store)
    node.state.store = store
    store.hold("newest", lambda segment, *_: segment.volume == VOLUME)
    reading = asyncio.create_task(node.read(SPAN, log.last, volume=CLONE))
    await store.reached.wait()
    await node.drop(volume=CLONE)
    store.release()
    with pytest.raises(UnknownSegment):
        await reading


# -- when it is made


async def test_a_fork_point_says_what_this_node_has(node: Node) -> None:
    log = Log()
    at = await grown(node, log)
    await grown(node, log)
    first, second = await fork_point(node, at)
    assert (first.pg, first.tail, first.whole, first.floor) == (0, at, True, 0)
    assert (second.pg, second.tail, second.whole) == (1, 0, True)
    assert not await fork_point(node, at, volume=77)
    (beyond, _) = await fork_point(node, log.last + 1)
    assert (beyond.tail, beyond.whole) == (log.last, False), "its VDL does not vouch for that"
    await node.collect(vdl=log.last)
    (first, _) = await fork_point(node, at)
    assert (first.floor, first.whole) == (log.last, False), "the records below are forgotten"
    await forked(node, log, log.last)
    (first,) = await fork_point(node, log.last, volume=CLONE)
    assert [(a.volume, a.lsn) for a in first.ancestry] == [(VOLUME, log.last)]


async def test_a_segment_that_is_behind_waits(node: Node) -> None:
    log = Log()
    frames = log.frames(8)
    await node.append(*frames[:6], vdl=log.last)
    (first, _) = await fork_point(node, log.last)
    assert (first.tail, first.whole) == (log.commits[5], True)
    await refused(node, fork_of(log, log.last))
    await node.append(*frames[6:])
    made = await clone(node, log, log.last)
    await shows(node, made, log.last)


async def test_a_segment_that_is_damaged_waits(node: Node) -> None:
    log = Log()
    await grown(node, log)
    segment = node.segment()
    segment.row = replace(segment.row, damaged=True)
    (first, _) = await fork_point(node, log.last)
    assert not first.whole
    await refused(node, fork_of(log, log.last))
    segment.row = replace(segment.row, damaged=False)
    await clone(node, log, log.last)


async def test_a_segment_that_does_not_know_what_is_durable_waits(node: Node) -> None:
    """Nor does it know then which of its records a recovery has annulled."""
    log = Log()
    await node.append(*log.frames(8))
    (first, _) = await fork_point(node, log.last)
    assert not first.whole
    await refused(node, fork_of(log, log.last))
    await node.append(vdl=log.last)
    await clone(node, log, log.last)


async def test_annulled_records_are_no_part_of_a_clone(node: Node) -> None:
    """A node missed a recovery; what came after that recovery has passed the group by."""
    log = Log()
    at = await grown(node, log)
    await node.append(*log.frames(5))
    new = log.truncated(at, 2)
    lsn = new.commit([2560], whole=True)  # of group 1
    assert lsn
    (first, _) = await fork_point(node, new.last)
    assert (first.tail, first.whole) == (at, False)
    await refused(node, fork_of(new, new.last))
    await node.fence(2)
    await refused(node, fork_of(new, new.last))
    await forked(node, log, at, volume=LAST)  # up to here the recovery changes nothing
    await node.truncate(2, (2, at, at + LAL))
    await node.append(vdl=new.last, epoch=2)
    made = await clone(node, new, new.last)
    await shows(node, made, new.last)


async def test_what_is_collected_cannot_be_cloned(node: Node) -> None:
    log = Log()
    at = await grown(node, log)
    await grown(node, log)
    await node.collect(vdl=log.last)
    await refused(node, fork_of(log, at))
    await clone(node, log, log.last)


async def test_garbage_collection_while_a_clone_is_made_makes_no_wrong_one(node: Node) -> None:
    """A pass that had begun before goes on: there is no clone then. One that begins later spares it."""
    log = Log()
    at = await grown(node, log)
    await grown(node, log)
    await node.coalesce()
    store = GatedStore(node.state.store)
    node.state.store = store
    store.hold("newest")
    making = asyncio.create_task(refused(node, fork_of(log, at)))
    await store.reached.wait()
    node.state.volume(VOLUME).learn_points(pgmrpl=log.last)
    assert node.node.collector.bound(node.segment()) <= at, "pinned"
    pins, node.state.pins = node.state.pins, []
    await node.node.collector.collect()
    node.state.pins = pins
    store.release()
    await making


async def test_a_wrong_tail_is_refused(node: Node) -> None:
    log = Log()
    at = await grown(node, log)
    await grown(node, log)
    fork = fork_of(log, at)
    fork.tail = log.commits[2]
    await refused(node, fork)


async def test_a_fork_that_is_none_is_an_error(node: Node) -> None:
    log = Log()
    await grown(node, log)
    fork = fork_of(log, log.last)
    for wrong in (
        pb.Fork(commit=fork.commit, tail=fork.tail),
        pb.Fork(commit=fork.commit, tail=fork.tail + 1, ancestry=fork.ancestry),
        pb.Fork(commit=fork.commit, ancestry=[pb.Ancestor(volume=VOLUME, lsn=1)]),
        pb.Fork(commit=fork.commit, ancestry=[pb.Ancestor(volume=CLONE, lsn=log.last)]),
    ):
        with pytest.raises(ProtocolError):
            await node.assign(volume=CLONE, fork=wrong)


async def test_too_many_ancestors_are_refused(node: Node) -> None:
    log = Log()
    await grown(node, log)
    volumes = range(10, 10 + MAX_ANCESTRY)
    at = log.last
    for volume in volumes:
        log = await clone(node, log, at, volume=volume)
    assert len(node.segment(volume=volumes[-1]).row.ancestry) == MAX_ANCESTRY
    await shows(node, log, at)
    await refused(node, fork_of(log, at))


async def test_a_clone_is_made_once(node: Node) -> None:
    log = Log()
    at = await grown(node, log)
    made = await clone(node, log, at)
    await grown(node, made, 3)
    await forked(node, log, at)
    assert node.segment(volume=CLONE).scl == made.last
    await shows(node, made, made.last)


async def test_two_that_ask_at_once_get_one_clone(node: Node) -> None:
    log = Log()
    at = await grown(node, log)
    await node.coalesce()
    written = []
    real = node.state.store.put_segments

    async def put_segments(rows: Sequence[SegmentRow], *given: object) -> None:
        written.extend(rows)
        await real(rows, *given)

    node.state.store.put_segments = put_segments
    await asyncio.gather(forked(node, log, at), forked(node, log, at))
    assert [row.id for row in written] == [SegmentId(CLONE, 0)]


async def test_who_is_to_replace_a_member_inherits_nothing(node: Node) -> None:
    log = Log()
    await grown(node, log)
    own = node.state.incarnation
    membership = pb.PgMembership(pg=0, epoch=2)
    for name in MEMBERS:
        membership.members.add(node=name, az="az1", address="x:1", incarnation="old")
    membership.old.CopyFrom(membership.members[0])
    membership.new.CopyFrom(membership.members[0])
    membership.new.incarnation = own
    assignment = pb.SegmentAssignment(
        volume=CLONE,
        membership=membership,
        incarnation=own,
        create=True,
        fork=fork_of(log, log.last),
    )
    assert not await node.node.assign([assignment])
    row = node.segment(volume=CLONE).row
    assert (row.damaged, row.ancestry, row.applied) == (True, (), 0)


# -- crashes


@pytest.mark.parametrize("method", ["put_segments", "put_versions"])
async def test_a_crash_leaves_a_clone_absent_or_whole(node: Node, method: str) -> None:
    log = Log()
    at = await grown(node, log)
    if method == "put_versions":  # it has versions of its own
        await grown(node, log)
        await node.coalesce()
    store = GatedStore(node.state.store)
    node.state.store = store
    store.hold(method)
    making = asyncio.create_task(forked(node, log, at))
    await store.reached.wait()
    before = await node.crash_copy(node.folder.with_name("before"))
    assert CLONE not in before.state.volumes
    assert not before.versions(CLONE)
    await before.kill()
    store.release()
    made = await making
    after = await node.crash_copy(node.folder.with_name("after"))
    assert not after.segment(volume=CLONE).row.damaged
    await after.drop()
    await shows(after, made, at, epoch=0)


async def test_a_crash_leaves_a_deleted_parent_there_or_gone(node: Node) -> None:
    log = Log()
    at = await grown(node, log)
    made = await clone(node, log, at)
    await grown(node, log)
    await node.coalesce()
    store = GatedStore(node.state.store)
    node.state.store = store
    store.hold("drop_segment")
    dropping = asyncio.create_task(node.drop())
    await store.reached.wait()
    before = await node.crash_copy(node.folder.with_name("before"))
    await shows(before, log, log.last)
    await shows(before, made, at)
    await before.kill()
    store.release()
    await dropping
    after = await node.crash_copy(node.folder.with_name("after"))
    assert list(after.state.volume(VOLUME).segments) == [1]
    await shows(after, made, at)


async def test_a_clone_s_log_is_read_back_like_any_other(node: Node) -> None:
    log = Log()
    made = await clone(node, log, await grown(node, log))
    await grown(node, made)
    again = await node.crash_copy(node.folder.with_name("again"))
    segment = again.segment(volume=CLONE)
    assert (segment.scl, segment.row.damaged) == (made.last, False)
    assert segment.row.ancestry == (Ancestor(VOLUME, log.last),)
    for lsn in made.commits:
        if lsn >= log.last:
            await shows(again, made, lsn)


async def test_a_store_of_before_there_were_clones_is_brought_up_to_date(node: Node) -> None:
    log = Log()
    await grown(node, log)
    await node.collect(vdl=log.last)
    await node.close()
    with closing(sqlite3.connect(node.folder / "node.db")) as db, db:
        db.execute("ALTER TABLE segment DROP COLUMN ancestry")
        db.execute("UPDATE node SET format_version = 1")
    again = await node.open()
    await shows(again, log, log.last)
    made = await clone(again, log, log.last)
    await again.drop()
    await shows(again, made, log.last)
    await again.kill()
    again = await again.open()
    await shows(again, made, log.last)


# -- how much there is


async def test_a_clone_owns_what_it_has_changed(node: Node) -> None:
    log = Log()
    pages = list(range(40))
    await node.append(log.commit(pages, whole=True)[0])
    await node.append(vdl=log.last)
    made = await clone(node, log, log.last)
    assert await _pages(node) == {VOLUME: (40, 0), CLONE: (0, 40)}
    for round_ in range(3):
        frame = made.commit(pages[:4], whole=True)[0]
        await node.append(frame, volume=CLONE, vdl=made.last)
        await node.collect(vdl=made.last, volume=CLONE)
        assert await _pages(node) == {VOLUME: (40, 0), CLONE: (4, 36)}, round_
    assert len(node.versions(CLONE)) == 4
    await node.drop()
    assert await _pages(node) == {CLONE: (4, 36)}


async def _pages(node: Node) -> dict[int, tuple[int, int]]:
    """(own, shared) pages of each volume's group 0."""
    reply = await node.status()
    return {s.volume: (s.own_pages, s.shared_pages) for s in reply.segments if not s.pg}


async def test_reading_what_is_no_clone_asks_the_store_once(node: Node) -> None:
    log = Log()
    await grown(node, log)
    await node.collect(vdl=log.last)
    asked: list[SegmentId] = []
    real = node.state.store.newest

    async def newest(segment: SegmentId, *given: object) -> object:
        asked.append(segment)
        return await real(segment, *given)

    node.state.store.newest = newest
    await node.read([*SPAN, 100], log.last)
    assert asked == [SegmentId(VOLUME, 0)]
    made = await clone(node, log, log.last)
    asked.clear()
    await node.read(SPAN, made.last, volume=CLONE)
    assert asked == [SegmentId(CLONE, 0), SegmentId(VOLUME, 0)]


async def test_segments_that_are_asked_for_together_are_one_transaction(node: Node) -> None:
    """One of four is refused, one is asked for twice; the rest is made with one write."""
    log = Log()
    at = await grown(node, log)
    await node.coalesce()
    await node.assign(pgs=(1, 2))
    request = pb.AssignSegmentsRequest()
    for pg in (0, 1, 9, 1):  # nobody has group 9 of the parent
        membership = pb.PgMembership(pg=pg, epoch=1)
        for name in MEMBERS:
            own = node.state.incarnation if name == node.name else "elsewhere"
            membership.members.add(node=name, az="az1", address="127.0.0.1:1", incarnation=own)
        request.segments.add(
            volume=CLONE,
            membership=membership,
            incarnation=node.state.incarnation,
            create=True,
            fork=fork_of(log, at, pg=pg),
        )
    writes: list[list[int]] = []

    def looked_at(rows: Sequence[SegmentRow], *_: object) -> bool:
        writes.append([row.id.pg for row in rows])
        return False

    store = GatedStore(node.state.store)
    node.state.store = store
    store.hold("put_segments", looked_at)
    reply = await node.call(ASSIGN_SEGMENTS, request)
    assert [refused.membership.pg for refused in reply.refused] == [9]
    assert writes == [[0, 1]]
    assert sorted(node.state.volumes[CLONE].segments) == [0, 1]
    await node.fence(1, volume=CLONE)
    await shows(node, log.cloned(at, CLONE), at)
