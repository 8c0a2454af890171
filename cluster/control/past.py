"""Which commit of a volume was the last one at an LSN or a time, as far back as storage nodes serve. Pure.

A segment keeps the CPLs of its group's redo above its floor (`engine.storage.segment`). Each record of a
durable commit is on four of its group's six nodes. So of any three that have lost nothing, know the newest
commit as durable and have collected nothing at or above an answer, one lists every commit from the answer
on: nothing lies between the answer and the moment that was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.control.forkpoint import Answers, ForkPoint, Said, fork_point
from engine.archive.restore import shown
from engine.errors import ConfigError
from engine.moments import Moment
from engine.types import LSN, CommitMark, Membership, NodeId, PgNo
from engine.volume.quorum import read_quorum


@dataclass(frozen=True, slots=True)
class Admitted:
    """`commit`, if `waits_for` is None: else of that group too little is known now.

    `oldest` is the oldest commit that is surely served still.
    """

    commit: CommitMark
    oldest: CommitMark
    waits_for: PgNo | None


def last_admitted(
    memberships: Sequence[Membership], answers: Answers, newest: CommitMark, moment: Moment
) -> Admitted:
    """What to make of answers about `moment`, in a log that ends with `newest`.

    Raises ConfigError, naming the window, if the commit lies before it.
    """
    point = fork_point(memberships, answers)
    oldest = _oldest(point, answers, newest)
    if moment.admits(newest):
        return Admitted(newest, oldest, None)
    known = [one.commit for said in answers.values() for one in said.values() if one.whole]
    commit = max((c for c in known if c is not None and moment.admits(c)), default=None, key=_lsn)
    low = commit.lsn if commit is not None else point.earliest
    waiting = next((m.pg for m in memberships if not _list_all(m, answers, low)), None)
    if commit.lsn < point.earliest if commit is not None else waiting is None:
        raise ConfigError(
            f"storage nodes still have the states from LSN {oldest.lsn} ({shown(oldest.time_us)}) on, the "
            f"newest is LSN {newest.lsn} ({shown(newest.time_us)}); what is older only an archive has, see "
            "`sextet restore`"
        )
    return Admitted(commit or newest, oldest, waiting)


def _list_all(membership: Membership, answers: Answers, low: LSN) -> bool:
    """Whether no commit of the group at or above `low` can be missing in what its members have said."""
    said = _of(membership, answers)
    listing = [node for node, one in said.items() if one.whole and one.floor <= low]
    return read_quorum(membership).satisfied(listing)


def _of(membership: Membership, answers: Answers) -> Mapping[NodeId, Said]:
    pg = membership.pg
    voters = [voter.node for voter in membership.voters]
    return {node: answers[node][pg] for node in voters if pg in answers.get(node, {})}


def _oldest(point: ForkPoint, answers: Answers, newest: CommitMark) -> CommitMark:
    named = [one.oldest for said in answers.values() for one in said.values() if one.whole]
    served = [c for c in named if c is not None and c.lsn >= point.earliest]
    return min(served, default=newest, key=_lsn)


def _lsn(commit: CommitMark) -> LSN:
    return commit.lsn
