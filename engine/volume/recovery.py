"""What a new writer may conclude from the segments that it has fenced (P17 §4.3, P18 §2.4).

Pure: reports in, a plan or a refusal out. The argument, step by step:

- What an earlier recovery truncated never counts, whoever still holds it. Which ranges those are, the
  list of the newest recovery among the nodes' says whole, and no other list does: a recovery that
  went on from its truncation had it on a write quorum, so somebody fenced has its list or a later
  one. Uniting the lists would be wrong: a recovery that died after it truncated one node annulled
  nothing, and the next one, which may not have met that node, may have made those records durable.
- Some VDL that a segment was told (`known_vdl`) was true when it was told; everything at or below
  the highest of them, the floor, stands on a write quorum.
- Above the floor, walk the volume's back-links over all records that any fenced segment holds. Where
  the walk ends is VCL; the newest CPL at or below it is VDL.
- Every acknowledged commit is at or below that VDL: it stood on a write quorum, a write quorum was
  fenced, and any two overlap, so the walk finds each of its records.
- What follows VCL is discarded. That is safe only if it cannot have been acknowledged: at least three
  of six members must deny ever having held it, since three without it leave at most three with it,
  and four are a write quorum. A member denies only if it was fenced, is of the incarnation that the
  catalog knows, and has lost nothing itself.
- While a member is being replaced, what was acknowledged stood on four of either six, so three of
  either are enough; the one that is to replace it has lost, in this sense, whatever it has not got yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from engine.errors import QuorumLost, RecoveryBlocked
from engine.types import LAL, LSN, CommitMark, Epoch, Membership, NodeId, PgNo, Truncation
from engine.volume.quorum import read_quorum, write_quorum


@dataclass(frozen=True, slots=True)
class LsnRun:
    """Records `first`..`last` without a hole in the numbers; `prev` is first's predecessor.

    LSNs jump where a new epoch begins, so a run never spans epochs.
    """

    first: LSN
    last: LSN
    prev: LSN


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """A fenced segment's answer; the fields are those of `SegmentState` in storage.proto."""

    pg: PgNo
    incarnation: str
    epoch: Epoch
    membership_epoch: int
    scl: LSN
    known_vdl: LSN
    tail: LSN
    runs: tuple[LsnRun, ...]
    commits: tuple[CommitMark, ...]
    damaged: bool = False
    hot_from: LSN = 0


