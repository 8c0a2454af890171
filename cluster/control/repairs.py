"""Which member of a group is to be replaced, by whom, and when that is done or given up. Pure.

What the catalog says and what storage nodes answer comes in; the changes to make now go out. Nothing here
is a matter of safety: a change that is begun, finished or given up at the wrong moment costs work, not
data, as long as `Commit` is only proposed for a segment that calls itself whole under the very membership
that names it (`engine.volume.membership`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from engine.types import Member, Membership, NodeId, SegmentId, VolumeId

CHANGES_MAX = 16
"""Groups that change their members at the same time, in all volumes together."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A segment as its node describes it."""

    incarnation: str
    membership_epoch: int
    scl: int
    damaged: bool


@dataclass(frozen=True, slots=True)
class Node:
    """A storage node. `incarnation` is that of the disk it registered with last; `answers`: it has just
    said what it holds, on that disk; `gone`: it has been silent for so long that it is given up."""

    name: NodeId
    az: str
    address: str
    incarnation: str
    answers: bool = False
    gone: bool = False
    drained: bool = False
    segments: Mapping[SegmentId, Seen] = field(default_factory=dict)

    def member(self) -> Member:
        return Member(self.name, self.az, self.address, self.incarnation)

    @property
    def able(self) -> bool:
        """Whether it may get segments."""
        return self.answers and not self.gone and not self.drained


@dataclass(frozen=True, slots=True)
class Begin:
    volume: VolumeId
    known: Membership
    old: Member
    new: Member


@dataclass(frozen=True, slots=True)
class Commit:
    volume: VolumeId
    known: Membership


@dataclass(frozen=True, slots=True)
class Cancel:
    volume: VolumeId
    known: Membership
    why: str


Change = Begin | Commit | Cancel
Groups = Sequence[tuple[VolumeId, Membership]]
Nodes = Mapping[NodeId, Node]


def plan(groups: Groups, nodes: Nodes) -> list[Change]:
    """What to change now, at most one thing per group; the same again until it is done."""
    under_way = sum(membership.replacing is not None for _, membership in groups)
    changes: list[Change] = []
    load = _load(groups)
    for volume, membership in groups:
        if membership.replacing is not None:
            change = _end(volume, membership, nodes)
            if change is not None:
                changes.append(change)
        elif under_way < CHANGES_MAX:
            begin = _begin(volume, membership, nodes, load)
            if begin is not None:
                under_way += 1
                load[begin.new.node] = load.get(begin.new.node, 0) + 1
                changes.append(begin)
    return changes


def _end(volume: VolumeId, membership: Membership, nodes: Nodes) -> Change | None:
    change = membership.replacing
    assert change is not None
    old, new = nodes.get(change.old.node), nodes.get(change.new.node)
    if new is None or new.incarnation != change.new.incarnation:
        return Cancel(volume, membership, f"{change.new.node} has another disk now")
    seen = new.segments.get(SegmentId(volume, membership.pg)) if new.answers else None
    if seen is not None and _whole(seen, membership, change.new):
        return Commit(volume, membership)
    if new.gone or new.drained:
        return Cancel(volume, membership, f"{new.name} is {'gone' if new.gone else 'drained'}")
    if old is not None and old.able and old.incarnation == change.old.incarnation:
        return Cancel(volume, membership, f"{old.name} has come back")
    return None


def _whole(seen: Seen, membership: Membership, new: Member) -> bool:
    return (
        seen.incarnation == new.incarnation
        and seen.membership_epoch == membership.epoch
        and not seen.damaged
    )


def _begin(
    volume: VolumeId, membership: Membership, nodes: Nodes, load: Mapping[NodeId, int]
) -> Begin | None:
    for old in _failing(membership, nodes):
        node = nodes[old.node]
        if node.able and node.incarnation != old.incarnation:
            return Begin(volume, membership, old, node.member())  # a new disk in the same place
        new = choose_replacement(membership, old, nodes, load)
        if new is not None:
            return Begin(volume, membership, old, new.member())
    return None


def _failing(membership: Membership, nodes: Nodes) -> Iterator[Member]:
    """Members to replace, those whose copy is lost first, then those that are gone, then drained."""
    known = [m for m in membership.members if m.node in nodes]
    lost = [m for m in known if nodes[m.node].incarnation not in ("", m.incarnation)]
    yield from lost
    yield from (m for m in known if m not in lost and nodes[m.node].gone)
    yield from (m for m in known if m not in lost and nodes[m.node].drained)


def choose_replacement(
    membership: Membership, old: Member, nodes: Nodes, load: Mapping[NodeId, int]
) -> Node | None:
    """A node that keeps no segment of the group: of the same AZ if there is one, else of the AZ with
    the fewest of them; there, the one with the fewest segments."""
    left = [m for m in membership.members if m != old]
    taken = {m.node for m in membership.members}

    def key(node: Node) -> tuple[int, bool, int, NodeId]:
        crowd = sum(m.az == node.az for m in left)
        return (crowd, node.az != old.az, load.get(node.name, 0), node.name)

    able = [node for node in nodes.values() if node.able and node.name not in taken]
    return min(able, key=key, default=None)


def _load(groups: Groups) -> dict[NodeId, int]:
    load: dict[NodeId, int] = {}
    for _, membership in groups:
        for member in membership.voters:
            load[member.node] = load.get(member.node, 0) + 1
    return load


@dataclass(frozen=True, slots=True)
class Telling:
    """What a node has to be told: memberships that it does not know yet, segments it keeps no longer.

    A deleted volume's group has no members, so nobody keeps it.
    """

    update: tuple[tuple[VolumeId, Membership], ...]
    drop: tuple[tuple[VolumeId, Membership], ...]


def telling(groups: Groups, node: Node, deleted: Mapping[SegmentId, int]) -> Telling:
    """For a node that answers. `deleted`: groups of deleted volumes, and their membership epochs."""
    update = []
    drop = [
        (key.volume, Membership(key.pg, deleted[key], ()))
        for key in sorted(node.segments)
        if key in deleted
    ]
    for volume, membership in groups:
        seen = node.segments.get(SegmentId(volume, membership.pg))
        if seen is None:
            continue  # to be created, which is the assigner's business
        voter = membership.voter(node.name)
        if voter is None:
            drop.append((volume, membership))
        elif seen.incarnation == voter.incarnation and seen.membership_epoch < membership.epoch:
            update.append((volume, membership))
    return Telling(tuple(update), tuple(drop))
