"""Where each group of a clone begins, from what storage nodes say of its parent. Pure.

Everything at or below the fork is durable, so each record of it is on four of a group's six. Of any three
that have lost nothing and know it as durable, one has the group's last record there: the highest `tail`
that they name is it. Nothing that a recovery annulled is among it, for a node that knows a VDL knows what
the recovery before it annulled (`engine.storage.volume`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.types import LSN, CommitMark, Membership, NodeId, PgNo
from engine.volume.quorum import read_quorum, write_quorum


@dataclass(frozen=True, slots=True)
class Said:
    """A node of its segment of one group: the last LSN there at or below the fork, whether that is the
    whole truth, and the read point below which it serves nothing; the newest commit in its log that was
    admitted, and the oldest."""

    tail: LSN
    whole: bool
    floor: LSN
    commit: CommitMark | None = None
    oldest: CommitMark | None = None


Answers = Mapping[NodeId, Mapping[PgNo, Said]]


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """`tails` of all groups, if `waits_for` is None: else of that group too little is known now.

    `earliest`: the lowest LSN at which a write quorum of every group could still fork. If it is above the
    one that was asked for, storage nodes have let go of it, and it never comes back.
    """

    tails: Mapping[PgNo, LSN]
    waits_for: PgNo | None
    earliest: LSN


def fork_point(memberships: Sequence[Membership], answers: Answers) -> ForkPoint:
    """What to make of answers about one LSN."""
    tails: dict[PgNo, LSN] = {}
    waits_for: PgNo | None = None
    earliest: LSN = 0
    for membership in memberships:
        pg = membership.pg
        said = {
            voter.node: answers[voter.node][pg]
            for voter in membership.voters
            if pg in answers.get(voter.node, {})
        }
        whole = {node: one.tail for node, one in said.items() if one.whole}
        if read_quorum(membership).satisfied(whole):
            tails[pg] = max(whole.values())
        elif waits_for is None:
            waits_for = pg
        earliest = max(earliest, _earliest(membership, said))
    return ForkPoint(tails, waits_for, earliest)


def _earliest(membership: Membership, said: Mapping[NodeId, Said]) -> LSN:
    """Who says nothing may serve anything."""
    quorum = write_quorum(membership)
    floors = {voter.node: 0 for voter in membership.voters}
    floors |= {node: one.floor for node, one in said.items()}
    for floor in sorted(set(floors.values())):
        if quorum.satisfied([node for node, own in floors.items() if own <= floor]):
            return floor
    return 0
