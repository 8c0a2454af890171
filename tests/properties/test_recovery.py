"""Recovery's decision over random histories, deliveries, crashes and earlier recoveries.

The model builds what six segments of one to three groups can hold: a writer that sends MTRs, any
part of which reached any segment; VDLs that were true when they were told; old truncations that some
segments missed. It checks G1, G2 and idempotence on the plan alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.errors import QuorumLost, RecoveryBlocked
from engine.types import LAL, CommitMark, Member, Membership, Truncation
from engine.volume.recovery import FencedNode, LsnRun, RecoveryPlan, SegmentReport, plan_recovery

NODES = tuple("ABCDEF")


def membership(pg: int) -> Membership:
    return Membership(pg, 1, tuple(Member(n, "az", "", n) for n in NODES))


@dataclass(frozen=True)
class Rec:
    lsn: int
    prev: int
    prev_pg: int
    pg: int
    cpl: bool


@dataclass
class World:
    """All segments' contents. `acked` is the newest commit that a client was told of."""

    groups: int
    records: list[Rec] = field(default_factory=list)
    ghosts: list[Rec] = field(default_factory=list)
    """Annulled by a recovery, and still held by segments that missed it."""
    latest: tuple[Truncation, ...] = ()
    held: dict[tuple[int, str], set[int]] = field(default_factory=dict)
    known_vdl: dict[tuple[int, str], int] = field(default_factory=dict)
    truncations: dict[str, tuple[Truncation, ...]] = field(default_factory=dict)
    acked: int = 0

    def of(self, pg: int) -> list[Rec]:
        return [r for r in self.records if r.pg == pg]

    def holding(self, pg: int, node: str) -> list[Rec]:
        """What of it counts by the truncations that the node has; a void one gives it back."""
        held = self.held.get((pg, node), set())
        ranges = self.truncations.get(node, ())
        every = sorted(self.records + self.ghosts, key=lambda r: r.lsn)
        mine = [r for r in every if r.pg == pg and r.lsn in held]
        return [r for r in mine if not any(t.low < r.lsn <= t.high for t in ranges)]

    def scl(self, pg: int, node: str) -> int:
        at = 0
        for record in self.holding(pg, node):
            if record.prev_pg == at:
                at = record.lsn
        return at

    def durable(self, upto: int) -> bool:
        """Every record at or below `upto` stands gap-free on four of six."""
        for pg in range(self.groups):
            needed = max((r.lsn for r in self.of(pg) if r.lsn <= upto), default=0)
            if sum(self.scl(pg, node) >= needed for node in NODES) < 4:
                return False
        return True

    def true_vdl(self) -> int:
        return max((r.lsn for r in self.records if r.cpl and self.durable(r.lsn)), default=0)

    def report(self, pg: int, node: str, *, damaged: bool = False) -> SegmentReport:
        vdl = self.known_vdl.get((pg, node), 0)
        mine = self.holding(pg, node)
        runs: list[LsnRun] = []
        for r in mine:
            if r.lsn <= vdl:
                continue
            if runs and runs[-1].last == r.prev == r.lsn - 1:
                runs[-1] = LsnRun(runs[-1].first, r.lsn, runs[-1].prev)
            else:
                runs.append(LsnRun(r.lsn, r.lsn, r.prev))
        scl = self.scl(pg, node)
        tail = max((r.lsn for r in mine if r.lsn <= min(vdl, scl)), default=0)
        below = [r.lsn for r in mine if r.cpl and r.lsn <= vdl][-1:]
        above = [r.lsn for r in mine if r.cpl and r.lsn > vdl]
        return SegmentReport(
            pg=pg,
            incarnation=node,
            epoch=1,
            membership_epoch=1,
            scl=scl,
            known_vdl=vdl,
            tail=tail,
            runs=tuple(runs),
            commits=tuple(CommitMark(lsn, 0, 1) for lsn in below + above),
            damaged=damaged,
        )

    def states(
        self, nodes: tuple[str, ...], damaged: frozenset[str] = frozenset()
    ) -> dict[str, FencedNode]:
        return {
            node: FencedNode(
                {pg: self.report(pg, node, damaged=node in damaged) for pg in range(self.groups)},
                self.truncations.get(node, ()),
            )
            for node in nodes
        }

    def plan(self, nodes: tuple[str, ...], damaged: frozenset[str] = frozenset()) -> RecoveryPlan:
        memberships = [membership(pg) for pg in range(self.groups)]
        return plan_recovery(groups=memberships, states=self.states(nodes, damaged))

    def carry_out(self, plan: RecoveryPlan, epoch: int, nodes: tuple[str, ...]) -> None:
        """Truncate and re-harden on `nodes`, as the driver does."""
        truncation = plan.truncation(epoch)
        self.ghosts += [r for r in self.records if r.lsn > plan.vdl.lsn]
        self.records = [r for r in self.records if r.lsn <= plan.vdl.lsn]
        self.latest = (*plan.truncations, truncation)
        for node in nodes:
            self.truncations[node] = self.latest
            for pg in range(self.groups):
                self.held[pg, node] = {r.lsn for r in self.of(pg)}
        # The others keep all that they had, annulled or not.

    def die_in_recovery(self, plan: RecoveryPlan, epoch: int, nodes: tuple[str, ...]) -> None:
        """Truncate `nodes`, few or many, and go no further."""
        for node in nodes:
            self.truncations[node] = (*plan.truncations, plan.truncation(epoch))

    def catch_up(self, node: str) -> None:
        """A segment that missed recoveries learns their truncations."""
        self.truncations[node] = self.latest
        for pg in range(self.groups):
            self.held.setdefault((pg, node), set()).intersection_update(r.lsn for r in self.of(pg))

    def write(self, data: st.DataObject, first: int, tail: int) -> None:
        """A writer sends a few MTRs; each segment gets any subset; VDL is told here and there."""
        prev = tail
        last_of = {pg: max((r.lsn for r in self.of(pg)), default=0) for pg in range(self.groups)}
        lsn = first
        for _ in range(data.draw(st.integers(1, 4), label="MTRs")):
            pgs = data.draw(st.lists(st.integers(0, self.groups - 1), min_size=1, max_size=4))
            for at, pg in enumerate(pgs):
                self.records.append(Rec(lsn, prev, last_of[pg], pg, at == len(pgs) - 1))
                prev, last_of[pg], lsn = lsn, lsn, lsn + 1
        mine = [r for r in self.records if r.lsn >= first]
        full = data.draw(st.permutations(NODES))[: data.draw(st.integers(0, 4), label="complete")]
        for node in NODES:
            if self.truncations.get(node, ()) != self.latest:
                if data.draw(st.booleans(), label=f"{node} still misses a recovery"):
                    continue
                self.catch_up(node)
            everything = node in full
            for pg in range(self.groups):
                lsns = [r.lsn for r in mine if r.pg == pg]
                mask = -1 if everything else data.draw(st.integers(0, 2 ** len(lsns) - 1))
                got = {lsn for at, lsn in enumerate(lsns) if mask >> at & 1}
                self.held.setdefault((pg, node), set()).update(got)
        vdl = self.true_vdl()
        self.acked = max(self.acked, vdl)
        for node in NODES:
            if self.truncations.get(node, ()) != self.latest:
                continue  # it would take what was annulled for durable
            if data.draw(st.booleans(), label=f"{node} hears of VDL"):
                for pg in range(self.groups):
                    self.known_vdl[pg, node] = max(self.known_vdl.get((pg, node), 0), vdl)


