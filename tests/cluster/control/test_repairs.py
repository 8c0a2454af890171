"""What to change, from what is seen: no I/O, no clock."""

from __future__ import annotations

from dataclasses import replace

from cluster.control.repairing import RepairConfig, Repairer
from cluster.control.repairs import (
    CHANGES_MAX,
    Begin,
    Cancel,
    Commit,
    Node,
    Seen,
    plan,
    telling,
)
from engine.types import Member, Membership, NodeId, SegmentId
from engine.volume.membership import back, begin, forward

VOLUME = 1
AZS = {f"storage-{n}": f"az{(n + 1) // 2}" for n in range(1, 7)} | {
    "storage-7": "az1",
    "storage-8": "az2",
    "storage-9": "az3",
}
SIX = [f"storage-{n}" for n in range(1, 7)]
GROUP = Membership(
    0, 1, tuple(Member(name, AZS[name], f"at {name}", f"disk of {name}") for name in SIX)
)


def segment(node: NodeId, membership: Membership = GROUP, *, damaged: bool = False) -> Seen:
    voter = membership.voter(node)
    assert voter is not None
    return Seen(voter.incarnation, membership.epoch, 10, damaged)


def node(name: NodeId, membership: Membership | None = GROUP) -> Node:
    held = {}
    if membership is not None and membership.voter(name) is not None:
        held[SegmentId(VOLUME, membership.pg)] = segment(name, membership)
    return Node(name, AZS[name], f"at {name}", f"disk of {name}", answers=True, segments=held)


def fleet(*more: NodeId, membership: Membership = GROUP) -> dict[NodeId, Node]:
    return {name: node(name, membership) for name in (*SIX, *more)}


def wiped(nodes: dict[NodeId, Node], name: NodeId) -> None:
    nodes[name] = replace(nodes[name], incarnation="new disk", segments={})


def silent(nodes: dict[NodeId, Node], name: NodeId, *, gone: bool = True) -> None:
    nodes[name] = replace(nodes[name], answers=False, gone=gone, segments={})


def changed(membership: Membership, old: NodeId, new: Member) -> Membership:
    member = next(m for m in membership.members if m.node == old)
    return begin(membership, old=member, new=new)


def test_nothing_to_do_where_everybody_is_well() -> None:
    assert plan([(VOLUME, GROUP)], fleet("storage-7")) == []


def test_a_new_disk_replaces_the_lost_one_in_its_place() -> None:
    nodes = fleet("storage-7")
    wiped(nodes, "storage-3")
    (change,) = plan([(VOLUME, GROUP)], nodes)
    assert isinstance(change, Begin)
    assert change.old == GROUP.voter("storage-3")
    assert change.new == Member("storage-3", "az2", "at storage-3", "new disk")


def test_a_new_disk_is_used_only_once_its_node_answers() -> None:
    nodes = fleet()
    wiped(nodes, "storage-3")
    nodes["storage-3"] = replace(nodes["storage-3"], answers=False)
    assert plan([(VOLUME, GROUP)], nodes) == []


def test_silence_is_no_reason_until_it_lasts() -> None:
    nodes = fleet("storage-7")
    silent(nodes, "storage-1", gone=False)
    assert plan([(VOLUME, GROUP)], nodes) == []


def test_who_is_gone_is_replaced_in_its_zone() -> None:
    nodes = fleet("storage-8", "storage-7")
    silent(nodes, "storage-1")
    (change,) = plan([(VOLUME, GROUP)], nodes)
    assert isinstance(change, Begin)
    assert (change.old.node, change.new.node) == ("storage-1", "storage-7")


def test_with_nobody_to_replace_it_nothing_happens() -> None:
    nodes = fleet()
    silent(nodes, "storage-1")
    assert plan([(VOLUME, GROUP)], nodes) == []


def test_another_zone_takes_over_where_there_is_no_better_one() -> None:
    nodes = fleet("storage-8", "storage-9")
    silent(nodes, "storage-1")
    silent(nodes, "storage-9")
    (change,) = plan([(VOLUME, GROUP)], nodes)
    assert isinstance(change, Begin)
    assert change.new.node == "storage-8"


def test_a_lost_copy_comes_before_a_drained_one_and_one_change_at_a_time() -> None:
    nodes = fleet("storage-7")
    nodes["storage-1"] = replace(nodes["storage-1"], drained=True)
    wiped(nodes, "storage-6")
    (change,) = plan([(VOLUME, GROUP)], nodes)
    assert isinstance(change, Begin)
    assert change.old.node == "storage-6"


def test_drained_nodes_get_nothing() -> None:
    nodes = fleet("storage-7")
    silent(nodes, "storage-1")
    nodes["storage-7"] = replace(nodes["storage-7"], drained=True)
    assert plan([(VOLUME, GROUP)], nodes) == []


