"""Commits and recoveries as LSNs: what was acknowledged, what each recovery kept, what is at the end.

Epochs order them, clocks do not come into it: a commit acknowledged in one epoch must be kept by the
recovery of every later one, even if the old writer told its client after the new one had opened. It
stood on a write quorum before that quorum was fenced.

Kinds
- lost-commit (G1): a recovery, or the final log, is without a commit acknowledged before it.
- not-a-prefix (G2): two recovered states, or one and the final log, disagree about a commit below both.
- vdl-regress (G2): a later recovery ends below an earlier one's VDL.
- resurrected (G2): a commit stands where a recovery truncated.
- torn-commit (G6): a recovery or the final log has a part of a transaction's records.
- vdl-no-commit (G6): a recovery's VDL is not the LSN of a commit.
- lsn-reused: two transactions were given one LSN, or an epoch allots where its recovery truncated.
- epoch-regress (G3): a recovery with an epoch that is not above its predecessor's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cluster.sim.checkers import Findings, Violation
from engine.types import LSN, Epoch

CHECKER = "commits"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A transaction's records, as its writer allotted them, whatever became of them.

    `first`..`last` without a hole; `last` is the CPL, the commit's LSN. `acknowledged` once its client was
    told that it is committed.
    """

    first: LSN
    last: LSN
    epoch: Epoch
    acknowledged: bool
    name: str = ""
    at: float | None = None
    """When it was acknowledged, virtual seconds."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a writer found when it opened the volume, in the order in which they opened it."""

    epoch: Epoch
    vdl: LSN
    truncated: tuple[LSN, LSN] | None
    """(low, high]: annulled by this recovery; None for a volume that was new."""
    commits: tuple[LSN, ...] | None = None
    """All commits at or below `vdl` in the recovered state, ascending; None if nobody looked."""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class FinalLog:
    """All that was sent, less what recoveries annulled, up to the last VDL: LSNs of the records, and of the
    commits among them. That storage holds it is for `segments` to say."""

    records: tuple[LSN, ...]
    commits: tuple[LSN, ...]


def check(
    attempts: Iterable[Attempt],
    recoveries: Sequence[Recovery],
    final: FinalLog | None = None,
    *,
    complete: bool = False,
) -> list[Violation]:
    """`recoveries` in the order of opening; `complete`: `attempts` are all that were ever sent."""
    findings = Findings(CHECKER)
    ordered = sorted(attempts, key=lambda a: (a.first, a.last, a.epoch))
    _numbers(ordered, recoveries, findings)
    for before, after in pairwise(recoveries):
        _succession(before, after, findings)
    for recovery in recoveries:
        _recovered(recovery, ordered, findings, complete)
    states = [
        (f"the recovery of epoch {r.epoch}", r.vdl, r.commits, r.at)
        for r in recoveries
        if r.commits is not None
    ]
    if final is not None:
        _final(final, ordered, recoveries, findings)
        end = max((*final.commits, *(vdl for _, vdl, _, _ in states)), default=0)
        states.append(("the final log", end, final.commits, None))
    for (name, vdl, commits, _), (later, _, more, at) in pairwise(states):
        kept = tuple(lsn for lsn in more if lsn <= vdl)
        if kept != commits:
            differ = sorted(frozenset(kept) ^ frozenset(commits))
            findings.add(
                "not-a-prefix",
                f"{name} and {later} disagree about {len(differ)} commits at or below {vdl}",
                lsns=differ[:10],
                at=at,
            )
    return findings.found


def _numbers(
    attempts: Sequence[Attempt], recoveries: Sequence[Recovery], findings: Findings
) -> None:
    for one, other in pairwise(attempts):
        if other.first <= one.last:
            findings.add(
                "lsn-reused",
                f"{_name(one)} of epoch {one.epoch} and {_name(other)} of epoch {other.epoch} share LSNs",
                lsns=(one.first, one.last, other.first, other.last),
            )
    for recovery in recoveries:
        if recovery.truncated is None:
            continue
        low, high = recovery.truncated
        for attempt in attempts:
            if attempt.epoch >= recovery.epoch and low < attempt.last and attempt.first <= high:
                findings.add(
                    "lsn-reused",
                    f"{_name(attempt)} of epoch {attempt.epoch} lies in the range that epoch"
                    f" {recovery.epoch} truncated",
                    lsns=(attempt.first, attempt.last, low, high),
                )


