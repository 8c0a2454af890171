"""From a failing run to the shortest that fails alike: the search, and once for real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli.sim import SimOptions, _shrunk
from cluster.faults.catalogue import Fault, Kind
from cluster.sim.disk import _SimAppendFile
from cluster.sim.jobs import runs
from cluster.sim.run import Plan
from cluster.sim.schedule import Task, check
from cluster.sim.shrink import ddmin, shrink
from cluster.sim.swarm import draw
from cluster.sim.workload import Mix


@given(st.sets(st.integers(0, 30)), st.integers(1, 31))
def test_ddmin_keeps_exactly_what_is_needed(needed: set[int], count: int) -> None:
    items = tuple(sorted({*range(count), *needed}))
    asked = []

    def first(candidates: Sequence[tuple[int, ...]]) -> int | None:
        asked.extend(candidates)
        return next((n for n, c in enumerate(candidates) if needed <= set(c)), None)

    assert ddmin(items, first) == tuple(sorted(needed))
    assert all(tuple(sorted(candidate)) == candidate for candidate in asked)


def test_ddmin_when_one_of_two_is_enough_or_both_are_needed() -> None:
    def either(candidates: Sequence[tuple[str, ...]]) -> int | None:
        return next((n for n, c in enumerate(candidates) if {"a", "b"} & set(c)), None)

    assert ddmin(tuple("xaybz"), either) in {("a",), ("b",)}


def fault(n: int, **more: object) -> Fault:
    return replace(Fault(Kind.PAUSE, "main-1", at=n + 0.123, for_s=4.0), **more)  # type: ignore[arg-type]


class Oracle:
    """Fails if all of `needed` happen; counts what it is asked."""

    def __init__(self, *needed: Kind) -> None:
        self.needed = set(needed)
        self.asked = 0

    def __call__(self, plans: Sequence[Plan]) -> int | None:
        self.asked += len(plans)
        for n, plan in enumerate(plans):
            check(plan, "what the search made")
            if self.needed <= {f.kind for f in plan.schedule}:
                return n
        return None


NOISE = tuple(fault(n) for n in range(12))
KILL = Fault(Kind.KILL, "main-3", at=3.217, for_s=2.5, nth=3)
ROT = Fault(Kind.ROT_LOG, "storage-2", at=9.5)


def test_faults_that_do_not_matter_go_and_the_rest_gets_simple() -> None:
    plan = Plan(seed=1, schedule=(*NOISE[:5], KILL, *NOISE[5:], ROT), mix=Mix(clients=6, readers=2))
    oracle = Oracle(Kind.KILL, Kind.ROT_LOG)
    shrunk = shrink(plan, oracle)
    assert not shrunk.gave_up
    assert shrunk.tries == oracle.asked
    assert shrunk.plan.schedule == (replace(KILL, at=3.0, for_s=0.0, nth=1), ROT)
    assert shrunk.plan.mix.clients == 1
    assert len(shrunk.plan.mix.weights) == 1
    assert shrunk.plan.shape.replicas == 2  # main-3 is named
    assert shrunk.plan.safety_s < 0.3 * plan.safety_s


def test_a_run_that_fails_anyway_needs_no_faults() -> None:
    assert shrink(Plan(seed=1, schedule=NOISE), Oracle()).plan.schedule == ()


def test_the_search_is_bounded_and_says_so() -> None:
    plan = Plan(seed=1, schedule=(*NOISE, KILL, ROT))
    oracle = Oracle(Kind.KILL, Kind.ROT_LOG)
    shrunk = shrink(plan, oracle, tries=7)
    assert shrunk.gave_up
    assert oracle.asked == shrunk.tries <= 7
    assert {KILL, ROT} <= set(shrunk.plan.schedule)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_drawn_stays_a_plan_that_can_be_run(seed: int) -> None:
    plan = draw(seed)
    if plan.schedule:
        kind = plan.schedule[-1].kind
        assert {f.kind for f in shrink(plan, Oracle(kind), tries=400).plan.schedule} == {kind}


@pytest.mark.sim
def test_for_real_with_nodes_that_acknowledge_what_is_not_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lie(self: _SimAppendFile, _covered: int, done: object) -> None:
        if not done.done():  # type: ignore[attr-defined]
            done.set_result(None)  # type: ignore[attr-defined]

    monkeypatch.setattr(_SimAppendFile, "_sync", lie)  # children inherit it
    zones = tuple(Fault(Kind.AZ_DOWN, az, at=3.0, for_s=0.5) for az in ("az1", "az2", "az3"))
    noise = (
        Fault(Kind.SLOW_NET, "main-2", at=1.0, for_s=2.0),
        Fault(Kind.CLOCK_SKEW, "main-1", at=2.5, params=(("seconds", 60.0),)),
    )
    mix = Mix(clients=1, think_s=0.02, weights={"append": 1})
    plan = Plan(seed=3, mix=mix, schedule=(*noise, *zones), safety_s=4.0, liveness_s=3.0)
    (outcome,) = runs([Task(plan)], jobs=1)
    # The nodes find that their logs are damaged, so no recovery dares to go on: nothing is served.
    assert "liveness/no-write" in outcome.kinds
    shrunk = _shrunk(outcome, "liveness/no-write", SimOptions(tries=16, jobs=2))
    assert shrunk.plan.schedule
    assert {f.kind for f in shrunk.plan.schedule} == {Kind.AZ_DOWN}
    (again,) = runs([Task(shrunk.plan)], jobs=1)
    assert "liveness/no-write" in again.kinds