@dataclass(frozen=True, slots=True)
class FencedNode:
    """All segments of the volume on one node, and the truncations it knows."""

    segments: Mapping[PgNo, SegmentReport]
    truncations: tuple[Truncation, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """`tail` is the group's last LSN at or below VDL; `complete` members have reached it."""

    pg: PgNo
    tail: LSN
    complete: tuple[NodeId, ...]
    lagging: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    vcl: LSN
    vdl: CommitMark
    truncations: tuple[Truncation, ...]
    """Those of earlier recoveries that are in force, oldest first."""
    groups: Mapping[PgNo, GroupPlan]

    def truncation(self, epoch: Epoch) -> Truncation:
        """What the recovery under `epoch` annuls: every LSN an older writer can have allotted.

        The writer before began above the last truncation, so where VDL has not moved since, LAL
        counts from there and not from VDL.
        """
        base = max([self.vdl.lsn, *(t.high for t in self.truncations)])
        return Truncation(epoch, self.vdl.lsn, base + LAL)


Reports = Mapping[PgNo, Mapping[NodeId, SegmentReport]]


def plan_recovery(
    *, groups: Sequence[Membership], states: Mapping[NodeId, FencedNode]
) -> RecoveryPlan:
    """VCL, VDL and every group's tail there.

    Raises QuorumLost if a group has no fenced write quorum, RecoveryBlocked if going on could
    discard a record that was acknowledged.
    """
    truncations = _in_force(states)
    reports = {group.pg: _counted(group, states, truncations) for group in groups}
    for group in groups:
        _require_quorum(group, reports[group.pg])
    floor = max((r.known_vdl for r in _every(reports)), default=0)
    vcl = _walk(floor, (run for report in _every(reports) for run in report.runs))
    for group in groups:
        _require_denials(group, reports[group.pg], vcl)
    vdl = _newest_commit(floor, vcl, reports)
    return RecoveryPlan(
        vcl=vcl,
        vdl=vdl,
        truncations=truncations,
        groups={group.pg: _group_plan(group.pg, reports[group.pg], vdl.lsn) for group in groups},
    )


def _in_force(states: Mapping[NodeId, FencedNode]) -> tuple[Truncation, ...]:
    """The list of the newest recovery that truncated any of these nodes, oldest range first."""
    lists = [tuple(sorted(states[node].truncations)) for node in sorted(states)]
    return max(lists, key=lambda ranges: ranges[-1].epoch if ranges else 0, default=())


def _counted(
    group: Membership, states: Mapping[NodeId, FencedNode], truncations: Sequence[Truncation]
) -> dict[NodeId, SegmentReport]:
    """The members' reports that count: of the incarnation that the catalog knows, less the annulled."""
    counted = {}
    for member in group.voters:
        state = states.get(member.node)
        report = state.segments.get(group.pg) if state is not None else None
        if report is not None and report.incarnation == member.incarnation:
            counted[member.node] = _without_annulled(report, truncations)
    return counted


def _without_annulled(report: SegmentReport, truncations: Sequence[Truncation]) -> SegmentReport:
    """The report less what lies in a truncated range: LSNs there are never used again."""
    runs = list(report.runs)
    commits = report.commits
    for t in truncations:
        below = [LsnRun(r.first, min(r.last, t.low), r.prev) for r in runs if r.first <= t.low]
        above = [r for r in runs if r.first > t.high]
        runs = below + above
        commits = tuple(c for c in commits if not t.low < c.lsn <= t.high)
    return replace(report, runs=tuple(runs), commits=commits)


def _every(reports: Reports) -> Iterator[SegmentReport]:
    for pg in sorted(reports):
        for node in sorted(reports[pg]):
            yield reports[pg][node]


def _require_quorum(group: Membership, reports: Mapping[NodeId, SegmentReport]) -> None:
    if not write_quorum(group).satisfied(reports.keys()):
        missing = sorted({m.node for m in group.voters} - reports.keys())
        raise QuorumLost(
            f"protection group {group.pg} has only {len(reports)} of {len(group.voters)} segments; "
            f"missing: {', '.join(missing)}. Bring at least one of them back"
        )


def _require_denials(group: Membership, reports: Mapping[NodeId, SegmentReport], vcl: LSN) -> None:
    denying = [node for node in sorted(reports) if not reports[node].damaged]
    if not read_quorum(group).satisfied(denying):
        silent = sorted({m.node for m in group.voters} - set(denying))
        raise RecoveryBlocked(
            f"the log ends at LSN {vcl}, but what follows may have been acknowledged: in protection "
            f"group {group.pg} only {len(denying)} segments can say that they never held it, "
            f"which are no read quorum. Repair or bring back: {', '.join(silent)}"
        )


def _walk(floor: LSN, runs: Iterator[LsnRun]) -> LSN:
    """The highest LSN that unbroken back-links reach from `floor`."""
    reach = floor
    # A run that begins at or below the reach extends it; so does one whose predecessor it is. Both
    # only look backwards, so one pass in order of `first` is enough.
    for run in sorted(set(runs), key=lambda run: run.first):
        if run.last > reach and (run.first <= reach or run.prev == reach):
            reach = run.last
    return reach


def _newest_commit(floor: LSN, vcl: LSN, reports: Reports) -> CommitMark:
    marks = [c for report in _every(reports) for c in report.commits if c.lsn <= vcl]
    newest = max(marks, default=CommitMark(0, 0, 0))
    if newest.lsn < floor:
        raise RecoveryBlocked(
            f"LSN {floor} is durable, but no segment reports its commit record; the newest reported "
            f"is {newest.lsn}. Run the repair of the damaged segments first"
        )
    return newest


def _group_plan(pg: PgNo, reports: Mapping[NodeId, SegmentReport], vdl: LSN) -> GroupPlan:
    tail = max(
        [
            *(report.tail for report in reports.values()),
            *(
                min(run.last, vdl)
                for report in reports.values()
                for run in report.runs
                if run.first <= vdl
            ),
        ]
    )
    complete = tuple(node for node in sorted(reports) if reports[node].scl >= tail)
    lagging = tuple(node for node in sorted(reports) if reports[node].scl < tail)
    return GroupPlan(pg, tail, complete, lagging)