@given(st.data())
def test_recovery_after_recovery_keeps_what_was_acknowledged(data: st.DataObject) -> None:
    world = World(groups=data.draw(st.integers(1, 3), label="groups"))
    first, tail, history, opened = 1, 0, [], True
    for epoch in range(2, 2 + data.draw(st.integers(1, 6), label="recoveries")):
        if opened and data.draw(st.booleans(), label="writes"):
            world.write(data, first, tail)
        opened = False  # whoever was at it is fenced off
        nodes = tuple(
            sorted(data.draw(st.sets(st.sampled_from(NODES), min_size=4), label="fenced"))
        )
        before = {r.lsn for r in world.records}
        ghosts = {r.lsn for r in world.ghosts}
        plan = world.plan(nodes)
        assert plan.vdl.lsn >= world.acked, "an acknowledged commit is lost (G1)"
        assert plan.vdl.lsn not in ghosts, "what never happened came back (G2)"
        assert plan.vdl.lsn in before | {0}
        assert all(r.cpl for r in world.records if r.lsn == plan.vdl.lsn)
        assert history == [h for h in history if h <= plan.vdl.lsn], "history shrank (G2)"
        # Everything at or below VDL can be had from someone who was fenced.
        for record in (r for r in world.records if r.lsn <= plan.vdl.lsn):
            assert any(record.lsn in world.held.get((record.pg, n), set()) for n in nodes)
        for pg, group in plan.groups.items():
            expected = max((r.lsn for r in world.of(pg) if r.lsn <= plan.vdl.lsn), default=0)
            assert group.tail == expected
        if data.draw(st.booleans(), label="dies in it"):
            reached = data.draw(st.sets(st.sampled_from(nodes)), label="truncated")
            world.die_in_recovery(plan, epoch, tuple(sorted(reached)))
            continue
        world.carry_out(plan, epoch, nodes)
        again = world.plan(nodes)
        assert again.vdl == plan.vdl, "not idempotent"
        assert again.vcl == plan.vdl.lsn
        history.append(plan.vdl.lsn)
        world.acked = plan.vdl.lsn  # readers may see it from now on
        first, tail, opened = plan.truncation(epoch).high + 1, plan.vdl.lsn, True


