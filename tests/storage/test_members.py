"""A segment and the members of its group: whom it serves, what it says, when one that joins is whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import UnknownSegment
from engine.net.methods import ASSIGN_SEGMENTS
from engine.net.pb import storage_pb2 as pb
from engine.types import Member, Membership
from engine.volume.fencing import membership_to_pb
from engine.volume.membership import back, begin, forward
from tests.storage.harness import MEMBERS, VOLUME, Group, Log, Node, Writer


async def told(
    node: Node, membership: Membership, *, create: bool = False, drop: bool = False
) -> pb.AssignSegmentsReply:
    request = pb.AssignSegmentsRequest()
    request.segments.add(
        volume=VOLUME,
        membership=membership_to_pb(membership),
        incarnation=node.state.incarnation,
        create=create,
        drop=drop,
    )
    reply: pb.AssignSegmentsReply = await node.call(ASSIGN_SEGMENTS, request)
    return reply


class Change:
    """Four of the six over gRPC, and a seventh that is to replace the one named last."""

    def __init__(self, group: Group, joiner: Node, address: str) -> None:
        self.group = group
        self.joiner = joiner
        self.before: Membership = group.nodes[0].segment().row.membership
        self.new = Member(joiner.name, "az1", address, joiner.state.incarnation)
        self.old = self.before.members[-1]
        self.during = begin(self.before, old=self.old, new=self.new)

    async def gossip(self, *others: int) -> None:
        for other in others:
            name = self.group.nodes[other].name
            await self.joiner.node.gossiper.round_with(name, self.joiner.peer(name))

    @property
    def whole(self) -> bool:
        return not self.joiner.segment().row.damaged


@pytest.fixture
async def change(group: Group, tmp_path: Path) -> AsyncIterator[Change]:
    joiner = await Node(tmp_path / "joiner", "storage-7", group.config).open()
    server = await joiner.state.runtime.transport.serve("127.0.0.1:0", joiner.node.handlers)
    yield Change(group, joiner, server.address)
    await server.stop(0)


async def begun(change: Change, *adopted: int) -> None:
    for index in adopted:
        await told(change.group.nodes[index], change.during)
    await told(change.joiner, change.during, create=True)
    await change.joiner.fence(1)


async def test_who_joins_is_whole_once_it_has_all_that_three_have(change: Change) -> None:
    log = Log()
    await change.group.append(*log.frames(5))
    await begun(change, 0, 1, 2)
    assert not change.whole
    await change.gossip(0, 1)
    assert change.joiner.segment().scl == log.last
    assert not change.whole, "two are no proof"
    await change.gossip(2)
    assert change.whole


async def test_who_still_serves_the_old_members_is_no_proof(change: Change) -> None:
    """It may acknowledge something under them after it was asked."""
    await change.group.append(*Log().frames(5))
    await begun(change, 0, 1)
    await change.gossip(0, 1, 2, 3)
    assert not change.whole
    await told(change.group.nodes[3], change.during)
    await change.gossip(3)
    assert change.whole


async def test_a_damaged_peer_is_no_proof(change: Change) -> None:
    await change.group.append(*Log().frames(3))
    await begun(change, 0, 1, 2)
    segment = change.group.nodes[2].segment()
    segment.row = replace(segment.row, damaged=True)
    await change.gossip(0, 1, 2)
    assert not change.whole


async def test_who_was_given_up_and_joins_again_begins_anew(change: Change) -> None:
    log = Log()
    await change.group.append(*log.frames(5))
    await begun(change, 0, 1, 2)
    await change.gossip(0, 1, 2)
    assert change.whole
    again = begin(back(change.during), old=change.old, new=change.new)
    await told(change.joiner, again)
    assert not change.whole, "it may have missed everything meanwhile"
    crashed = await change.joiner.crash_copy(change.joiner.folder.parent / "crashed")
    assert crashed.segment().row.membership == again
    assert crashed.segment().row.damaged
    await change.gossip(0, 1, 2)
    assert not change.whole, "they have not heard of the new change"


async def test_the_damage_of_joining_is_there_after_a_crash(change: Change) -> None:
    await begun(change, 0)
    crashed = await change.joiner.crash_copy(change.joiner.folder.parent / "crashed")
    assert crashed.segment().row.damaged
    report = await crashed.fence(2)
    assert report.segments[0].damaged, "its silence would be a denial"


async def test_redo_is_taken_under_the_segment_s_own_members_only(change: Change) -> None:
    node, log = change.group.nodes[0], Log()
    await told(node, change.during)
    ack = await node.append(log.commit([0])[0])
    assert ack.refusal == pb.REFUSAL_STALE_MEMBERSHIP
    writer = Writer(node)
    request = pb.AppendRequest(volume=VOLUME, epoch=1)
    request.pgs.add(pg=0, membership_epoch=2, frames=log.commit([1])[0])
    writer.pipe.requests.put_nowait(request)
    assert [(s.pg, s.membership_epoch) for s in (await writer.ack()).segments] == [(0, 2)]
    await writer.close()


async def test_a_greeting_is_answered_with_the_members_that_count_here(change: Change) -> None:
    node = change.group.nodes[0]
    assert [s.membership_epoch for s in (await node.append()).segments] == [1]
    await told(node, change.during)
    assert [s.membership_epoch for s in (await node.append()).segments] == [2]


async def test_older_members_are_refused_and_the_newer_ones_told(change: Change) -> None:
    node = change.group.nodes[0]
    await told(node, change.during)
    reply = await told(node, change.before)
    assert not reply.refused
    assert [m.epoch for m in reply.newer] == [2]
    assert node.segment().row.membership == change.during
    assert reply.newer[0].new.node == "storage-7"


async def test_who_is_replaced_drops_its_segment_and_nobody_else(change: Change) -> None:
    log = Log()
    node = change.group.nodes[0]
    await change.group.append(*log.frames(3))
    own = change.before.voter(node.name)
    assert own is not None
    after = forward(begin(change.before, old=own, new=change.new))
    await told(node, change.before, drop=True)
    await told(change.group.nodes[1], after, drop=True)
    assert node.segment().scl == change.group.nodes[1].segment().scl == log.last
    await told(node, after, drop=True)
    with pytest.raises(UnknownSegment):
        node.segment()
    again = await change.group.restart(0)
    assert list(again.state.segments()) == []


async def test_a_deleted_volume_leaves_nothing_not_even_in_the_next_life(change: Change) -> None:
    node = change.group.nodes[0]
    await node.fence(2)
    await node.truncate(2, (2, 0, 100))
    await told(node, Membership(0, 0, ()), drop=True)
    assert node.segment().scl == 0, "that was old news"
    deleted = Membership(0, 9, ())
    await told(node, deleted, drop=True)
    await told(node, deleted, drop=True)
    assert node.state.volumes == {}
    assert await node.state.store.truncations() == {}
    again = await change.group.restart(0)
    assert list(again.state.segments()) == []
    with pytest.raises(UnknownSegment):
        again.segment()


async def test_who_is_told_late_to_create_drops_it_when_told_again(change: Change) -> None:
    """The order of two messages is nobody's promise."""
    joiner = change.joiner
    deleted = Membership(0, 9, ())
    await told(joiner, deleted, drop=True)
    await told(joiner, change.during, create=True)
    assert joiner.segment().pg == 0
    await told(joiner, deleted, drop=True)
    assert joiner.state.volumes == {}


async def test_members_survive_a_crash(change: Change) -> None:
    node = change.group.nodes[0]
    await told(node, change.during)
    again = await change.group.restart(0)
    assert again.segment().row.membership == change.during
    assert again.segment().members_since == 2
    assert MEMBERS[0] == again.name
