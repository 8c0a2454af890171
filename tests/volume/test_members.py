"""An open writer, and a recovery, while a group changes its members: over six real storage nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest

from engine.errors import SextetError, Unavailable
from engine.net.methods import APPEND
from engine.net.pb import storage_pb2 as pb
from engine.types import Member, Membership
from engine.volume.fencing import membership_to_pb
from engine.volume.membership import back, begin, forward
from tests.support.fleet import NODES, VOLUME, Fleet, OpenedWriter
from tests.support.until import until
from tests.volume.test_volume_over_storage import Model, check

FIVE = [name for name in NODES if name != "storage-6"]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path)
    await fleet.start()
    yield fleet
    await fleet.stop()


async def tell(fleet: Fleet, membership: Membership, names: Iterable[str]) -> None:
    """What the control plane does: have these nodes take the membership over."""
    for name in names:
        voter = membership.voter(name)
        assert voter is not None
        assignment = pb.SegmentAssignment(
            volume=VOLUME,
            membership=membership_to_pb(membership),
            incarnation=voter.incarnation,
            create=True,
        )
        assert not await fleet.node(name).assign([assignment])


async def wiped(fleet: Fleet) -> Membership:
    """storage-6 has another disk, which is to replace the lost one; nobody has been told yet."""
    await fleet.wipe("storage-6")
    await fleet.start("storage-6")
    (before,) = fleet.memberships
    old = before.voter("storage-6")
    assert old is not None
    new = Member(old.node, old.az, old.address, fleet.node("storage-6").state.incarnation)
    return begin(before, old=old, new=new)


def is_whole(fleet: Fleet) -> bool:
    segments = [segment for _, segment in fleet.node("storage-6").state.segments()]
    return bool(segments) and not any(segment.row.damaged for segment in segments)


async def test_an_open_writer_learns_the_members_from_segments_and_goes_on(fleet: Fleet) -> None:
    writer = await fleet.open_writer()
    model = Model()
    for _ in range(5):
        await model.commit(writer)
    during = await wiped(fleet)
    await tell(fleet, during, NODES)
    for _ in range(5):
        await model.commit(writer)
    assert writer.volume.memberships[0] == during
    await until(lambda: is_whole(fleet))
    after = forward(during)
    await tell(fleet, after, ["storage-1", "storage-6"])
    for _ in range(5):
        await model.commit(writer)
    assert writer.volume.memberships[0] == after

    def told() -> bool:
        every = [s.row.membership for name in NODES for _, s in fleet.node(name).state.segments()]
        return every == [after] * 6

    await until(told)  # by the writer: nobody else has told four of them
    await fleet.stop("storage-1", "storage-2")  # now four are enough, the new one among them
    await model.commit(writer)
    await check(writer, model.pages)
    await writer.close()


async def test_a_new_disk_does_not_count_while_it_copies(fleet: Fleet) -> None:
    writer = await fleet.open_writer()
    model = Model()
    await model.commit(writer)
    during = await wiped(fleet)
    await fleet.stop("storage-1", "storage-2")
    writer.volume.learn([during])
    await tell(fleet, during, ["storage-3", "storage-4", "storage-5", "storage-6"])
    commit = asyncio.create_task(model.commit(writer))
    await until(lambda: is_whole(fleet))
    await until(lambda: writer.volume.scls(0)["storage-6"] >= 1)
    assert not commit.done(), "three members and who joins are no quorum"
    assert writer.volume.quorums(0) == (False, True)
    writer.volume.learn([forward(during)])
    await commit
    await writer.close()


async def test_a_writer_counts_what_a_node_has_after_it_lost_something(fleet: Fleet) -> None:
    """The node hears that, while nobody writes, and only then calls itself whole again."""
    writer = await fleet.open_writer()
    mark = await Model().commit(writer)
    await until(lambda: writer.volume.scls(0)["storage-1"] >= mark)
    await fleet.stop("storage-2", "storage-3", "storage-4", "storage-5", "storage-6")
    await fleet.stop("storage-1")
    (log,) = (fleet.nodes["storage-1"].folder / "wal").iterdir()
    rotten = bytearray(log.read_bytes())
    rotten[rotten.index(b"SF3") + 40] ^= 1
    log.write_bytes(rotten)
    await fleet.start("storage-1")
    ((_, segment),) = fleet.node("storage-1").state.segments()
    assert segment.row.damaged
    assert segment.unheard
    await until(lambda: writer.volume.scls(0)["storage-1"] == segment.scl < mark)
    await until(lambda: not segment.unheard)
    assert segment.row.damaged, "there is nobody to compare with"
    await fleet.start(*NODES[1:])
    await until(lambda: not segment.row.damaged)
    assert segment.scl == mark
    await until(lambda: writer.volume.scls(0)["storage-1"] == mark)
    await writer.close()


@pytest.mark.parametrize("ends", [forward, back], ids=["was replaced", "was given up"])
async def test_who_left_and_joins_again_has_acknowledged_nothing(
    fleet: Fleet, ends: Callable[[Membership], Membership]
) -> None:
    """Whoever leaves drops its segment: what that had acknowledged counts for no later, empty one."""
    writer = await fleet.open_writer()
    volume = writer.volume
    mark = await Model().commit(writer)
    await until(lambda: volume.scls(0)["storage-6"] >= mark)
    (members,) = fleet.memberships
    six = members.voter("storage-6")
    assert six is not None
    seven = Member("storage-7", six.az, "127.0.0.1:1", "fresh")
    during = begin(members, old=six, new=seven)
    volume.learn([during])
    volume._acked("storage-7", [(0, mark)])  # as if it had caught up
    after = ends(during)
    volume.learn([after])
    stays, leaves = (seven, six) if ends is forward else (six, seven)
    volume.learn([begin(after, old=stays, new=leaves)])
    assert volume.scls(0)[stays.node] >= mark
    assert volume.scls(0)[leaves.node] == 0
    await writer.close()


async def test_recovery_in_the_middle_of_a_change(fleet: Fleet) -> None:
    writer = await fleet.open_writer()
    model = Model()
    for _ in range(5):
        last = await model.commit(writer)
    await writer.close()
    during = await wiped(fleet)
    await tell(fleet, during, ["storage-1", "storage-2"])  # and the others are not told
    again = await fleet.open_writer(memberships=[during])
    assert again.volume.vdl.lsn == last
    await model.commit(again)
    await check(again, model.pages)
    await again.close()


async def test_recovery_with_members_of_yesterday_gives_up(fleet: Fleet) -> None:
    """The newer ones may have acknowledged something without any of those it would ask."""
    during = await wiped(fleet)
    await tell(fleet, during, ["storage-1", "storage-2", "storage-3"])
    with pytest.raises(Unavailable, match="open the volume again"):
        await fleet.open_writer()


async def test_what_segments_of_other_members_hold_does_not_count(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have the record, by gossip, and say so in every greeting: but no longer for this writer, which
    hears of no change. What they say now is not what whoever joins has caught up with."""
    writer = await fleet.open_writer()
    model = Model()
    await model.commit(writer)
    monkeypatch.setattr(writer.volume, "learn", lambda _: None)
    during = await wiped(fleet)
    await fleet.stop("storage-6")
    moved = ["storage-1", "storage-2", "storage-3"]
    await tell(fleet, during, moved)
    mark, _ = writer.volume.commit(model.change(), max(model.pages) + 1)

    def filled() -> bool:
        held = [s.scl for name in moved for _, s in fleet.node(name).state.segments()]
        return min(held) >= mark.lsn

    await until(filled)
    asked = {name: fleet.node(name).state.counters["appends"] for name in moved}
    await until(lambda: all(fleet.node(n).state.counters["appends"] >= asked[n] + 3 for n in moved))
    for name in moved:  # and a greeting that was on its way when they changed over
        greeting = await _greeting(writer, name)
        assert [s.scl >= mark.lsn for s in greeting.segments] == [True]
        with pytest.raises(SextetError, match="the members of a group have changed"):
            await writer.volume.links[name]._take(greeting)
    assert writer.volume.vdl.lsn < mark.lsn, "counted for members that have changed"
    await writer.close()


async def _greeting(writer: OpenedWriter, name: str) -> pb.AppendAck:
    """What the node answers to a writer that sends it nothing."""
    member = writer.volume.memberships[0].voter(name)
    assert member is not None
    stream = writer.channels.to(member.address).stream(APPEND)
    await stream.send(pb.AppendRequest(volume=VOLUME, epoch=writer.volume.epoch))
    ack = await stream.recv()
    stream.close()
    assert ack is not None
    return ack
