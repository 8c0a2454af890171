"""Changing who keeps a protection group: one member at a time, never without a quorum (P18 §4.1).

Pure. A group's membership is stable, or it replaces F by G:

    epoch 1   ABCDEF                    write 4/ABCDEF                     read 3/ABCDEF
       | begin
    epoch 2   ABCDEF, G to replace F    write 4/ABCDEF and 4/ABCDEG        read 3/ABCDEF or 3/ABCDEG
       | forward: G is whole            | back: F has come back, or G has gone
    epoch 3   ABCDEG                    epoch 3   ABCDEF

Each arrow is one compare-and-set in the catalog. Everybody else takes a membership over from whoever has
a newer one; a segment serves a writer only under its own membership epoch.

F and G may be two lives of one node's disk (it was wiped). Then F never answers again, G answers to the
node's name, and a quorum of both sets is four of the five others: G counts for nothing until the end.

Invariants, and where they come from
- A write quorum under one epoch meets every write quorum under the epoch before and after (`quorum`).
- Nothing is counted for a writer by a segment of another membership epoch than the writer's.
- G is *whole* once it has all that three of ABCDEF have which are in the new epoch and miss nothing
  (`made_whole`). Whatever was acknowledged under epoch 1 stood on four of ABCDEF; three of the six
  leave no four, so one of the three had acknowledged it before it took over epoch 2, and G has got it.
- So when G takes F's place, what was acknowledged under epoch 1 is on G, and what was under epoch 2 stands
  on four of ABCDEG: every four of ABCDEG have all of it among them, and three that deny it speak the truth.
- With three members left (an AZ and one more) there is no write quorum, before or during the change. The
  three are enough to make G whole, and with G they are four: writes come back when G takes over.
- Who was to replace a member, was given up, and is to replace one again begins anew: it may have missed
  everything in between.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from engine.types import Member, Membership, NodeId, Replacement
from engine.volume.quorum import READ, sixes


def begin(membership: Membership, *, old: Member, new: Member) -> Membership:
    """Replace `old`, one of the six, by `new`, which is none of them.

    Raises ValueError if another change is under way, or if `new` is a member or has no disk yet.
    """
    if membership.replacing is not None:
        raise ValueError(f"group {membership.pg} is replacing a member already")
    if old not in membership.members:
        raise ValueError(f"{old.node} is no member of group {membership.pg}")
    if any(m.node == new.node for m in membership.members if m.node != old.node):
        raise ValueError(f"{new.node} is a member of group {membership.pg} already")
    if not new.incarnation or (new.node, new.incarnation) == (old.node, old.incarnation):
        raise ValueError(f"{new.node} has no disk that could replace {old.node}'s")
    return replace(membership, epoch=membership.epoch + 1, replacing=Replacement(old, new))


def forward(membership: Membership) -> Membership:
    """The new member takes the old one's place. The caller has seen that it is whole."""
    change = _change(membership)
    left = [m for m in membership.members if m != change.old]
    members = tuple(sorted([*left, change.new], key=lambda m: m.node))
    return Membership(membership.pg, membership.epoch + 1, members)


def back(membership: Membership) -> Membership:
    """The old member stays."""
    _change(membership)
    return Membership(membership.pg, membership.epoch + 1, membership.members)


def _change(membership: Membership) -> Replacement:
    if membership.replacing is None:
        raise ValueError(f"group {membership.pg} is replacing nobody")
    return membership.replacing


def supersedes(heard: Membership, known: Membership) -> bool:
    """Whether `heard` is to be taken over. One of the same epoch names the same members; an address may
    have changed, or a node has got its first disk."""
    return heard.epoch > known.epoch or (heard.epoch == known.epoch and heard != known)


def is_joining(membership: Membership, node: NodeId) -> bool:
    """Whether `node` is the one that is to replace a member."""
    return membership.replacing is not None and membership.replacing.new.node == node


def made_whole(membership: Membership, node: NodeId, caught_up_with: Collection[NodeId]) -> bool:
    """Whether `node`, which misses something, has all of it now that it has caught up with those.

    A member: what it acknowledged and counted stood on a write quorum, so on three of its five companions
    at least, and of any three of the five one is among them. One that is joining: see above.
    """
    found = sixes(membership)
    joining = is_joining(membership, node)
    return any(
        sum(other in caught_up_with for other in six if other != node) >= READ
        for six in (found[:1] if joining else found)
        if joining or node in six
    )