def test_the_new_member_takes_the_place_once_it_is_whole_and_not_before() -> None:
    during = changed(GROUP, "storage-1", node("storage-7").member())
    nodes = fleet("storage-7", membership=during)
    silent(nodes, "storage-1")
    key = SegmentId(VOLUME, 0)
    for seen in (
        segment("storage-7", during, damaged=True),
        replace(segment("storage-7", during), membership_epoch=1),
        replace(segment("storage-7", during), incarnation="another"),
    ):
        nodes["storage-7"] = replace(nodes["storage-7"], segments={key: seen})
        assert plan([(VOLUME, during)], nodes) == []
    nodes["storage-7"] = node("storage-7", during)
    assert plan([(VOLUME, during)], nodes) == [Commit(VOLUME, during)]


def joining(during: Membership, *, damaged: bool = True) -> dict[NodeId, Node]:
    nodes = fleet("storage-7", membership=during)
    seen = {SegmentId(VOLUME, 0): segment("storage-7", during, damaged=damaged)}
    nodes["storage-7"] = replace(nodes["storage-7"], segments=seen)
    return nodes


def test_who_comes_back_in_time_stays() -> None:
    during = changed(GROUP, "storage-1", node("storage-7").member())
    (change,) = plan([(VOLUME, during)], joining(during))
    assert change == Cancel(VOLUME, during, "storage-1 has come back")


def test_who_is_to_go_does_not_stay_because_it_answers() -> None:
    during = changed(GROUP, "storage-1", node("storage-7").member())
    nodes = joining(during)
    nodes["storage-1"] = replace(nodes["storage-1"], drained=True)
    assert plan([(VOLUME, during)], nodes) == []


def test_a_change_is_given_up_when_the_new_member_fails() -> None:
    during = changed(GROUP, "storage-1", node("storage-7").member())
    nodes = joining(during)
    silent(nodes, "storage-1")
    silent(nodes, "storage-7")
    assert plan([(VOLUME, during)], nodes) == [Cancel(VOLUME, during, "storage-7 is gone")]
    nodes = joining(during)
    silent(nodes, "storage-1")
    wiped(nodes, "storage-7")
    (change,) = plan([(VOLUME, during)], nodes)
    assert isinstance(change, Cancel)


def test_a_bounded_number_of_groups_changes_at_a_time_and_load_is_spread() -> None:
    groups = [(VOLUME, replace(GROUP, pg=pg)) for pg in range(CHANGES_MAX + 5)]
    nodes = fleet("storage-7") | {"storage-10": replace(node("storage-7"), name="storage-10")}
    silent(nodes, "storage-1")
    changes = plan(groups, nodes)
    assert len(changes) == CHANGES_MAX
    new = [change.new.node for change in changes if isinstance(change, Begin)]
    assert new.count("storage-7") == new.count("storage-10") == CHANGES_MAX // 2


def test_nodes_are_told_what_they_do_not_know() -> None:
    during = changed(GROUP, "storage-1", node("storage-7").member())
    knows, behind_it = node("storage-2", during), node("storage-3")
    assert telling([(VOLUME, during)], knows, {}).update == ()
    assert telling([(VOLUME, during)], behind_it, {}).update == ((VOLUME, during),)
    assert telling([(VOLUME, during)], node("storage-8"), {}).update == ()


def test_who_has_been_replaced_drops_its_segment_and_who_was_to_join_as_well() -> None:
    during = changed(GROUP, "storage-1", node("storage-7").member())
    after, cancelled = forward(during), back(during)
    assert telling([(VOLUME, during)], node("storage-1"), {}).drop == ()
    assert telling([(VOLUME, after)], node("storage-1"), {}).drop == ((VOLUME, after),)
    joined = node("storage-7", during)
    assert telling([(VOLUME, cancelled)], joined, {}).drop == ((VOLUME, cancelled),)


def test_what_is_left_of_a_deleted_volume_is_dropped_under_an_epoch_without_members() -> None:
    deleted = {SegmentId(2, 0): 5, SegmentId(2, 1): 7, SegmentId(3, 0): 2}
    mine, gone = node("storage-1"), node("storage-1")
    held = {**mine.segments, SegmentId(2, 1): replace(segment("storage-1"), membership_epoch=6)}
    assert telling([(VOLUME, GROUP)], mine, deleted).drop == ()
    told = telling([(VOLUME, GROUP)], replace(gone, segments=held), deleted)
    assert told.drop == ((2, Membership(1, 7, ())),)
    assert told.update == ()


def test_a_pass_comes_later_only_while_all_is_well() -> None:
    config = RepairConfig(check_s=1.0, busy_s=0.2, calm_times=2)
    repairer = Repairer(None, None, None, None, changed=lambda: None, config=config)  # type: ignore[arg-type]
    repairer.nodes = fleet()
    assert repairer._pause() == 2.0
    silent(repairer.nodes, "storage-2", gone=False)
    assert repairer._pause() == 1.0
    repairer.nodes = fleet()
    held = {SegmentId(VOLUME, 0): segment("storage-3", damaged=True)}
    repairer.nodes["storage-3"] = replace(node("storage-3"), segments=held)
    assert repairer._pause() == 1.0
    changing = changed(GROUP, "storage-1", node("storage-7").member())
    repairer._groups = [(VOLUME, changing)]
    assert repairer._pause() == 0.2
