"""Clones: a segment that begins where another volume's stands, and copies nothing (copy-on-write).

A volume C forks from a volume P at a commit F of P. On each node C's segment of a group begins at the
group's tail T, its last LSN at or below F, with P's page versions on the same node for its own until it
writes others: that is its *ancestry*, ((P, F), *P's own ancestry). From F on the two have nothing to do
with one another: each has its own LSNs, epochs, members and log.

Invariants
- A forked segment reads exactly what P's read at F. So it is made only where P's segment is complete up
  to T, has lost nothing, knows a VDL at or above F and with it every recovery that F came after (redo
  that one of those annulled would lie below F, too), and has collected nothing that F needs. A recovery
  that is under way does not matter: it annuls nothing below a VDL.
- The ancestry is what P's segment on *this* node has: another node's may have been copied from a peer
  since and have none.
- What of P's state at F is no page version yet becomes one before C's row is there: P is coalesced to
  T exactly, or, where it has been coalesced past F, C gets versions of its own. So a clone pins nothing
  of P's log, and its parent may be deleted the moment after.
- The row and those versions are one transaction: after a crash the segment is absent or whole. Segments
  that need no versions of their own share one.
- From then on `engine.storage.ancestry` says what is needed of P. Garbage collection asks it under the
  same lock (`NodeState.rows`) under which the row is written; before that F is pinned.
- A node that has no segment of P (wiped, moved, P is deleted) or has collected what F needs (it was away
  while the clone was made) cannot inherit, now or later. There C's begins empty and *damaged*: its
  silence denies nothing, and gossip copies the pages from C's others. But only once a write quorum of
  others have it whole: so whoever is told that four nodes have made it knows that four have all of it.
- Who is to replace a member of C's group inherits nothing either, whatever it is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from engine.errors import Corrupt, ProtocolError, SextetError
from engine.net.methods import GOSSIP
from engine.net.pb import storage_pb2 as pb
from engine.steps import Step
from engine.storage.ancestry import inherit
from engine.storage.coalesce import Coalescer
from engine.storage.creating import Newborn, create_segments
from engine.storage.pagestore import PageVersion, SegmentRow
from engine.storage.reading import page_images
from engine.storage.segment import Segment
from engine.storage.state import NodeState, check_numbers
from engine.storage.volume import Volume
from engine.types import (
    LSN,
    MAX_ANCESTRY,
    NUMBER_LIMIT,
    Ancestor,
    CommitMark,
    Member,
    Membership,
    SegmentId,
    VolumeId,
)
from engine.volume.fencing import commit_from_pb, commit_to_pb
from engine.volume.quorum import write_quorum

log = logging.getLogger(__name__)

_ASKED_S = 1.0
"""How long other members are waited for when they are asked whether they have a segment."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a clone's group begins: at `tail`, the group's last LSN at or below `commit` of `parent`."""

    parent: VolumeId
    commit: CommitMark
    tail: LSN


def fork_from_pb(message: pb.Fork) -> Fork:
    """Raises ProtocolError. What it says of further ancestors is each node's own business."""
    if not message.ancestry:
        raise ProtocolError("a fork without a parent")
    parent, commit = message.ancestry[0], message.commit
    numbers = {"parent": parent.volume, "LSN": commit.lsn, "time": commit.time_us}
    check_numbers("fork", {**numbers, "pages": commit.pages})
    if parent.lsn != commit.lsn or message.tail > commit.lsn:
        raise ProtocolError(f"a fork at {commit.lsn} of {parent.lsn} with the tail {message.tail}")
    return Fork(parent.volume, commit_from_pb(commit), message.tail)


async def fork_point(state: NodeState, request: pb.ForkPointRequest) -> pb.ForkPointReply:
    """What this node could contribute to a clone at that LSN; nothing of a volume that it does not keep."""
    at = {"at LSN": request.at_lsn, "at time": request.at_time_us}
    check_numbers("fork point", {"volume": request.volume, "LSN": request.lsn, **at})
    reply = pb.ForkPointReply(node=state.name)
    volume = state.volumes.get(request.volume)
    for segment in volume.segments.values() if volume is not None else ():
        assert volume is not None
        known = min(request.lsn, segment.points.vdl)
        proves = known == request.lsn >= segment.floor and not segment.row.damaged
        reply.groups.add(
            pg=segment.pg,
            tail=min(segment.tail_at(known), known),
            whole=proves,  # below the floor nobody knows any more where the records were
            floor=segment.floor,
            ancestry=[pb.Ancestor(volume=a.volume, lsn=a.lsn) for a in segment.row.ancestry],
        )
        commits = segment.commits_within(segment.floor, known)
        if commits:
            reply.groups[-1].oldest.CopyFrom(commit_to_pb(commits[0]))
        upto, by = request.at_lsn or NUMBER_LIMIT, request.at_time_us or NUMBER_LIMIT
        # A clock may have been set back, so times need not grow: the last in the log's order counts.
        admitted = (c for c in reversed(commits) if c.lsn <= upto and c.time_us <= by)
        if (newest := next(admitted, None)) is not None:
            reply.groups[-1].commit.CopyFrom(commit_to_pb(newest))
    return reply


@dataclass(frozen=True, slots=True)
class Wanted:
    """A clone's segment that this node is to make."""

    volume: VolumeId
    membership: Membership
    fork: Fork


class _Cannot(Exception):
    """This node cannot make the segment, yet or any more."""


