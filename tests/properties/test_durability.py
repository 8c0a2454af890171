"""Durability points against a model that remembers every record and recomputes everything."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.types import CommitMark, Member, Membership
from engine.volume.durability import DurabilityTracker
from engine.volume.quorum import write_quorum

NODES = tuple("ABCDEF")
START = CommitMark(100, 0, 1)


def membership(pg: int) -> Membership:
    return Membership(pg, 1, tuple(Member(n, "az", "", n) for n in NODES))


def tracker(groups: int) -> DurabilityTracker:
    made = DurabilityTracker(START)
    for pg in range(groups):
        made.add_group(pg, write_quorum(membership(pg)), 0)
    return made


def test_vcl_is_not_the_minimum_of_the_pgcls() -> None:
    """P18 figure 3: PGCLs are 103 and 104, nothing is outstanding, VCL is 104."""
    points = tracker(2)
    for pg, lsns in ((0, (101, 103)), (1, (102, 104))):
        points.sent(pg, first=lsns[0], last=lsns[1])
    points.committed(CommitMark(104, 0, 1))
    for node in "ABCD":
        points.acked(0, node, 103)
        points.acked(1, node, 104)
    assert (points.pgcl(0), points.pgcl(1), points.vcl, points.vdl.lsn) == (103, 104, 104, 104)


def test_vdl_waits_for_the_commit_record() -> None:
    points = tracker(1)
    points.sent(0, first=101, last=102)
    points.sent(0, first=103, last=103)
    points.committed(CommitMark(103, 0, 1))
    for node in "ABCD":
        points.acked(0, node, 102)
    assert (points.vcl, points.vdl.lsn) == (102, 100)
    for node in "ABCD":
        points.acked(0, node, 103)
    assert points.vdl.lsn == 103


def test_the_fourth_ack_makes_it_durable_not_the_third() -> None:
    points = tracker(1)
    points.sent(0, first=101, last=101)
    points.committed(CommitMark(101, 0, 1))
    assert [points.acked(0, node, 101) for node in "ABCDEF"] == [False] * 3 + [True] + [False] * 2


def test_an_epoch_may_begin_far_above_the_old_vdl() -> None:
    points = tracker(1)
    points.sent(0, first=10_000_101, last=10_000_101)
    points.committed(CommitMark(10_000_101, 0, 1))
    for node in "ABC":
        points.acked(0, node, 10_000_101)
    assert points.vcl == 100
    points.acked(0, "D", 10_000_101)
    assert points.vcl == points.vdl.lsn == 10_000_101


def test_an_epochs_first_flush_may_name_its_groups_in_any_order() -> None:
    points = tracker(2)
    points.sent(0, first=102, last=102)
    points.sent(1, first=101, last=101)
    points.committed(CommitMark(101, 0, 1))
    points.committed(CommitMark(102, 0, 1))
    for node in "ABCD":
        points.acked(1, node, 101)
    assert (points.vcl, points.vdl.lsn) == (101, 101)


def test_what_a_node_said_before_it_said_less_makes_nothing_durable() -> None:
    """Its disk had lied: what it acknowledged once stands on one copy less."""
    points = tracker(1)
    for lsn in (101, 102):
        points.sent(0, first=lsn, last=lsn)
        points.committed(CommitMark(lsn, 0, 1))
    for node in "ABCD":
        points.acked(0, node, 101)
    for node in "ABC":
        points.acked(0, node, 102)
    assert not points.acked(0, "A", 0)
    assert points.scl(0, "A") == 0
    assert not points.acked(0, "D", 102), "three have it"
    assert (points.pgcl(0), points.vdl.lsn) == (101, 101), "what was durable stays so"
    assert points.acked(0, "A", 102)
    assert points.vdl.lsn == 102


@dataclass
class DumbModel:
    """Every record with its group, every ack; nothing is incremental."""

    groups: int
    records: list[tuple[int, int]] = field(default_factory=list)  # (lsn, pg)
    commits: list[int] = field(default_factory=list)
    acks: dict[tuple[int, str], int] = field(default_factory=dict)
    """What each said last."""
    hard: set[int] = field(default_factory=set)

    def ack(self, pg: int, node: str, scl: int) -> None:
        self.acks[pg, node] = scl
        self.hard |= {
            lsn
            for lsn, of in self.records
            if sum(self.acks.get((of, n), 0) >= lsn for n in NODES) >= 4
        }

    def durable(self, lsn: int, pg: int) -> bool:
        return lsn in self.hard

    def vcl(self) -> int:
        reach = START.lsn
        for lsn, pg in sorted(self.records):
            if not self.durable(lsn, pg):
                return reach
            reach = lsn
        return reach

    def vdl(self) -> int:
        return max([START.lsn, *(c for c in self.commits if c <= self.vcl())])


class TrackerAgainstModel(RuleBasedStateMachine):
    groups = 3

    def __init__(self) -> None:
        super().__init__()
        self.points = tracker(self.groups)
        self.model = DumbModel(self.groups)
        self.next = 101
        self.sent: dict[int, list[int]] = {pg: [] for pg in range(self.groups)}
        self.last_vdl = START.lsn

    @rule(
        mtrs=st.lists(
            st.lists(st.integers(0, groups - 1), min_size=1, max_size=5), min_size=1, max_size=4
        ),
        half=st.booleans(),
    )
    def flush(self, mtrs: list[list[int]], half: bool) -> None:
        """One batch of MTRs that touch groups in any order; the last may still lack its CPL."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for number, pgs in enumerate(mtrs):
            for pg in pgs:
                self.model.records.append((self.next, pg))
                first.setdefault(pg, self.next)
                last[pg] = self.next
                self.next += 1
            if not (half and number == len(mtrs) - 1):
                self.model.commits.append(self.next - 1)
                self.points.committed(CommitMark(self.next - 1, 0, 1))
        for pg in sorted(first):
            self.points.sent(pg, first=first[pg], last=last[pg])
            self.sent[pg].append(last[pg])

    @rule(pg=st.integers(0, groups - 1), node=st.sampled_from(NODES), back=st.integers(0, 3))
    def ack(self, pg: int, node: str, back: int) -> None:
        """A segment is complete to the end of some frame, perhaps to less than it was."""
        if self.sent[pg]:
            scl = self.sent[pg][max(0, len(self.sent[pg]) - 1 - back)]
            self.model.ack(pg, node, scl)
            moved = self.points.acked(pg, node, scl)
            assert moved == (self.model.vdl() > self.last_vdl)
            self.last_vdl = self.model.vdl()

    @invariant()
    def points_equal_the_models(self) -> None:
        assert self.points.vcl == self.model.vcl()
        assert self.points.vdl.lsn == self.model.vdl()


TestTrackerAgainstModel = TrackerAgainstModel.TestCase