@given(st.data())
def test_fewer_than_three_denials_block(data: st.DataObject) -> None:
    world = World(groups=1)
    world.write(data, 1, 0)
    nodes = tuple(sorted(data.draw(st.sets(st.sampled_from(NODES), min_size=4))))
    damaged = frozenset(data.draw(st.sets(st.sampled_from(nodes))))
    assume(len(nodes) - len(damaged) < 3)
    with pytest.raises(RecoveryBlocked, match=r"LSN \d+"):
        world.plan(nodes, damaged)


@given(st.data())
def test_without_a_write_quorum_nothing_is_decided(data: st.DataObject) -> None:
    world = World(groups=2)
    world.write(data, 1, 0)
    nodes = tuple(sorted(data.draw(st.sets(st.sampled_from(NODES), max_size=3))))
    with pytest.raises(QuorumLost, match="missing"):
        world.plan(nodes)


def test_another_incarnation_neither_counts_nor_denies() -> None:
    world = World(groups=1)
    states = world.states(tuple("ABCD"))
    stranger = membership(0).members[0]
    wiped = Membership(0, 1, (Member("A", "az", "", "another life"), *membership(0).members[1:]))
    assert stranger.incarnation != "another life"
    with pytest.raises(QuorumLost, match="A"):
        plan_recovery(groups=[wiped], states=states)


def test_a_truncation_covers_what_an_idle_epoch_may_have_allotted() -> None:
    """VDL has not moved since the last recovery, so LSNs above that truncation were in use."""
    earlier = Truncation(2, 50, 50 + LAL)
    plan = RecoveryPlan(vcl=50, vdl=CommitMark(50, 0, 1), truncations=(earlier,), groups={})
    assert plan.truncation(3) == Truncation(3, 50, 50 + 2 * LAL)


def test_a_dead_recoverys_truncation_is_void_once_a_later_one_did_not_meet_it() -> None:
    """Epoch 2 truncates A alone and dies. Epoch 3 does not meet A, finds LSN 2 and makes it durable.
    Epoch 4 meets A's list and the others': only the others' is in force."""
    world = World(groups=1)
    world.records = [Rec(1, 0, 0, 0, True), Rec(2, 1, 1, 0, True)]
    world.held = {(0, node): {1} for node in "ABCDE"} | {(0, "F"): {1, 2}}
    dead = world.plan(tuple("ABCD"))
    assert dead.vdl.lsn == 1
    world.die_in_recovery(dead, 2, ("A",))
    second = world.plan(tuple("CDEF"))
    assert second.vdl.lsn == 2
    world.carry_out(second, 3, tuple("CDEF"))
    assert world.plan(tuple("ABCD")).vdl.lsn == 2


def test_what_an_earlier_recovery_annulled_never_comes_back() -> None:
    """F alone holds LSN 2, missed the recovery that annulled it, and is fenced by the next one."""
    world = World(groups=1)
    world.records = [Rec(1, 0, 0, 0, True), Rec(2, 1, 1, 0, True)]
    world.held = {(0, node): {1} for node in "ABCDE"} | {(0, "F"): {1, 2}}
    first = world.plan(tuple("ABCDE"))
    assert first.vdl.lsn == 1
    world.carry_out(first, 2, tuple("ABCDE"))
    second = world.plan(tuple("ABCDEF"))
    assert (second.vcl, second.vdl.lsn) == (1, 1)