def _succession(before: Recovery, after: Recovery, findings: Findings) -> None:
    if after.epoch <= before.epoch:
        findings.add(
            "epoch-regress",
            f"the volume was opened in epoch {before.epoch} and then in epoch {after.epoch}",
            at=after.at,
        )
    if after.vdl < before.vdl:
        findings.add(
            "vdl-regress",
            f"epoch {before.epoch} recovered up to {before.vdl}, epoch {after.epoch} only to {after.vdl}",
            lsns=(before.vdl, after.vdl),
            at=after.at,
        )


def _recovered(
    recovery: Recovery, attempts: Sequence[Attempt], findings: Findings, complete: bool
) -> None:
    commits = None if recovery.commits is None else frozenset(recovery.commits)
    ends = {0, *(a.last for a in attempts if a.epoch < recovery.epoch)} if complete else None
    if (recovery.commits is not None and recovery.vdl != max(recovery.commits, default=0)) or (
        ends is not None and recovery.vdl not in ends
    ):
        findings.add(
            "vdl-no-commit",
            f"epoch {recovery.epoch} recovered up to {recovery.vdl}, which is not its newest commit",
            lsns=(recovery.vdl,),
            at=recovery.at,
        )
    for attempt in attempts:
        if attempt.epoch >= recovery.epoch:
            continue
        there = attempt.last <= recovery.vdl
        if there and commits is not None:
            there = attempt.last in commits
        if attempt.acknowledged and not there:
            findings.add(
                "lost-commit",
                f"{_name(attempt)} was acknowledged in epoch {attempt.epoch}, but the recovery of epoch"
                f" {recovery.epoch} ended at {recovery.vdl} without it",
                lsns=(attempt.last, recovery.vdl),
                at=recovery.at,
            )
        if attempt.first <= recovery.vdl < attempt.last:
            findings.add(
                "torn-commit",
                f"epoch {recovery.epoch} recovered up to {recovery.vdl}, in the middle of"
                f" {_name(attempt)}",
                lsns=(attempt.first, attempt.last),
                at=recovery.at,
            )


def _final(
    final: FinalLog,
    attempts: Sequence[Attempt],
    recoveries: Sequence[Recovery],
    findings: Findings,
) -> None:
    records, commits = sorted(final.records), frozenset(final.commits)
    for attempt in attempts:
        if attempt.acknowledged and attempt.last not in commits:
            findings.add(
                "lost-commit",
                f"{_name(attempt)} was acknowledged, but is not in the final log",
                lsns=(attempt.last,),
                at=attempt.at,
            )
        there = bisect_left(records, attempt.last + 1) - bisect_left(records, attempt.first)
        whole = attempt.last - attempt.first + 1
        if 0 < there < whole or (there == whole) != (attempt.last in commits):
            findings.add(
                "torn-commit",
                f"the final log has {there} of the {whole} records of {_name(attempt)}"
                f" and {'its' if attempt.last in commits else 'no'} commit mark",
                lsns=(attempt.first, attempt.last),
            )
    for recovery in recoveries:
        if recovery.truncated is None:
            continue
        low, high = recovery.truncated
        back = records[bisect_left(records, low + 1) : bisect_left(records, high + 1)]
        if back:
            findings.add(
                "resurrected",
                f"the final log has {len(back)} records where epoch {recovery.epoch} truncated"
                f" ({low}, {high}]",
                lsns=back[:10],
            )


def _name(attempt: Attempt) -> str:
    return f"commit {attempt.last}" + (f" ({attempt.name})" if attempt.name else "")