async def create_forks(
    state: NodeState, coalescer: Coalescer, wanted: Sequence[Wanted]
) -> list[bool]:
    """Make clones' segments, durably; False of one that this node cannot make: the log says why.

    Raises DiskFull, ProtocolError for a volume that is to be its own parent.
    """
    reasons: dict[int, str] = {}
    newborn: dict[int, Newborn] = {}
    with ExitStack() as pins:
        for number, one in enumerate(wanted):
            try:
                newborn[number] = await _prepared(state, coalescer, one, pins)
            except _Cannot as error:
                reasons[number] = str(error)
        made = await create_segments(state, list(newborn.values()), step=Step.FORK)
        reasons |= dict(zip(newborn, made, strict=True))
    for number, reason in reasons.items():
        if reason:
            one = wanted[number]
            log.info(
                "no clone of volume %d, group %d here: %s",
                one.fork.parent,
                one.membership.pg,
                reason,
            )
    return [not reasons[number] for number in range(len(wanted))]


async def _prepared(
    state: NodeState, coalescer: Coalescer, wanted: Wanted, pins: ExitStack
) -> Newborn:
    """What is to be written of it; the pins hold what it needs of its parent. Raises _Cannot."""
    fork = wanted.fork
    if fork.parent == wanted.volume:
        raise ProtocolError(f"volume {wanted.volume} cannot be its own clone")
    row = SegmentRow(
        SegmentId(wanted.volume, wanted.membership.pg),
        state.incarnation,
        wanted.membership,
        known_vdl=fork.commit.lsn,
        commit=fork.commit,
    )
    parents = state.volumes.get(fork.parent)
    parent = parents.segments.get(wanted.membership.pg) if parents is not None else None
    if parents is None or parent is None:
        return await _copied(state, row, "its parent is not here")
    if parent.floor > fork.commit.lsn:
        return await _copied(state, row, f"nothing below {parent.floor} is kept any more")
    return await _inheriting(state, coalescer, parents, parent, row, fork, pins)


async def _copied(state: NodeState, row: SegmentRow, cause: str) -> Newborn:
    """An empty segment, to be filled by others. Raises _Cannot."""
    if not write_quorum(row.membership).satisfied(await _who_has_it(state, row)):
        raise _Cannot(f"{cause}, and no write quorum of others has the clone whole")
    log.warning("group %d of volume %d is copied from others: %s", row.id.pg, row.id.volume, cause)
    return Newborn(replace(row, damaged=True))


async def _who_has_it(state: NodeState, row: SegmentRow) -> list[str]:
    """Members that have the segment and miss nothing of it, of those that answer soon."""
    key = row.id
    request = pb.GossipRequest(
        node=state.name, segments=[pb.GossipSegment(volume=key.volume, pg=key.pg)]
    )

    async def has_it(member: Member) -> bool:
        try:
            channel = state.channels.to(member.address)
            reply = await channel.call(GOSSIP, request, timeout=_ASKED_S)
        except SextetError:
            return False
        return any(
            (said.volume, said.pg) == (key.volume, key.pg) and not said.damaged
            for said in reply.segments
        )

    others = [m for m in row.membership.voters if m.node != state.name]
    answers = await asyncio.gather(*(has_it(member) for member in others))
    return [member.node for member, has in zip(others, answers, strict=True) if has]


async def _inheriting(
    state: NodeState,
    coalescer: Coalescer,
    parents: Volume,
    parent: Segment,
    row: SegmentRow,
    fork: Fork,
    pins: ExitStack,
) -> Newborn:
    """A segment over its parent's. Raises _Cannot."""

    def why_not() -> str:
        return _why_not(parent, fork)

    if reason := why_not():
        raise _Cannot(reason)
    row = replace(
        row,
        applied=fork.tail,
        scl=fork.tail,
        floor=fork.tail,
        ancestry=(Ancestor(parents.id, fork.commit.lsn), *parent.row.ancestry),
    )
    pins.enter_context(state.pinned(parent, fork.commit.lsn))
    try:
        if parent.applied < fork.tail:
            await coalescer.coalesce(parents, parent, limit=fork.tail)
        return Newborn(row, await _not_shared(state, parent, row.id, fork), why_not)
    except Corrupt as error:
        raise _Cannot(str(error)) from error


def _why_not(parent: Segment, fork: Fork) -> str:
    """Why a clone cannot begin at this segment now; "" if it can."""
    lsn = fork.commit.lsn
    if parent.dropped:
        return "the segment is being dropped"
    if parent.row.damaged:
        return "the segment has lost something and is being repaired"
    if parent.points.vdl < lsn:
        return f"it is known to be durable up to {parent.points.vdl} only, not to {lsn}"
    if parent.floor > lsn:
        return f"nothing below {parent.floor} is kept any more"
    if parent.tail_at(lsn) != fork.tail:
        return f"its records reach {parent.tail_at(lsn)} up to there, not {fork.tail}"
    if len(parent.row.ancestry) >= MAX_ANCESTRY:
        return f"it has {len(parent.row.ancestry)} ancestors already"
    return ""


async def _not_shared(
    state: NodeState, parent: Segment, own: SegmentId, fork: Fork
) -> list[PageVersion]:
    """The clone's own versions of what its parent was at the fork and has no page version of."""
    if parent.applied == fork.tail:
        return []  # every page has a version as of it
    lsn = fork.commit.lsn
    pages = parent.changed_pages(lsn)
    step = state.config.coalesce_pages_per_batch
    versions: list[PageVersion] = []
    for start in range(0, len(pages), step):
        some = pages[start : start + step]
        newest = {page: r[-1].lsn for page in some if (r := parent.records_upto(page, lsn))}
        there = await state.store.newest(parent.row.id, some, lsn)
        await inherit(state, parent, there, some, lsn)
        lacking = [p for p in newest if p not in there or there[p].lsn < newest[p]]
        images = await page_images(state, parent, lacking, lsn)
        versions += [
            PageVersion.make(own.volume, page, at, image)
            for page, (at, image) in zip(lacking, images, strict=True)
            if at
        ]
    return versions
